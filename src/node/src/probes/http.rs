//! The HTTP client of probes and hooks: one GET per connection, certificates unchecked as the API promises.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::action::{Outcome, dial_error};

const MAX_BODY: usize = 10 << 10;

/// What to get.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) to: SocketAddr,
    pub(crate) path: String,
    pub(crate) tls: bool,
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
enum GetError {
    #[error("{}", dial_error(*to, source))]
    Dial { to: SocketAddr, source: std::io::Error },
    #[error("tls: {0}")]
    Tls(std::io::Error),
    #[error("no TLS provider: {0}")]
    Provider(#[from] rustls::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
}

impl Request {
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let slash = if self.path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{}{slash}{}", self.to, self.path)
    }
}

/// Gets once; any answer from 200 to 399 is success.
pub(super) async fn get(request: &Request, timeout: Duration) -> Outcome {
    let url = request.url();
    match tokio::time::timeout(timeout, exchange(request)).await {
        Ok(Ok((status, body))) if (200..400).contains(&status) => Outcome { success: true, output: body },
        Ok(Ok((status, _))) => Outcome::failed(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(error)) => Outcome::failed(format!("Get \"{url}\": {error}")),
        Err(_) => Outcome::failed(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn exchange(request: &Request) -> Result<(u16, String), GetError> {
    let to = request.to;
    let stream = TcpStream::connect(to).await.map_err(|source| GetError::Dial { to, source })?;
    if request.tls {
        let name = ServerName::from(to.ip());
        let stream = TlsConnector::from(Arc::new(client::tls::unverified()?))
            .connect(name, stream)
            .await
            .map_err(GetError::Tls)?;
        send(request, stream).await
    } else {
        send(request, stream).await
    }
}

async fn send(
    request: &Request,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(u16, String), GetError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with its task; both end with this future.
    let connection = AbortOnDrop(tokio::spawn(connection));
    let slash = if request.path.starts_with('/') { "" } else { "/" };
    let mut builder = http::Request::get(format!("{slash}{}", request.path));
    let named = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, default) in
        [("host", request.to.to_string()), ("user-agent", "kube-probe/1.36".to_owned()), ("accept", "*/*".to_owned())]
    {
        if !named(name) {
            builder = builder.header(name, default);
        }
    }
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let answer = sender.send_request(builder.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
    let body = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    drop(connection);
    Ok((status, body))
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn serve(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        to
    }

    fn request(to: SocketAddr) -> Request {
        Request { to, path: "healthz".into(), tls: false, headers: vec![("X-A".into(), "b".into())] }
    }

    #[tokio::test]
    async fn the_status_decides() {
        let to = serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let outcome = get(&request(to), Duration::from_secs(5)).await;
        assert_eq!(outcome, Outcome { success: true, output: "ok".into() });
        let to = serve("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
        let outcome = get(&request(to), Duration::from_secs(5)).await;
        assert_eq!(outcome, Outcome::failed("HTTP probe failed with statuscode: 503"));
    }

    #[tokio::test]
    async fn nobody_listening_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let outcome = get(&request(to), Duration::from_secs(5)).await;
        assert_eq!(outcome.output, format!("Get \"http://{to}/healthz\": dial tcp {to}: connect: connection refused"));
    }
}
