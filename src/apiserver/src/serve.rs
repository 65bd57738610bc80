//! The listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2 on one port, upgrades, graceful drain.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    authn::{User, certificate},
    body::request_body,
    handler::{self, Origin},
    server::Inner,
};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors), rather than spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const STREAMS: u32 = 1000;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Accepts until the server stops. Connections go on in tasks of their own.
pub(crate) async fn accept(inner: &Arc<Inner>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = inner.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                inner.tasks.spawn(connection(inner.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn connection(inner: Arc<Inner>, stream: TcpStream) {
    let peer = stream.peer_addr().ok();
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "cannot set options of a connection");
    }
    let tls = match tokio::time::timeout(HANDSHAKE, inner.tls.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(?peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(?peer, "TLS handshake took too long"),
    };
    let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.and_then(certificate::user_of).map(Arc::new);
    inner.metrics.connections.inc();
    http(&inner, TokioIo::new(tls), peer, certificate).await;
    inner.metrics.connections.dec();
}

/// No delays; and peers that vanish without a word, tunnels of dead machines among them, are given up after a minute.
fn tune(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::TcpNoDelay, &true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &15)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)
}

async fn http<I>(inner: &Arc<Inner>, io: I, peer: Option<SocketAddr>, certificate: Option<Arc<User>>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let origin = Origin { peer, certificate: certificate.clone(), fixed: None };
        let inner = inner.clone();
        async move { Ok::<_, std::convert::Infallible>(handler::handle(inner, origin, request.map(request_body)).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = inner.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(?peer, error, "connection ended");
    }
}
