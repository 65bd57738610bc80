//! The gRPC health check (`grpc.health.v1.Health/Check`), by hand: one request with one short message.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::action::{Outcome, dial_error};

const MAX_BODY: usize = 64 << 10;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u8 = 1;

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("{}", dial_error(*to, source))]
    Dial { to: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error("answer is too long or cut off")]
    Body,
    #[error("rpc error: code = {0}")]
    Code(String),
}

/// Asks once.
pub(super) async fn check(to: SocketAddr, service: &str, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, ask(to, service)).await {
        Ok(Ok(Some(SERVING))) => Outcome { success: true, output: "service healthy".to_owned() },
        Ok(Ok(_)) => Outcome::failed("service unhealthy (responded with \"NOT_SERVING\")"),
        Ok(Err(error)) => Outcome::failed(format!("error: this server does not serve health checks: {error}")),
        Err(_) => Outcome::failed(format!("timeout: failed to connect service \"{to}\" within {}s", timeout.as_secs())),
    }
}

async fn ask(to: SocketAddr, service: &str) -> Result<Option<u8>, CheckError> {
    let stream = TcpStream::connect(to).await.map_err(|source| CheckError::Dial { to, source })?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request_body(service)))?;
    let answer = sender.send_request(request).await;
    let result = match answer {
        Ok(answer) => read(answer).await,
        Err(error) => Err(error.into()),
    };
    connection.abort();
    result
}

async fn read(answer: http::Response<hyper::body::Incoming>) -> Result<Option<u8>, CheckError> {
    let code = |headers: &http::HeaderMap| {
        let status = headers.get("grpc-status").and_then(|v| v.to_str().ok()).unwrap_or("0");
        if status == "0" { Ok(()) } else { Err(CheckError::Code(status.to_owned())) }
    };
    code(answer.headers())?;
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(|_| CheckError::Body)?;
    if let Some(trailers) = body.trailers() {
        code(trailers)?;
    }
    Ok(status(&body.to_bytes()))
}

/// A gRPC frame around `HealthCheckRequest { service = 1 }`.
fn request_body(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// `HealthCheckResponse.status`; an absent field is UNKNOWN.
fn status(frame: &[u8]) -> Option<u8> {
    match frame.get(5..)? {
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_the_protocol() {
        assert_eq!(request_body("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request_body("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), None);
    }
}
