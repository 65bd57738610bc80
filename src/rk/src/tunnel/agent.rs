//! The agent's end: answers every stream the server opens.

use super::{multiplexing, pulse, relief};
use std::future::poll_fn;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// Hands each stream to `handle` until the connection ends, or the server is silent for too long.
pub(crate) async fn accept(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send,
    mut handle: impl FnMut(Compat<yamux::Stream>) + Send,
) -> Result<(), yamux::ConnectionError> {
    let (connection, mut pulse) = pulse::listen(connection.compat());
    let (connection, relief) = relief::relieve(connection);
    let mut connection = yamux::Connection::new(connection, multiplexing(), yamux::Mode::Server);
    loop {
        let next = poll_fn(|context| {
            loop {
                match connection.poll_next_inbound(context) {
                    Poll::Pending if relief.is_given() => {}
                    Poll::Pending => return pulse.poll_lost(context).map(|silent| Some(Err(silent.into()))),
                    ready => return ready,
                }
            }
        });
        match next.await {
            Some(stream) => handle(stream?.compat()),
            None => return Ok(()),
        }
    }
}
