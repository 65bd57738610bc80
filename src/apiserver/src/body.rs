//! The bodies of requests and responses, one type each for every transport.

use std::{
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};

/// Any error of a transport below us.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Body of a request, whatever transport it came by.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Boxes a transport's own body.
pub fn request_body<B>(body: B) -> RequestBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Body of a response: whole in memory, or a stream of chunks (watch, logs, proxies).
pub enum Body {
    /// Nothing more to send.
    Empty,
    /// One buffer.
    Full(Bytes),
    /// Chunks as they come.
    Stream(BoxStream<'static, Result<Bytes, BoxError>>),
}

impl Body {
    /// A body of chunks.
    pub fn stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
        Body::Stream(chunks.boxed())
    }

    /// The gzip form of a body that is whole in memory.
    pub(crate) fn gzip(bytes: &Bytes) -> std::io::Result<Bytes> {
        let out = Vec::with_capacity(bytes.len() / 8);
        let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(1));
        encoder.write_all(bytes)?;
        Ok(Bytes::from(encoder.finish()?))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(value: T) -> Self {
        Body::Full(value.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Body::Stream(chunks) => chunks.poll_next_unpin(cx).map(|next| next.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
