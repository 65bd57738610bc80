//! What a client sends, frame by frame: the rules of RFC 9113 are kept here, and calls come out.
//!
//! Invariants: whatever comes in gives calls, pieces of bodies, or a [`Violation`] that ends the connection; what is kept
//! of it is bounded: one header block ([`MAX_BLOCK`]), one window of each body; what makes us write more than it says does
//! not come in while much waits to be sent (`Streams::is_full`). A header block is decoded whatever becomes of its stream, since
//! the table of headers is that of the connection.

use std::sync::Arc;
use std::time::Duration;

use super::super::grpc;
use super::super::limits::{CONNECTION_WINDOW, MAX_CALLS, STREAM_WINDOW};
use super::super::status::Status;
use super::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PUSH_PROMISE,
    RST_STREAM, Reason, SETTINGS, Violation, WINDOW, WINDOW_UPDATE,
};
use super::hpack::{Decoder, Malformed};
use super::streams::Streams;

/// A header block in all its pieces, and what its fields may add up to.
const MAX_BLOCK: usize = 32 << 10;
const MAX_LIST: usize = 16 << 10;
/// What each piece of a block counts beside its bytes.
const PIECE: usize = 256;
/// Bytes after which a client is told that it may send as many again.
const RETURNED: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::etcd) enum Method {
    Get,
    Post,
    Other,
}

/// What the headers of a call say.
#[derive(Debug)]
pub(in crate::etcd) struct Head {
    pub(in crate::etcd) method: Method,
    pub(in crate::etcd) path: Arc<str>,
    /// Its content is gRPC.
    pub(in crate::etcd) grpc: bool,
    /// How long the call may take.
    pub(in crate::etcd) timeout: Result<Option<Duration>, Status>,
    /// It is to fail while there is no leader.
    pub(in crate::etcd) wants_leader: bool,
    /// There is more of it than is read.
    pub(in crate::etcd) too_long: bool,
}

/// A call begins, with all that the client has to say if that has come in already.
#[derive(Debug)]
pub(in crate::etcd) struct Begun<'a> {
    pub(in crate::etcd) id: u32,
    pub(in crate::etcd) head: Head,
    pub(in crate::etcd) whole: Option<&'a [u8]>,
}

/// Where the beginning of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Preface,
    Settings,
    Over,
}

/// A header block that is coming in.
#[derive(Debug)]
struct Block {
    id: u32,
    ended: bool,
    bytes: Vec<u8>,
    /// With what each piece counts.
    size: usize,
}

#[derive(Debug)]
pub(in crate::etcd) struct Receiver {
    greeting: Greeting,
    decoder: Decoder,
    block: Option<Block>,
    /// Bytes that may come in on the connection, and those of which the client was not told.
    window: i64,
    taken: u32,
    /// The path of the last call: the next one often has the same.
    path: Arc<str>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            greeting: Greeting::Preface,
            decoder: Decoder::default(),
            block: None,
            window: i64::from(CONNECTION_WINDOW),
            taken: 0,
            path: Arc::from(""),
        }
    }
}

/// What a client is told first: how many calls it may have open, how much it may send, and how long headers may be.
pub(in crate::etcd) fn greet(streams: &mut Streams) {
    let settings = [(3, MAX_CALLS), (4, STREAM_WINDOW), (6, u32::try_from(MAX_LIST).unwrap_or(u32::MAX))];
    streams.greet(&settings, CONNECTION_WINDOW - u32::try_from(WINDOW).unwrap_or(0));
}

impl Receiver {
    pub(in crate::etcd) fn is_greeted(&self) -> bool {
        self.greeting == Greeting::Over
    }

