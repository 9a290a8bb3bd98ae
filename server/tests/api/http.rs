//! The plain HTTP endpoints that share the client port.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, in_time};

/// Status code, head and body of one HTTP/1.1 exchange.
pub async fn exchange(cluster: &Cluster, member: usize, method: &str, path: &str) -> (u16, String, String) {
    let endpoint = cluster.endpoint(member);
    let mut stream = TcpStream::connect(endpoint).await.expect("the port is open");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the connection is open");
    let mut reply = String::new();
    in_time("the reply", stream.read_to_string(&mut reply))
        .await
        .expect("a reply in text");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    let code = head
        .split(' ')
        .nth(1)
        .expect("a status line")
        .parse()
        .expect("a status code");
    (code, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn version_names_server_cluster_and_storage() {
    let cluster = Cluster::single().await;
    let (code, head, body) = exchange(&cluster, 0, "GET", "/version").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    for field in ["\"etcdserver\":\"3.", "\"etcdcluster\":\"", "\"storage\":\""] {
        assert!(body.contains(field), "{body}");
    }
}

#[tokio::test]
async fn health_is_true_in_words() {
    let cluster = Cluster::single().await;
    for path in ["/health", "/health?serializable=true"] {
        let (code, _, body) = exchange(&cluster, 0, "GET", path).await;
        assert_eq!(
            (code, body.trim()),
            (200, "{\"health\":\"true\",\"reason\":\"\"}"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn probes_answer_ok() {
    let cluster = Cluster::single().await;
    for path in [
        "/livez",
        "/readyz",
        "/livez/serializable_read",
        "/readyz/linearizable_read",
    ] {
        let (code, _, body) = exchange(&cluster, 0, "GET", path).await;
        assert_eq!((code, body.trim()), (200, "ok"), "{path}");
    }
    let (code, _, _) = exchange(&cluster, 0, "GET", "/readyz/nonsense").await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let cluster = Cluster::single().await;
    for path in ["/health", "/version"] {
        let (code, head, _) = exchange(&cluster, 0, "POST", path).await;
        assert_eq!(code, 405, "{path}");
        assert!(head.contains("allow: get"), "{head}");
    }
}

#[tokio::test]
async fn metrics_are_in_the_text_format_and_tell_of_the_leader() {
    let cluster = Cluster::single().await;
    let (code, head, body) = exchange(&cluster, 0, "GET", "/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain"), "{head}");
    assert!(body.contains("\netcd_server_has_leader 1\n"));
    assert!(body.contains("\netcd_server_is_leader 1\n"));
}

#[tokio::test]
async fn garbage_does_not_harm_the_others() {
    let cluster = Cluster::single().await;
    let client = cluster.client(0);
    client.put("k", "v").await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\0\0",
        b"NONSENSE\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(cluster.endpoint(0))
            .await
            .expect("the port is open");
        stream.write_all(garbage).await.expect("the connection is open");
        drop(stream);
        assert!(client.get("k").await.is_some());
    }
    let (code, _, _) = exchange(&cluster, 0, "POST", "/etcdserverpb.KV/Range").await;
    assert!((400..500).contains(&code), "{code}");
}

#[tokio::test]
async fn a_url_as_authority_is_let_in() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const STATUS_200: u8 = 0x88;
    // An empty message, last of stream 1.
    const DATA: &[u8] = &[0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    let cluster = Cluster::single().await;
    // Clients of etcd 3.4 send what they were given as endpoint. Method and scheme are entries of the static table.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x44][..], "/etcdserverpb.Maintenance/Status"),
        (&[0x41], &format!("http://{}", cluster.endpoint(0))),
        (b"\x40\x0ccontent-type", "application/grpc"),
        (b"\x40\x02te", "trailers"),
    ] {
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("short"));
        block.extend(value.as_bytes());
    }
    let mut request = [PREFACE, SETTINGS].concat();
    request.extend([0, 0, u8::try_from(block.len()).expect("short"), 1, 4, 0, 0, 0, 1]);
    request.extend(block);
    request.extend(DATA);
    let mut stream = TcpStream::connect(cluster.endpoint(0))
        .await
        .expect("the port is open");
    stream.write_all(&request).await.expect("the connection is open");
    loop {
        let mut header = [0; 9];
        in_time("a frame", stream.read_exact(&mut header))
            .await
            .expect("the connection is open");
        let [high, middle, low, kind, ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        in_time("its payload", stream.read_exact(&mut payload))
            .await
            .expect("the connection is open");
        match kind {
            // The reply's headers, of which the first is an entry of the static table.
            1 => {
                assert_eq!(payload.first(), Some(&STATUS_200));
                return;
            }
            3 => panic!("the stream was reset: {payload:?}"),
            7 => panic!("the connection was refused: {payload:?}"),
            _ => {}
        }
    }
}
