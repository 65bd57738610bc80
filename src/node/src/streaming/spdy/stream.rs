//! One stream of a SPDY connection: headers, a reading half and a writing half.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::PollSender;

use super::frame::{Frame, Reset};
use super::header::Headers;
use super::session::{Outgoing, Shared};

const LONGEST: usize = 32 << 10;
/// Bytes read before they are granted anew.
const GRANT: u32 = 32 << 10;

pub(super) enum Chunk {
    /// Counts as unread for as long as the permit is held.
    Data(Bytes, OwnedSemaphorePermit),
    Reset,
}

pub(crate) struct Stream {
    pub(crate) headers: Headers,
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

impl Stream {
    pub(super) fn new(id: u32, headers: Headers, chunks: mpsc::UnboundedReceiver<Chunk>, shared: &Arc<Shared>) -> Self {
        let sender = PollSender::new(shared.out.clone());
        Self {
            headers,
            reader: StreamReader { id, chunks, current: None, consumed: 0, shared: shared.clone() },
            writer: StreamWriter { id, sender, shared: shared.clone(), finished: false },
        }
    }
}

/// What the client sends. Ends when the client ends its side.
pub(crate) struct StreamReader {
    id: u32,
    chunks: mpsc::UnboundedReceiver<Chunk>,
    current: Option<(Bytes, OwnedSemaphorePermit)>,
    /// Bytes not granted to the client again yet.
    consumed: u32,
    shared: Arc<Shared>,
}

impl AsyncRead for StreamReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some((data, _)) = &mut self.current {
                let taken = data.len().min(buf.remaining());
                buf.put_slice(&data[..taken]);
                data.advance(taken);
                if data.is_empty() {
                    self.current = None;
                }
                self.grant(taken);
                return Poll::Ready(Ok(()));
            }
            match ready!(self.chunks.poll_recv(cx)) {
                Some(Chunk::Data(data, permit)) => self.current = Some((data, permit)),
                Some(Chunk::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl StreamReader {
    /// Lets the client send as much again, now and then. When the queue is full, a later read does it.
    fn grant(&mut self, taken: usize) {
        self.consumed = self.consumed.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        if self.consumed < GRANT {
            return;
        }
        let update = |id| Outgoing::Frame(Frame::WindowUpdate { id, delta: self.consumed });
        let Ok(mut room) = self.shared.out.try_reserve_many(2) else { return };
        for id in [self.id, 0] {
            if let Some(slot) = room.next() {
                slot.send(update(id));
            }
        }
        drop(room);
        self.consumed = 0;
    }
}

/// What goes to the client. Shutting it down ends this side of the stream; so does dropping it.
pub(crate) struct StreamWriter {
    id: u32,
    sender: PollSender<Outgoing>,
    shared: Arc<Shared>,
    finished: bool,
}

impl StreamWriter {
    /// Breaks the stream off, both ways.
    pub(crate) async fn reset(mut self) {
        self.finished = true;
        let reset = Frame::RstStream { id: self.id, status: Reset::Cancel as u32 };
        if self.shared.out.send(Outgoing::Frame(reset)).await.is_err() {
            tracing::trace!("spdy connection is closed already");
        }
        self.shared.finish(self.id);
    }
}

fn gone<T>(_: T) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncWrite for StreamWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(gone(())));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let id = self.id;
        // The place in the queue comes first: room that is seen now must still be there when it is used.
        ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
        let room = self.shared.windows().poll_room(id, cx);
        let room = match room {
            Poll::Ready(Some(room)) => room,
            Poll::Ready(None) => return Poll::Ready(Err(gone(()))),
            Poll::Pending => {
                self.sender.abort_send();
                return Poll::Pending;
            }
        };
        let taken = data.len().min(LONGEST).min(room);
        self.shared.windows().take(id, taken);
        let payload = Bytes::copy_from_slice(&data[..taken]);
        self.sender.send_item(Outgoing::Data { id, fin: false, payload }).map_err(gone)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
            let id = self.id;
            self.sender.send_item(Outgoing::Data { id, fin: true, payload: Bytes::new() }).map_err(gone)?;
            self.finished = true;
            self.shared.finish(id);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Only a client that reads nothing has a full queue; it is told when the connection ends.
            self.sender.abort_send();
            let end = Outgoing::Data { id: self.id, fin: true, payload: Bytes::new() };
            if self.shared.out.try_send(end).is_err() {
                tracing::trace!(id = self.id, "end of a spdy stream is not told");
            }
            self.shared.finish(self.id);
        }
    }
}
