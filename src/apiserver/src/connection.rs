//! What a connection holds while it lives: its place among the open ones, and the count of its requests by which
//! `serve` knows that it does nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    body::{Body, BoxError},
    limits::Permit,
};

/// A stream that keeps its place until it is closed: also behind an upgrade, when HTTP has long ended.
pub(crate) struct Admitted {
    stream: TcpStream,
    _permit: Option<Permit>,
}

impl Admitted {
    pub(crate) fn new(stream: TcpStream, permit: Option<Permit>) -> Admitted {
        Admitted { stream, _permit: permit }
    }
}

impl AsyncRead for Admitted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Requests of one connection.
#[derive(Default)]
pub(crate) struct Activity {
    begun: AtomicU64,
    running: AtomicUsize,
}

impl Activity {
    /// How many requests there were so far.
    pub(crate) fn requests(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether nothing runs, and nothing has begun since there were so many requests.
    pub(crate) fn idle_since(&self, requests: u64) -> bool {
        self.running.load(Ordering::Relaxed) == 0 && self.requests() == requests
    }
}

/// A request that runs until this is dropped.
pub(crate) struct Running(Arc<Activity>);

impl Running {
    pub(crate) fn new(activity: Arc<Activity>) -> Running {
        activity.begun.fetch_add(1, Ordering::Relaxed);
        activity.running.fetch_add(1, Ordering::Relaxed);
        Running(activity)
    }

    /// The request's answer: it runs until that is sent.
    pub(crate) fn of(self, body: Body) -> RunningBody {
        RunningBody { body, _running: self }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A request that took long ends a connection's idleness by its end as well.
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body whose request runs until it is sent or given up.
pub(crate) struct RunningBody {
    body: Body,
    _running: Running,
}

impl http_body::Body for RunningBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
