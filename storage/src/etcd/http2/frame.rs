//! Frames of HTTP/2 (RFC 9113, 4 and 6): heads, kinds, flags, error codes, settings. Bytes in, numbers out; what they mean
//! is the connection's business.

use bytes::{BufMut, BytesMut};

/// Length of a frame's head.
pub(super) const HEAD: usize = 9;
/// Longest payload that either side may send unless told otherwise. Nobody is told otherwise here.
pub(super) const MAX_PAYLOAD: usize = 16_384;
/// What a client begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that may be sent on a stream, and on a connection, before the other side says more.
pub(super) const WINDOW: i64 = 65_535;
pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// Why a stream or a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// The other side has broken the protocol; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client {what}")]
pub struct Violation {
    pub(crate) reason: Reason,
    what: &'static str,
}

impl Violation {
    pub(super) fn new(reason: Reason, what: &'static str) -> Self {
        Self { reason, what }
    }

    pub(super) fn protocol(what: &'static str) -> Self {
        Self::new(Reason::Protocol, what)
    }

    pub(super) fn size() -> Self {
        Self::new(Reason::FrameSize, "sent a frame of a wrong size")
    }
}

/// One frame as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the front, if all of it is there, and how many bytes it takes.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Violation> {
        let Some(([a, b, c, kind, flags, stream @ ..], rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if length > MAX_PAYLOAD {
            return Err(Violation::size());
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        // The highest bit means nothing.
        let stream = u32::from_be_bytes(*stream) & 0x7fff_ffff;
        Ok(Some((Self { kind: *kind, flags: *flags, stream, payload }, HEAD + length)))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What DATA and HEADERS carry, without padding and priority.
    pub(super) fn content(&self) -> Result<&'a [u8], Violation> {
        let mut content = self.payload;
        let mut padding = 0;
        if self.has(PADDED) {
            let (length, rest) = content.split_first().ok_or_else(Violation::size)?;
            (padding, content) = (usize::from(*length), rest);
        }
        if self.kind == HEADERS && self.has(WITH_PRIORITY) {
            content = content.get(5..).ok_or_else(Violation::size)?;
        }
        let length = content.len().checked_sub(padding);
        length
            .map(|length| &content[..length])
            .ok_or_else(|| Violation::protocol("sent more padding than there is room for"))
    }

    /// The number that RST_STREAM and WINDOW_UPDATE have.
    pub(super) fn number(&self) -> Result<u32, Violation> {
        self.payload.try_into().map(u32::from_be_bytes).map_err(|_| Violation::size())
    }

    /// What a SETTINGS frame says.
    pub(super) fn settings(&self) -> Result<impl Iterator<Item = (u16, u32)> + use<'a>, Violation> {
        let (settings, rest) = self.payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Violation::size());
        }
        Ok(settings.iter().map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))))
    }
}

pub(super) fn head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    debug_assert!(length <= MAX_PAYLOAD, "a frame that is too long");
    out.reserve(HEAD + length);
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

/// Writes a HEADERS frame whose length shows when its block is written.
pub(super) fn headers(out: &mut BytesMut, flags: u8, stream: u32, block: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    head(out, 0, HEADERS, flags | END_HEADERS, stream);
    block(out);
    let length = u32::try_from(out.len() - at - HEAD).unwrap_or(u32::MAX).to_be_bytes();
    debug_assert!(length[0] == 0, "headers that are too long");
    out[at..at + 3].copy_from_slice(&length[1..]);
}

pub(super) fn number(out: &mut BytesMut, kind: u8, stream: u32, number: u32) {
    head(out, 4, kind, 0, stream);
    out.put_u32(number);
}

pub(super) fn goaway(out: &mut BytesMut, last: u32, reason: Reason) {
    head(out, 8, GOAWAY, 0, 0);
    out.put_u32(last);
    out.put_u32(reason as u32);
}
