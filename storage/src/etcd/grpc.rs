//! gRPC over HTTP/2 streams: framed messages in, framed messages and a status in the trailers out.
//!
//! Invariants: no message above [`MAX_MESSAGE`] is buffered, and large ones only as far as [`Limits`] has room; answers
//! are sent as fast as the client takes them and no faster; what cannot be decoded is answered with a status, never with
//! a broken connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::limits::{Limits, SMALL};
use super::status::{Code, Status};

/// Longest message that is taken from a client: the store's largest transaction, and room for what frames it.
pub const MAX_MESSAGE: usize = crate::request::MAX_TXN_BYTES + (512 << 10);
/// Longest message on a stream of messages, which has two keys at the most.
const MAX_STREAMED: usize = 64 << 10;
/// The flag and the length before each message.
const PREFIX: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// What may not stand in `grpc-message` as it is.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// The client has gone away; there is nobody left to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// Messages of the client.
pub(super) struct Inbound {
    body: RecvStream,
    buffer: BytesMut,
    max: usize,
    limits: Arc<Limits>,
    /// Of the message that is coming in.
    room: Option<OwnedSemaphorePermit>,
}

impl Inbound {
    pub(super) fn new(body: RecvStream, limits: Arc<Limits>) -> Self {
        Self { body, buffer: BytesMut::new(), max: MAX_MESSAGE, limits, room: None }
    }

    /// Messages are short from now on.
    pub(super) fn streamed(&mut self) {
        self.max = MAX_STREAMED;
    }

    /// The next message, or nothing at the end of the stream. Cancel-safe.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = take(&mut self.buffer, self.max)? {
                let decoded = decode(&message);
                self.room = None;
                return decoded.map(Some);
            }
            if self.room.is_none()
                && let Some(length) = announced(&self.buffer)
            {
                self.room = self.limits.incoming(length).await;
                self.buffer.reserve(PREFIX + length - self.buffer.len());
            }
            match self.body.data().await {
                Some(Ok(chunk)) => {
                    self.release(chunk.len());
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(Err(error)) => return Err(Status::new(Code::Unavailable, error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "the stream ends within a message")),
            }
        }
    }

    fn release(&mut self, bytes: usize) {
        // Fails only for a stream that is gone, which the next read tells.
        let _released = self.body.flow_control().release_capacity(bytes);
    }

    /// The only message of a call that has one, if the whole call has come in already, in one piece, and the message is
    /// `wanted`. Otherwise it can still be read.
    pub(super) fn whole<M: Message + Default>(&mut self, wanted: impl FnOnce(&M) -> bool) -> Option<Result<M, Status>> {
        // Nobody waits yet: whoever reads on does so with a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        if !self.buffer.is_empty() {
            return None;
        }
        let Poll::Ready(Some(Ok(chunk))) = self.body.poll_data(&mut cx) else { return None };
        self.release(chunk.len());
        if chunk.len() <= PREFIX + SMALL
            && self.body.is_end_stream()
            && let Ok(Some((message, []))) = split(&chunk, self.max)
        {
            match decode(message) {
                Ok(message) if !wanted(&message) => {}
                decoded => return Some(decoded),
            }
        }
        self.buffer.extend_from_slice(&chunk);
        None
    }

    /// The only message of a call that has one.
    pub(super) async fn only<M: Message + Default>(&mut self) -> Result<M, Status> {
        let missing = || Status::new(Code::Internal, "the request has no message");
        let message = self.next().await?.ok_or_else(missing)?;
        match self.next::<super::wire::Empty>().await? {
            None => Ok(message),
            Some(_) => Err(Status::new(Code::Internal, "the request has more than one message")),
        }
    }
}

type Cut<'a> = (&'a [u8], &'a [u8]);

/// Length of the message whose prefix is there.
fn announced(buffer: &BytesMut) -> Option<usize> {
    let (prefix, _) = buffer.split_first_chunk::<PREFIX>()?;
    let [_, length @ ..] = *prefix;
    Some(u32::from_be_bytes(length) as usize)
}

fn decode<M: Message + Default>(message: &[u8]) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::Internal, format!("grpc: error unmarshalling request: {error}")))
}

/// The message at the front, if it is there, and what follows it.
fn split(buffer: &[u8], max: usize) -> Result<Option<Cut<'_>>, Status> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let [flag, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 {
        return Err(Status::unimplemented("grpc: compressed messages are not supported"));
    }
    if length > max {
        let message = format!("grpc: received message larger than max ({length} vs. {max})");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    Ok(rest.split_at_checked(length))
}

/// Cuts one message off the front, if it is there. A client takes any length: it has asked for what it gets.
pub(super) fn take(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Status> {
    let Some(length) = split(buffer, max)?.map(|(message, _)| message.len()) else { return Ok(None) };
    let mut message = buffer.split_to(PREFIX + length);
    Ok(Some(message.split_off(PREFIX).freeze()))
}

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Result<Bytes, Status> {
    let mut framed = BytesMut::new();
    write(&mut framed, message)?;
    Ok(framed.freeze())
}

/// Puts a message with its prefix behind others.
pub(super) fn write(framed: &mut BytesMut, message: &impl Message) -> Result<(), Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| Status::new(Code::ResourceExhausted, "the answer is too large"))?;
    framed.reserve(PREFIX + length);
    framed.put_u8(0);
    framed.put_u32(prefix);
    message.encode(framed).map_err(|error| Status::new(Code::Internal, error.to_string()))
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    // A map that has grown has room for many.
    *response.headers_mut() = HeaderMap::with_capacity(1);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn write_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, if status.code == Code::Ok { OK } else { HeaderValue::from(status.code as u16) });
    if !status.message.is_empty() {
        let escaped = utf8_percent_encode(&status.message, ESCAPED).to_string();
        if let Ok(value) = HeaderValue::try_from(escaped) {
            headers.insert(GRPC_MESSAGE, value);
        }
    }
}

