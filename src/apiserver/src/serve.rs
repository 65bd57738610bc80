//! The listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2 on one port, upgrades, graceful drain.
//! A connection has a task of its own, and is given up when it does nothing (`connection`). At the end the other servers'
//! connections go last, since the store still needs them when requests are over.

use std::{net::SocketAddr, pin::Pin, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{
    authn::{User, certificate, user::SERVERS},
    body::request_body,
    connection::{Activity, Admitted, Running},
    handler::{self, Origin},
    limits::Permit,
    server::Inner,
};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors), rather than spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const STREAMS: u32 = 1000;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const HTTP2: &[u8] = b"h2";

/// Accepts until the port is given up. Connections go on in tasks of their own.
pub(crate) async fn accept(inner: &Arc<Inner>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = inner.closed.cancelled() => return,
            accepted = accept_one(inner, &listener) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                tokio::spawn(serve(inner.clone(), stream, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_one(inner: &Inner, listener: &TcpListener) -> std::io::Result<(TcpStream, Option<Permit>)> {
    let permit = inner.room.for_connection().await;
    Ok((listener.accept().await?.0, permit))
}

/// Serves one connection to its end.
pub(crate) async fn connection(inner: Arc<Inner>, stream: TcpStream) {
    let permit = inner.room.for_connection().await;
    serve(inner, stream, permit).await;
}

async fn serve(inner: Arc<Inner>, stream: TcpStream, permit: Option<Permit>) {
    // Who it is, and thus how long it is waited for, is known after the handshake.
    let waited_for = inner.tasks.token();
    let peer = stream.peer_addr().ok();
    let Some(tls) = handshake(&inner, stream, permit).await else { return };
    let session = tls.get_ref().1;
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = leaf.and_then(certificate::user_of).map(Arc::new);
    let http2 = session.alpn_protocol() == Some(HTTP2);
    let of_server = certificate.as_ref().is_some_and(|user: &Arc<User>| user.in_group(SERVERS));
    let (end, tracker) = if of_server { (&inner.closed, &inner.ports) } else { (&inner.stop, &inner.tasks) };
    let counted = tracker.token();
    drop(waited_for);
    if end.is_cancelled() {
        return;
    }
    inner.metrics.connections.inc();
    http(&inner, TokioIo::new(tls), http2, peer, certificate, end).await;
    inner.metrics.connections.dec();
    drop(counted);
}

async fn handshake(inner: &Inner, stream: TcpStream, permit: Option<Permit>) -> Option<TlsStream<Admitted>> {
    let peer = stream.peer_addr().ok();
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "cannot set options of a connection");
    }
    match tokio::time::timeout(HANDSHAKE, inner.tls.accept(Admitted::new(stream, permit))).await {
        Ok(Ok(tls)) => return Some(tls),
        Ok(Err(error)) => tracing::debug!(?peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(?peer, "TLS handshake took too long"),
    }
    None
}

/// No delays; and peers that vanish without a word, tunnels of dead machines among them, are given up after a minute.
fn tune(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::TcpNoDelay, &true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &15)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)
}

async fn http<I>(
    inner: &Arc<Inner>,
    io: I,
    http2: bool,
    peer: Option<SocketAddr>,
    certificate: Option<Arc<User>>,
    end: &CancellationToken,
) where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let (counted, serving) = (activity.clone(), inner.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let origin = Origin { peer, certificate: certificate.clone(), fixed: None };
        let (inner, running) = (serving.clone(), Running::new(counted.clone()));
        async move {
            let response = handler::handle(inner, origin, request.map(request_body)).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| running.of(body)))
        }
    });
    let ended = if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(15));
        drive(inner, end, &activity, builder.serve_connection(io, service), http2::Connection::graceful_shutdown).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).half_close(true).header_read_timeout(inner.room.idle);
        let connection = builder.serve_connection(io, service).with_upgrades();
        drive(inner, end, &activity, connection, http1::UpgradeableConnection::graceful_shutdown).await
    };
    if let Err(error) = ended {
        tracing::trace!(?peer, %error, "connection ended");
    }
}

/// Runs a connection to its end. One that does nothing is asked to end, and dropped when it does not.
async fn drive<C>(
    inner: &Inner,
    end: &CancellationToken,
    activity: &Activity,
    connection: C,
    ask_to_end: impl Fn(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut connection = pin!(connection);
    let mut asked = false;
    loop {
        let requests = activity.requests();
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = end.cancelled(), if !asked => {}
            () = tokio::time::sleep(inner.room.idle) => match (activity.idle_since(requests), asked) {
                (true, true) => return Ok(()),
                (true, false) => {}
                (false, _) => continue,
            },
        }
        asked = true;
        ask_to_end(connection.as_mut());
    }
}
