//! gRPC over HTTP/2 streams: framed messages in, framed messages and a status in the trailers out.
//!
//! Invariants: no message above [`MAX_MESSAGE`] is buffered, and large ones only as far as [`Limits`] has room; answers
//! are sent as fast as the client takes them and no faster; what cannot be decoded is answered with a status, never with
//! a broken connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::http2::streams::{Body, Respond};
use super::limits::{Limits, SMALL};
use super::status::{Code, Status};

/// Longest message that is taken from a client: the store's largest transaction, and room for what frames it.
pub const MAX_MESSAGE: usize = crate::request::MAX_TXN_BYTES + (512 << 10);
/// Longest message on a stream of messages, which has two keys at the most.
const MAX_STREAMED: usize = 64 << 10;
/// The flag and the length before each message.
pub(super) const PREFIX: usize = 5;
/// The client has gone away; there is nobody left to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// Messages of the client.
pub(super) struct Inbound {
    body: Body,
    buffer: BytesMut,
    max: usize,
    limits: Arc<Limits>,
    /// Of the message that is coming in.
    room: Option<OwnedSemaphorePermit>,
}

impl Inbound {
    pub(super) fn new(body: Body, limits: Arc<Limits>) -> Self {
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
            match poll_fn(|cx| self.body.poll(cx)).await {
                Some(Ok(piece)) if self.buffer.is_empty() => self.buffer = piece,
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(Gone)) => return Err(Status::new(Code::Unavailable, "the client has given up")),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "the stream ends within a message")),
            }
        }
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

/// The only message of a call, if this is all that the client has to say, the message is short, and `wanted`.
pub(super) fn whole<M: Message + Default>(framed: &[u8], wanted: impl FnOnce(&M) -> bool) -> Option<Result<M, Status>> {
    let Ok(Some((message, []))) = split(framed, SMALL) else { return None };
    match decode(message) {
        Ok(message) if !wanted(&message) => None,
        decoded => Some(decoded),
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
    if u32::try_from(length).is_err() {
        return Err(Status::new(Code::ResourceExhausted, "the answer is too large"));
    }
    framed.reserve(PREFIX + length);
    put(framed, message, length);
    Ok(())
}

/// The same for a message whose length is known and fits.
pub(super) fn put(framed: &mut BytesMut, message: &impl Message, length: usize) {
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(framed);
}

/// Answers with one message, or with what went wrong. Waits for as long as the client does not take a large one.
pub(super) async fn answer<M: Message>(respond: Respond, outcome: Result<M, Status>, limits: &Limits) {
    let message = match outcome {
        Ok(message) => message,
        Err(status) => return respond.refuse(&status),
    };
    let size = message.encoded_len();
    if size <= SMALL {
        return respond.answer(&message);
    }
    let _room = limits.outgoing(size).await;
    let framed = match frame(&message) {
        Ok(framed) => framed,
        Err(status) => return respond.refuse(&status),
    };
    drop(message);
    let Ok(mut outbound) = Outbound::open(respond) else { return };
    if outbound.push(framed).await.is_ok() {
        outbound.finish(&Status::ok());
    }
}

/// A stream of answers.
pub(super) struct Outbound {
    respond: Respond,
}

impl Outbound {
    pub(super) fn open(respond: Respond) -> Result<Self, Gone> {
        respond.begin()?;
        Ok(Self { respond })
    }

    /// Sends one message; waits for as long as the client does not take it.
    pub(super) async fn send(&mut self, message: &impl Message) -> Result<(), Gone> {
        self.push(frame(message).map_err(|_| Gone)?).await
    }

    /// Sends messages with their prefixes.
    pub(super) async fn push(&mut self, mut framed: Bytes) -> Result<(), Gone> {
        poll_fn(|cx| self.respond.poll_send(cx, &mut framed)).await
    }

    /// Waits until the client gives the call up.
    pub(super) async fn gone(&mut self) -> Gone {
        poll_fn(|cx| self.respond.poll_gone(cx)).await
    }

    pub(super) fn finish(self, status: &Status) {
        self.respond.finish(status);
    }
}

/// The time a client gives a call: at most eight digits and a unit.
pub(super) fn timeout(value: &[u8]) -> Result<Option<Duration>, Status> {
    let malformed = || Status::new(Code::Internal, "malformed grpc-timeout");
    let text = std::str::from_utf8(value).map_err(|_| malformed())?;
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
        let of = |text: &str| timeout(text.as_bytes());
        assert_eq!(of("5S"), Ok(Some(Duration::from_secs(5))));
        assert_eq!(of("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        assert_eq!(of("250m"), Ok(Some(Duration::from_millis(250))));
        for bad in ["", "S", "5", "5x", "123456789S", "-1S", "5µ"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