    /// Takes what is there, up to and with the next call. Says how many bytes that was: none when there is less than a frame.
    pub(in crate::etcd) fn next<'a>(
        &mut self,
        streams: &mut Streams,
        input: &'a [u8],
    ) -> Result<(usize, Option<Begun<'a>>), Violation> {
        let mut at = 0;
        if self.greeting == Greeting::Preface {
            let known = input.len().min(PREFACE.len());
            if input[..known] != PREFACE[..known] {
                return Err(Violation::protocol("does not speak HTTP/2"));
            }
            if known < PREFACE.len() {
                return Ok((0, None));
            }
            (at, self.greeting) = (known, Greeting::Settings);
        }
        while let Some((frame, size)) = Frame::parse(&input[at..])? {
            let rest = &input[at + size..];
            // The message of a call mostly comes with its headers; a part of it comes before anything else.
            let follows = match frame.kind {
                HEADERS if frame.has(END_HEADERS) && !frame.has(END_STREAM) => match Frame::parse(rest)? {
                    None if !rest.is_empty() => return Ok((at, None)),
                    follows => follows.filter(|(next, _)| next.kind == DATA && next.stream == frame.stream),
                },
                _ => None,
            };
            at += size;
            let begun = self.frame(streams, &frame)?;
            if let Some(begun) = begun {
                return self.with_message(streams, begun, follows).map(|(taken, begun)| (at + taken, Some(begun)));
            }
        }
        Ok((at, None))
    }

    /// Adds the message that follows the headers, if it is all that the client has to say.
    fn with_message<'a>(
        &mut self,
        streams: &mut Streams,
        mut begun: Begun<'a>,
        follows: Option<(Frame<'a>, usize)>,
    ) -> Result<(usize, Begun<'a>), Violation> {
        let Some((data, size)) = follows.filter(|(data, _)| data.has(END_STREAM)) else { return Ok((0, begun)) };
        self.count(streams, data.payload.len())?;
        streams.receive(begun.id, &[], 0, true)?;
        begun.whole = Some(data.content()?);
        Ok((size, begun))
    }

    fn frame<'a>(&mut self, streams: &mut Streams, frame: &Frame<'a>) -> Result<Option<Begun<'a>>, Violation> {
        if self.greeting == Greeting::Settings {
            if frame.kind != SETTINGS || frame.has(ACK) {
                return Err(Violation::protocol("does not begin with its settings"));
            }
            self.greeting = Greeting::Over;
        }
        if self.block.is_some() && frame.kind != CONTINUATION {
            return Err(Violation::protocol("sent something else within headers"));
        }
        let of_connection = matches!(frame.kind, SETTINGS | PING | GOAWAY);
        if (frame.stream == 0) != of_connection
            && (frame.kind <= PING || frame.kind == CONTINUATION || frame.kind == GOAWAY)
        {
            return Err(Violation::protocol("sent a frame where it does not belong"));
        }
        match frame.kind {
            DATA => {
                let content = frame.content()?;
                self.count(streams, frame.payload.len())?;
                streams.receive(frame.stream, content, frame.payload.len(), frame.has(END_STREAM))?;
            }
            HEADERS => return self.headers(streams, frame),
            CONTINUATION => return self.continuation(streams, frame),
            PRIORITY if frame.payload.len() != 5 => return Err(Violation::size()),
            RST_STREAM => {
                frame.number()?;
                streams.was_reset(frame.stream)?;
            }
            SETTINGS if frame.has(ACK) && !frame.payload.is_empty() => return Err(Violation::size()),
            SETTINGS if !frame.has(ACK) => streams.settings(frame.settings()?)?,
            PUSH_PROMISE => return Err(Violation::protocol("sent what only a server sends")),
            PING if frame.payload.len() != 8 => return Err(Violation::size()),
            PING if !frame.has(ACK) => streams.pong(frame.payload),
            GOAWAY if frame.payload.len() < 8 => return Err(Violation::size()),
            WINDOW_UPDATE => streams.more_window(frame.stream, frame.number()? & 0x7fff_ffff)?,
            _ => {}
        }
        Ok(None)
    }

    /// Counts what comes in on all streams together, also for those that are no more.
    fn count(&mut self, streams: &mut Streams, bytes: usize) -> Result<(), Violation> {
        // No frame is longer than its limit.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.window -= i64::from(bytes);
        if self.window < 0 {
            return Err(Violation::new(Reason::FlowControl, "sent more than it may"));
        }
        self.taken += bytes;
        if self.taken >= RETURNED {
            streams.more_room(self.taken);
            self.window += i64::from(std::mem::take(&mut self.taken));
        }
        Ok(())
    }

    fn headers<'a>(&mut self, streams: &mut Streams, frame: &Frame<'a>) -> Result<Option<Begun<'a>>, Violation> {
        let (id, ended, content) = (frame.stream, frame.has(END_STREAM), frame.content()?);
        if frame.has(END_HEADERS) {
            return self.block(streams, id, ended, content);
        }
        self.block = Some(Block { id, ended, bytes: content.to_vec(), size: content.len() + PIECE });
        Ok(None)
    }

    fn continuation<'a>(&mut self, streams: &mut Streams, frame: &Frame<'a>) -> Result<Option<Begun<'a>>, Violation> {
        let Some(mut block) = self.block.take_if(|block| block.id == frame.stream) else {
            return Err(Violation::protocol("goes on with headers that it has not begun"));
        };
        block.bytes.extend_from_slice(frame.payload);
        block.size += frame.payload.len() + PIECE;
        if block.size > MAX_BLOCK {
            return Err(Violation::new(Reason::EnhanceYourCalm, "sent headers without end"));
        }
        if frame.has(END_HEADERS) {
            return self.block(streams, block.id, block.ended, &block.bytes);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// A whole header block: a call begins, or a body ends.
    fn block<'a>(
        &mut self,
        streams: &mut Streams,
        id: u32,
        ended: bool,
        block: &[u8],
    ) -> Result<Option<Begun<'a>>, Violation> {
        let head = self.decode(block)?;
        if id <= streams.last() {
            streams.trailers(id, ended)?;
            return Ok(None);
        }
        if id.is_multiple_of(2) {
            return Err(Violation::protocol("began a stream that is a server's to begin"));
        }
        if !streams.begin(id, ended) {
            return Ok(None);
        }
        match head {
            Some(head) => Ok(Some(Begun { id, head, whole: None })),
            None => {
                streams.refuse_malformed(id);
                Ok(None)
            }
        }
    }

    /// What a header block says; nothing when it is no request.
    fn decode(&mut self, block: &[u8]) -> Result<Option<Head>, Violation> {
        let (mut method, mut path) = (None, None);
        let mut well_formed = true;
        let mut size = 0;
        let mut head = Head {
            method: Method::Other,
            path: self.path.clone(),
            grpc: false,
            timeout: Ok(None),
            wants_leader: false,
            too_long: false,
        };
        let known = &self.path;
        let decoded = self.decoder.decode(block, |name, value| {
            size += name.len() + value.len() + 32;
            match name {
                b":method" => {
                    let new = match value {
                        b"GET" => Method::Get,
                        b"POST" => Method::Post,
                        _ => Method::Other,
                    };
                    well_formed &= method.replace(new).is_none();
                }
                b":path" => {
                    let new =
                        if value == known.as_bytes() { None } else { Some(String::from_utf8_lossy(value).into()) };
                    well_formed &= path.replace(new).is_none();
                }
                b"content-type" => head.grpc = value.starts_with(b"application/grpc"),
                b"grpc-timeout" => head.timeout = grpc::timeout(value),
                b"hasleader" => head.wants_leader = value == b"true",
                b"connection" | b"transfer-encoding" | b"upgrade" | b"keep-alive" | b"proxy-connection" => {
                    well_formed = false;
                }
                _ => well_formed &= !name.iter().any(u8::is_ascii_uppercase),
            }
        });
        decoded.map_err(|malformed| match malformed {
            Malformed::Large => Violation::new(Reason::EnhanceYourCalm, "sent headers that stand for far more"),
            _ => Violation::new(Reason::Compression, "sent headers that are not compressed as they should be"),
        })?;
        head.too_long = size > MAX_LIST;
        let (Some(method), Some(path)) = (method, path) else { return Ok(None) };
        head.method = method;
        if let Some(path) = path.filter(|_| !head.too_long) {
            self.path = path;
            head.path = self.path.clone();
        }
        Ok(well_formed.then_some(head))
    }
}

/// Feeds a connection whatever a client may send, in pieces, and answers each call with nothing. The door for `fuzz/`.
pub fn read_frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let shared = super::streams::Shared::new();
    let mut receiver = Receiver::default();
    let mut input = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let mut streams = shared.lock();
            let (taken, begun) = match receiver.next(&mut streams, &input) {
                Ok(next) => next,
                Err(violation) => {
                    streams.end_with(violation.reason);
                    return false;
                }
            };
            let (more, id) = (begun.is_some(), begun.map(|begun| begun.id));
            if let Some(id) = id.filter(|id| id % 4 == 1) {
                streams.refuse(id, &Status::ok());
            }
            let sent = streams.out().len();
            streams.sent(sent);
            input.drain(..taken);
            if !more {
                break;
            }
        }
    }
    true
}
