//! Fail points over HTTP, as gofail offers them, in builds with debug assertions: `GOFAIL_HTTP=127.0.0.1:22381` says
//! where. On a thread and a runtime of its own, so that it answers while a fail point keeps the server's threads.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `name=terms` for each point, one a line |
//! | `GET /name`, `GET /name/count` | its terms; how often it was met since it was armed |
//! | `PUT /name`, body `terms` | 204; 400 if they cannot be read |
//! | `DELETE /name` | 204 |
//!
//! An unknown name is a 404. [`kelson_storage::fail_point`](mod@kelson_storage::fail_point) lists the names and the terms.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kelson_storage::fail_point::{self, POINTS, Refused};
use tokio::net::TcpListener;

/// Names the address to listen at.
const ADDRESS: &str = "GOFAIL_HTTP";
/// Longest terms that are read.
const TERMS_BYTES_MAX: usize = 4096;

/// Arms what the environment names, and listens if it says so. The error is for the log; the process must end.
///
/// # Errors
/// The environment cannot be read, or the address not be bound.
pub fn start() -> Result<(), String> {
    fail_point::arm_from_environment().map_err(|refused| refused.to_string())?;
    let Ok(address) = std::env::var(ADDRESS) else {
        return Ok(());
    };
    let address: SocketAddr = address
        .parse()
        .map_err(|error| format!("{ADDRESS}={address}: {error}"))?;
    let listener = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| format!("{ADDRESS}={address}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let serving = move || {
        if let Err(error) = runtime.block_on(serve(listener)) {
            tracing::warn!(%error, "fail points cannot be reached any more");
        }
    };
    std::thread::Builder::new()
        .name("gofail".to_owned())
        .spawn(serving)
        .map(drop)
        .map_err(|error| error.to_string())
}

async fn serve(listener: std::net::TcpListener) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        // One client at a time is enough. One that hangs up has had its answer or does not want it.
        let _ = connection.await;
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let name = parts.uri.path().trim_start_matches('/').to_owned();
    let terms = match Limited::new(body, TERMS_BYTES_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => return Ok(reply(StatusCode::BAD_REQUEST, error.to_string())),
    };
    Ok(act(&parts.method, &name, terms.trim()).unwrap_or_else(|refused| {
        let status = match refused {
            Refused::Unknown => StatusCode::NOT_FOUND,
            Refused::Terms => StatusCode::BAD_REQUEST,
        };
        reply(status, refused.to_string())
    }))
}

fn act(method: &Method, name: &str, terms: &str) -> Result<Response<Full<Bytes>>, Refused> {
    let done = || reply(StatusCode::NO_CONTENT, String::new());
    Ok(match *method {
        Method::GET if name.is_empty() => reply(StatusCode::OK, list()?),
        Method::GET => match name.strip_suffix("/count") {
            Some(name) => reply(StatusCode::OK, fail_point::hits(name)?.to_string()),
            None => match fail_point::armed(name)? {
                Some(terms) => reply(StatusCode::OK, format!("{terms}\n")),
                None => reply(
                    StatusCode::NOT_FOUND,
                    "failpoint: failpoint is disabled".to_owned(),
                ),
            },
        },
        Method::PUT | Method::POST => {
            fail_point::arm(name, terms)?;
            done()
        }
        Method::DELETE => {
            fail_point::disarm(name)?;
            done()
        }
        _ => reply(StatusCode::METHOD_NOT_ALLOWED, String::new()),
    })
}

fn list() -> Result<String, Refused> {
    POINTS
        .iter()
        .map(|(name, _)| {
            let terms = fail_point::armed(name)?.unwrap_or_default();
            Ok(format!("{name}={terms}\n"))
        })
        .collect()
}

fn reply(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
