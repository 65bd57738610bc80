//! `CONNECT address:port`: a TCP connection as seen from this node's network, for the API server's proxies to pods and
//! services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Api;
use super::answer::{self, Body};

const CONNECT: Duration = Duration::from_secs(10);

pub(super) async fn relay(api: &Arc<Api>, target: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let mut stream = match tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return answer::text(StatusCode::BAD_GATEWAY, format!("dial tcp {target}: {error}")),
        Err(_) => return answer::text(StatusCode::GATEWAY_TIMEOUT, format!("dial tcp {target}: i/o timeout")),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "relayed connection keeps its delay");
    }
    let upgraded = hyper::upgrade::on(request);
    api.spawn(async move {
        let copied = match upgraded.await {
            Ok(io) => tokio::io::copy_bidirectional(&mut TokioIo::new(io), &mut stream).await,
            Err(error) => return tracing::debug!(%error, "connection was not upgraded"),
        };
        if let Err(error) = copied {
            tracing::debug!(%target, %error, "relayed connection broke off");
        }
    });
    Response::new(answer::full(""))
}
