//! The agent's end: answers every stream the server opens.

use super::multiplexing;
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

/// Hands each stream to `handle` until the connection ends.
pub(crate) async fn accept(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send,
    mut handle: impl FnMut(super::server::Stream) + Send,
) -> Result<(), yamux::ConnectionError> {
    let mut connection = yamux::Connection::new(connection.compat(), multiplexing(), yamux::Mode::Server);
    while let Some(stream) = poll_fn(|context| connection.poll_next_inbound(context)).await {
        handle(stream?.compat());
    }
    Ok(())
}
