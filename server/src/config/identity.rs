//! Member and cluster ids, derived as etcd derives them, so that the same flags give the same ids on every member
//! and in every runbook.

use sha1::{Digest, Sha1};

use super::urls::Url;

/// The id of a founding member: SHA-1 over its sorted peer URLs and the cluster token, first eight bytes.
pub fn member_id(peer_urls: &[Url], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    first_eight(hash)
}

/// The id of the cluster that `members` found: SHA-1 over their ascending ids, first eight bytes.
pub fn cluster_id(members: &[u64]) -> u64 {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for id in members {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest: [u8; 20] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &str) -> Vec<Url> {
        Url::parse_list(list).expect("valid")
    }

    #[test]
    fn the_default_single_member_has_etcds_well_known_ids() {
        let member = member_id(&urls("http://localhost:2380"), "etcd-cluster");
        assert_eq!(format!("{member:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[member])), "cdf818194e3a8c32");
    }

    #[test]
    fn three_members_have_the_ids_etcd_gives_them() {
        // As printed by etcd 3.4 for `--initial-cluster a=http://127.0.0.1:12380,b=http://127.0.0.1:22380,
        // c=http://127.0.0.1:32380 --initial-cluster-token etcd-cluster-1`.
        let ids: Vec<u64> = ["12380", "22380", "32380"]
            .iter()
            .map(|port| member_id(&urls(&format!("http://127.0.0.1:{port}")), "etcd-cluster-1"))
            .collect();
        let hex: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
        assert_eq!(hex, ["8211f1d0f64f3269", "91bc3c398fb3c146", "fd422379fda50e48"]);
        assert_eq!(format!("{:x}", cluster_id(&ids)), "ef37ad9dc622a7c4");
    }

    #[test]
    fn order_of_urls_and_members_does_not_matter() {
        let one = urls("http://a:1,http://b:2");
        let other = [one[1].clone(), one[0].clone()];
        assert_eq!(member_id(&one, "t"), member_id(&other, "t"));
        assert_eq!(cluster_id(&[1, 2, 3]), cluster_id(&[3, 1, 2]));
    }
}
