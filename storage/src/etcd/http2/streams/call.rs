//! A call's two ends, for the task that works for it: what the client sends, and the answer that it is owed.

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::super::super::grpc::Gone;
use super::super::super::limits::STREAM_WINDOW;
use super::super::super::status::Status;
use super::super::frame::{self, Reason};
use super::{Shared, Streams};

/// What a client sends on one stream.
pub(in crate::etcd) struct Body {
    streams: Shared,
    id: u32,
}

impl Body {
    /// Takes what has come in; nothing at the end.
    pub(in crate::etcd) fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Result<BytesMut, Gone>>> {
        let id = self.id;
        self.streams.tell(|streams| {
            let Some(stream) = streams.open.get_mut(&id).filter(|stream| !stream.reset) else {
                return Poll::Ready(Some(Err(Gone)));
            };
            if stream.body.is_empty() {
                if stream.ended {
                    return Poll::Ready(None);
                }
                stream.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let piece = std::mem::take(&mut stream.body);
            stream.taken += u32::try_from(piece.len()).unwrap_or(u32::MAX);
            if !stream.ended && stream.taken >= STREAM_WINDOW / 2 {
                let taken = std::mem::take(&mut stream.taken);
                stream.credit += taken;
                frame::number(&mut streams.out, frame::WINDOW_UPDATE, id, taken);
            }
            Poll::Ready(Some(Ok(piece)))
        })
    }
}

/// The answer that a call owes; it is broken off when this is dropped before.
pub(in crate::etcd) struct Respond {
    streams: Shared,
    id: u32,
}

impl Shared {
    /// Does something to a stream from another task than the connection's, which then sends what there is.
    pub(super) fn tell<R>(&self, what: impl FnOnce(&mut Streams) -> R) -> R {
        let (done, connection) = {
            let mut streams = self.lock();
            let before = streams.out.len();
            let done = what(&mut streams);
            let told = streams.out.len() != before;
            streams.told |= told;
            (done, if told { streams.connection.take() } else { None })
        };
        connection.into_iter().for_each(Waker::wake);
        done
    }

    /// For a call that another task works for.
    pub(in crate::etcd) fn call(&self, id: u32) -> (Body, Respond) {
        (Body { streams: self.clone(), id }, Respond { streams: self.clone(), id })
    }
}

impl Respond {
    pub(in crate::etcd) fn answer(self, message: &impl Message) {
        self.streams.tell(|streams| streams.answer(self.id, message));
    }

    pub(in crate::etcd) fn refuse(self, status: &Status) {
        self.streams.tell(|streams| streams.refuse(self.id, status));
    }

    /// Begins an answer of several pieces.
    pub(in crate::etcd) fn begin(&self) -> Result<(), Gone> {
        self.streams.tell(|streams| {
            streams.answerable(self.id).ok_or(Gone)?;
            streams.head(self.id);
            Ok(())
        })
    }

    /// Sends a piece, or what there is room for.
    pub(in crate::etcd) fn poll_send(&self, cx: &Context<'_>, piece: &mut Bytes) -> Poll<Result<(), Gone>> {
        self.streams.tell(|streams| {
            let crowded = streams.is_full();
            if !crowded {
                streams.answerable(self.id).ok_or(Gone)?;
                streams.put(self.id, piece);
                if piece.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            streams.crowded |= crowded;
            streams.wait(self.id, cx).map(Err)
        })
    }

    /// Waits until the client gives the call up.
    pub(in crate::etcd) fn poll_gone(&self, cx: &Context<'_>) -> Poll<Gone> {
        self.streams.lock().wait(self.id, cx)
    }

    pub(in crate::etcd) fn finish(self, status: &Status) {
        self.streams.tell(|streams| {
            if streams.answerable(self.id).is_some() {
                streams.end(self.id, status);
            }
        });
    }
}

impl Drop for Respond {
    fn drop(&mut self) {
        self.streams.tell(|streams| {
            // An answer that only waits for a window is done for.
            if streams.open.get(&self.id).is_some_and(|stream| stream.left.is_none())
                && streams.open.remove(&self.id).is_some_and(|stream| !stream.reset)
            {
                streams.reset(self.id, Reason::Internal);
            }
        });
    }
}

impl Streams {
    /// Has a call's task woken when it may send more, or has lost its client.
    fn wait(&mut self, id: u32, cx: &Context<'_>) -> Poll<Gone> {
        let Some(stream) = self.open.get_mut(&id).filter(|stream| !stream.reset) else { return Poll::Ready(Gone) };
        stream.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}
