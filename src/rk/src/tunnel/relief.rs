//! Keeps both ends of a tunnel reading while both have much to write.
//!
//! yamux answers a ping before it reads on, and the answer waits for its turn to be written. When the connection is
//! full in both directions and either end has just been pinged, each end waits for the other to read, for ever. So
//! where yamux was polled, could not write and did not read, a little is taken off it and held here: what is under
//! way, and the answer. Then it reads again. Both ends of [`super`] use this.

use futures::{AsyncRead, AsyncWrite};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

/// Taken at a time: more than a frame (16 KiB), a ping and its answer.
const ROOM: usize = 64 << 10;

#[derive(Default)]
struct Shared {
    /// Since the owner last looked, yamux has tried to read; could not write.
    read: AtomicBool,
    blocked: AtomicBool,
    room: AtomicUsize,
}

/// The connection, with room for a little more than it takes.
pub(super) struct Relieved<T> {
    inner: T,
    held: VecDeque<u8>,
    shared: Arc<Shared>,
}

/// For the owner of the yamux connection.
pub(super) struct Relief(Arc<Shared>);

pub(super) fn relieve<T>(inner: T) -> (Relieved<T>, Relief) {
    let shared = Arc::<Shared>::default();
    (Relieved { inner, held: VecDeque::new(), shared: shared.clone() }, Relief(shared))
}

impl Relief {
    /// To be asked after each poll of yamux that was pending. When true, yamux is to be polled again at once.
    pub(super) fn is_given(&self) -> bool {
        let read = self.0.read.swap(false, Ordering::Relaxed);
        let blocked = self.0.blocked.swap(false, Ordering::Relaxed);
        let given = blocked && !read;
        if given {
            self.0.room.store(ROOM, Ordering::Relaxed);
        }
        given
    }
}

impl<T: AsyncWrite + Unpin> Relieved<T> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, self.held.as_slices().0))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..written);
        }
        self.held.shrink_to(0);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Relieved<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.shared.read.store(true, Ordering::Relaxed);
        Pin::new(&mut this.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Relieved<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match this.poll_drain(context)? {
            Poll::Ready(()) => Pin::new(&mut this.inner).poll_write(context, data)?,
            Poll::Pending => Poll::Pending,
        };
        if written.is_ready() {
            return written.map(Ok);
        }
        this.shared.blocked.store(true, Ordering::Relaxed);
        let room = this.shared.room.load(Ordering::Relaxed);
        let taken = room.min(data.len());
        if taken == 0 {
            return Poll::Pending;
        }
        this.shared.room.store(room - taken, Ordering::Relaxed);
        this.held.extend(&data[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.inner).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.inner).poll_close(context)
    }
}
