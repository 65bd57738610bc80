//! A byte stream inside a WebSocket: the binary messages, end to end. kubectl's port-forward sends SPDY through it.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_util::task::AbortOnDropHandle;

use super::websocket::{self, Message, Messages, Outgoing, Sender, close};

const BUFFER: usize = 64 << 10;

/// The tunnel's inner end, and the tasks that carry it; dropping these cuts it.
pub(crate) struct Tunnel {
    pub(crate) inner: DuplexStream,
    pub(crate) carrier: AbortOnDropHandle<()>,
}

pub(crate) fn open<I>(io: I) -> Tunnel
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let (messages, sender, writer) = websocket::open(io);
    let writer = AbortOnDropHandle::new(writer);
    let (inner, outer) = tokio::io::duplex(BUFFER);
    let (from_inner, to_inner) = tokio::io::split(outer);
    let carrier = tokio::spawn(async move {
        let outward = async {
            if let Err(error) = pack(from_inner, &sender).await {
                tracing::debug!(%error, "websocket tunnel broke off");
            }
        };
        // The client may still be told something after it has said its last.
        tokio::join!(unpack(messages, to_inner), outward);
        drop(writer);
    });
    Tunnel { inner, carrier: AbortOnDropHandle::new(carrier) }
}

async fn unpack<I: AsyncRead + AsyncWrite>(mut messages: Messages<I>, mut inner: impl AsyncWrite + Unpin) {
    while let Some(message) = messages.next().await {
        let (Message::Binary(data) | Message::Text(data)) = message;
        if inner.write_all(&data).await.is_err() {
            break;
        }
    }
    if inner.shutdown().await.is_err() {
        tracing::trace!("inner end of a websocket tunnel is closed already");
    }
}

async fn pack(mut inner: impl AsyncRead + Unpin, sender: &Sender) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while inner.read_buf(&mut buffer).await? > 0 {
        let data: Bytes = buffer.split().freeze();
        sender.send(Outgoing::Data(Message::Binary(data))).await.map_err(gone)?;
        buffer.reserve(BUFFER / 2);
    }
    sender.send(Outgoing::Close(close::NORMAL)).await.map_err(gone)
}