/// Answers with a status alone. The client may be gone; then there is nobody to tell.
pub(super) fn refuse(mut respond: SendResponse<Bytes>, status: &Status) {
    let mut response = head();
    write_status(response.headers_mut(), status);
    if status.code == Code::Unimplemented {
        response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    drop(respond.send_response(response, true));
}

/// Answers what is not gRPC.
pub(super) fn refuse_http(mut respond: SendResponse<Bytes>, code: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = code;
    drop(respond.send_response(response, true));
}

/// Answers a plain GET with a short text.
pub(super) fn answer_http(mut respond: SendResponse<Bytes>, content_type: &'static str, body: String) {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The client may be gone.
    if let Ok(mut stream) = respond.send_response(response, false) {
        drop(stream.send_data(body.into(), true));
    }
}

/// Answers with one message, or with what went wrong. Waits for as long as the client does not take a large one.
pub(super) async fn answer<M: Message>(respond: SendResponse<Bytes>, outcome: Result<M, Status>, limits: &Limits) {
    let size = outcome.as_ref().map_or(0, M::encoded_len);
    if size <= SMALL {
        return answer_small(respond, outcome);
    }
    let _room = limits.outgoing(size).await;
    let Some((mut outbound, framed)) = begin(respond, outcome) else { return };
    if outbound.push(framed).await.is_ok() {
        outbound.finish(&Status::ok());
    }
}

/// The same for a message that HTTP/2 may keep for as long as the client does not take it.
pub(super) fn answer_small<M: Message>(respond: SendResponse<Bytes>, outcome: Result<M, Status>) {
    let Some((mut outbound, framed)) = begin(respond, outcome) else { return };
    if outbound.stream.send_data(framed, false).is_ok() {
        outbound.finish(&Status::ok());
    }
}

/// Sends the headers of an answer; or a refusal, if it is one. Nothing more is to be sent then.
fn begin<M: Message>(respond: SendResponse<Bytes>, outcome: Result<M, Status>) -> Option<(Outbound, Bytes)> {
    match outcome.and_then(|message| frame(&message)) {
        Ok(framed) => Some((Outbound::open(respond).ok()?, framed)),
        Err(status) => {
            refuse(respond, &status);
            None
        }
    }
}

fn finish(mut stream: SendStream<Bytes>, status: &Status) {
    let mut trailers = HeaderMap::with_capacity(if status.message.is_empty() { 1 } else { 2 });
    write_status(&mut trailers, status);
    drop(stream.send_trailers(trailers));
}

/// A stream of answers.
pub(super) struct Outbound {
    stream: SendStream<Bytes>,
}

impl Outbound {
    pub(super) fn open(mut respond: SendResponse<Bytes>) -> Result<Self, Gone> {
        respond.send_response(head(), false).map(|stream| Self { stream }).map_err(|_| Gone)
    }

    /// Sends one message; waits for as long as the client does not take it.
    pub(super) async fn send(&mut self, message: &impl Message) -> Result<(), Gone> {
        self.push(frame(message).map_err(|_| Gone)?).await
    }

    /// Sends messages with their prefixes.
    pub(super) async fn push(&mut self, mut framed: Bytes) -> Result<(), Gone> {
        while !framed.is_empty() {
            self.stream.reserve_capacity(framed.len());
            while self.stream.capacity() == 0 {
                match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(Gone),
                }
            }
            let chunk = framed.split_to(self.stream.capacity().min(framed.len()));
            self.stream.send_data(chunk, false).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Waits until the client gives the call up.
    pub(super) async fn gone(&mut self) -> Gone {
        let _reason = poll_fn(|cx| self.stream.poll_reset(cx)).await;
        Gone
    }

    pub(super) fn finish(self, status: &Status) {
        finish(self.stream, status);
    }
}

/// The time a client gives a call: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let malformed = || Status::new(Code::Internal, "malformed grpc-timeout");
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed());
    }
    let count: u64 = digits.parse().map_err(|_| malformed())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(malformed()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_once_it_is_whole() {
        let message = super::super::wire::PutRequest { key: b"k".to_vec(), ..Default::default() };
        let framed = frame(&message).unwrap();
        let mut buffer = BytesMut::new();
        for byte in &framed[..framed.len() - 1] {
            buffer.put_u8(*byte);
            assert_eq!(take(&mut buffer, MAX_MESSAGE), Ok(None));
        }
        buffer.put_u8(framed[framed.len() - 1]);
        buffer.put_u8(0);
        assert_eq!(take(&mut buffer, MAX_MESSAGE), Ok(Some(framed.slice(PREFIX..))));
        assert_eq!(buffer.len(), 1);
    }

    #[test]
    fn compression_and_size_are_refused_by_the_prefix_alone() {
        let refused = |bytes: &[u8]| take(&mut BytesMut::from(bytes), MAX_MESSAGE).unwrap_err().code;
        assert_eq!(refused(&[1, 0, 0, 0, 1]), Code::Unimplemented);
        assert_eq!(refused(&[0, 0xff, 0, 0, 0]), Code::ResourceExhausted);
    }

    #[test]
    fn timeouts_have_units() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), text.parse().unwrap())]);
            timeout(&headers)
        };
        assert_eq!(of("5S"), Ok(Some(Duration::from_secs(5))));
        assert_eq!(of("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        assert_eq!(of("250m"), Ok(Some(Duration::from_millis(250))));
        for bad in ["", "S", "5", "5x", "123456789S", "-1S", "5µ"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }
}
