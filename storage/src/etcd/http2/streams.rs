//! The streams of one connection that are open, and what goes out.
//!
//! Shared by the connection's own task, which reads and writes the socket, and the tasks of calls. Invariants: no more than
//! the client's windows allow is written to [`Streams::out`]; a client that does not read holds [`FULL`] bytes there and
//! one small answer for each call; a stream is open until its answer has ended *and* nobody works for it any more, so that
//! resets do not make room for more calls than there may be.

mod call;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::super::grpc::{self, PREFIX};
use super::super::limits::{MAX_CALLS, STREAM_WINDOW};
use super::super::status::{Code, Status};
use super::frame::{self, ACK, DATA, END_STREAM, MAX_PAYLOAD, MAX_WINDOW, Reason, Violation, WINDOW};
use super::hpack::Encoder;

pub(in crate::etcd) use call::{Body, Respond};

/// Bytes that wait to be sent from which on nothing is taken in and no large answer goes on.
const FULL: usize = 256 << 10;
/// What is kept for the next time.
const KEPT: usize = 16 << 10;

/// One call's way in and out.
#[derive(Default)]
struct Stream {
    /// What has come in and nobody has taken.
    body: BytesMut,
    /// Nothing more comes in.
    ended: bool,
    /// The client has given it up.
    reset: bool,
    /// Bytes that may come in yet, and those that were taken since the client was last told of more room.
    credit: u32,
    taken: u32,
    reader: Option<Waker>,
    /// Bytes that may be sent.
    window: i64,
    writer: Option<Waker>,
    /// The end of an answer for which there is no window yet. Nobody works for this stream any more.
    left: Option<Box<(Bytes, Ending)>>,
}

/// With what an answer ends.
enum Ending {
    Trailers(Status),
    Data,
}

impl Stream {
    /// Its client has gone.
    fn lose(&mut self) {
        self.reset = true;
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

pub(in crate::etcd) struct Streams {
    open: HashMap<u32, Stream>,
    /// The newest one that the client has begun.
    last: u32,
    out: BytesMut,
    encoder: Encoder,
    /// Bytes that may be sent on all streams together, and on one that begins.
    window: i64,
    initial: i64,
    /// A call waits until less is to be sent.
    crowded: bool,
    /// A call's task has something to be sent.
    told: bool,
    /// The connection's task, while it sleeps.
    connection: Option<Waker>,
}

/// The streams of a connection, for all who work for it.
#[derive(Clone)]
pub(in crate::etcd) struct Shared(Arc<Mutex<Streams>>);

impl Shared {
    pub(in crate::etcd) fn new() -> Self {
        Self(Arc::new(Mutex::new(Streams {
            open: HashMap::new(),
            last: 0,
            out: BytesMut::new(),
            encoder: Encoder::default(),
            window: WINDOW,
            initial: WINDOW,
            crowded: false,
            told: false,
            connection: None,
        })))
    }

    pub(in crate::etcd) fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes in.
impl Streams {
    /// Whether there is room for one more, which then is open. The client is told otherwise.
    pub(super) fn begin(&mut self, id: u32, ended: bool) -> bool {
        self.last = id;
        if self.open.len() >= MAX_CALLS as usize {
            self.reset(id, Reason::RefusedStream);
            return false;
        }
        let stream = Stream { ended, credit: STREAM_WINDOW, window: self.initial, ..Stream::default() };
        self.open.insert(id, stream);
        true
    }

    pub(super) fn last(&self) -> u32 {
        self.last
    }

    pub(in crate::etcd) fn several(&self) -> bool {
        self.open.len() > 1
    }

    /// A stream that the client may name, or has named; else it breaks the protocol.
    fn known(&mut self, id: u32) -> Result<Option<&mut Stream>, Violation> {
        if id == 0 || id > self.last {
            return Err(Violation::protocol("sent a frame for a stream that it has not begun"));
        }
        Ok(self.open.get_mut(&id))
    }

    /// Keeps a piece of a body. `size` is what it takes of the window, padding included.
    pub(in crate::etcd) fn receive(
        &mut self,
        id: u32,
        piece: &[u8],
        size: usize,
        ended: bool,
    ) -> Result<(), Violation> {
        // What comes for one that is answered, or reset, is on its way still.
        let Some(stream) = self.known(id)?.filter(|stream| !stream.reset) else { return Ok(()) };
        if stream.ended {
            self.give_up(id, Reason::StreamClosed);
            return Ok(());
        }
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let Some(credit) = stream.credit.checked_sub(size) else {
            self.give_up(id, Reason::FlowControl);
            return Ok(());
        };
        stream.credit = credit;
        stream.taken += size.saturating_sub(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        stream.body.extend_from_slice(piece);
        stream.ended = ended;
        stream.reader.take().into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Keeps all that the client has to say, for a call that has just begun.
    pub(in crate::etcd) fn keep(&mut self, id: u32, body: &[u8]) {
        if let Some(stream) = self.open.get_mut(&id) {
            stream.body.extend_from_slice(body);
        }
    }

    /// Headers after the first ones: they may end a stream, and mean nothing else here.
    pub(super) fn trailers(&mut self, id: u32, ended: bool) -> Result<(), Violation> {
        if ended {
            return self.receive(id, &[], 0, true);
        }
        if self.known(id)?.is_some() {
            self.give_up(id, Reason::Protocol);
        }
        Ok(())
    }

    pub(super) fn was_reset(&mut self, id: u32) -> Result<(), Violation> {
        self.known(id)?;
        self.lose(id);
        Ok(())
    }

    /// A stream has no client any more. It stays for as long as somebody works for it.
    fn lose(&mut self, id: u32) {
        if let Some(stream) = self.open.get_mut(&id) {
            stream.lose();
            if stream.left.is_some() {
                self.open.remove(&id);
            }
        }
    }

    /// Headers that are no request.
    pub(super) fn refuse_malformed(&mut self, id: u32) {
        self.open.remove(&id);
        self.reset(id, Reason::Protocol);
    }

    /// The client has broken the rules of one stream.
    fn give_up(&mut self, id: u32, reason: Reason) {
        self.reset(id, reason);
        self.lose(id);
    }

    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        frame::number(&mut self.out, frame::RST_STREAM, id, reason as u32);
    }

    /// The client takes more, on one stream or on all together.
    pub(super) fn more_window(&mut self, id: u32, more: u32) -> Result<(), Violation> {
        let more = i64::from(more);
        if id == 0 {
            if more == 0 || self.window + more > MAX_WINDOW {
                return Err(Violation::new(
                    Reason::FlowControl,
                    "moved the window of the connection by too little or too much",
                ));
            }
            let stuck = self.window <= 0;
            self.window += more;
            if stuck {
                self.go_on();
            }
            return Ok(());
        }
        let Some(stream) = self.known(id)? else { return Ok(()) };
        if more == 0 || stream.window + more > MAX_WINDOW {
            self.give_up(id, Reason::FlowControl);
            return Ok(());
        }
        stream.window += more;
        stream.writer.take().into_iter().for_each(Waker::wake);
        self.drain(id);
        Ok(())
    }

    pub(super) fn settings(&mut self, settings: impl Iterator<Item = (u16, u32)>) -> Result<(), Violation> {
        let mut initial = None;
        for (setting, value) in settings {
            match setting {
                1 => self.encoder.table_size(value),
                4 if i64::from(value) > MAX_WINDOW => {
                    return Err(Violation::new(Reason::FlowControl, "set a window that is too large"));
                }
                // Every stream has to be looked at: once for a frame.
                4 => initial = Some(i64::from(value)),
                2 if value > 1 => return Err(Violation::protocol("sent a setting that does not exist")),
                5 if !(16_384..=16_777_215).contains(&value) => {
                    return Err(Violation::protocol("allows frames of a size that does not exist"));
                }
                _ => {}
            }
        }
        frame::head(&mut self.out, 0, frame::SETTINGS, ACK, 0);
        initial.map_or(Ok(()), |initial| self.initial_window(initial))
    }

    fn initial_window(&mut self, initial: i64) -> Result<(), Violation> {
        let more = initial - self.initial;
        self.initial = initial;
        let too_much = |stream: &mut Stream| {
            stream.window += more;
            stream.window > MAX_WINDOW
        };
        if self.open.values_mut().any(too_much) {
            return Err(Violation::new(Reason::FlowControl, "set a window that is too large for a stream"));
        }
        if more > 0 {
            self.go_on();
        }
        Ok(())
    }

    pub(super) fn pong(&mut self, payload: &[u8]) {
        frame::head(&mut self.out, payload.len(), frame::PING, ACK, 0);
        self.out.extend_from_slice(payload);
    }

    /// Bytes have been taken on the connection; the client may send as many again.
    pub(super) fn more_room(&mut self, bytes: u32) {
        frame::number(&mut self.out, frame::WINDOW_UPDATE, 0, bytes);
    }
}

/// What goes out.
impl Streams {
    /// What the connection begins with.
    pub(in crate::etcd) fn greet(&mut self, settings: &[(u16, u32)], room: u32) {
        frame::head(&mut self.out, settings.len() * 6, frame::SETTINGS, 0, 0);
        for (setting, value) in settings {
            self.out.put_u16(*setting);
            self.out.put_u32(*value);
        }
        self.more_room(room);
    }

    /// Says why the connection ends.
    pub(in crate::etcd) fn end_with(&mut self, reason: Reason) {
        frame::goaway(&mut self.out, self.last, reason);
    }

    pub(in crate::etcd) fn is_full(&self) -> bool {
        self.out.len() >= FULL
    }

    /// What is to be sent.
    pub(in crate::etcd) fn out(&self) -> &[u8] {
        &self.out
    }

    pub(in crate::etcd) fn sent(&mut self, bytes: usize) {
        self.out.advance(bytes);
        if self.out.is_empty() && self.out.capacity() > KEPT {
            self.out = BytesMut::new();
        }
        if self.crowded && !self.is_full() {
            self.go_on();
        }
    }

    /// Whether a call has something to be sent. If not, the connection's task is woken when that changes.
    pub(in crate::etcd) fn take_told(&mut self, cx: &Context<'_>) -> bool {
        let told = std::mem::take(&mut self.told);
        if !told && self.connection.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
            self.connection = Some(cx.waker().clone());
        }
        told
    }

    /// Those who wait for a window, or for room, look again.
    fn go_on(&mut self) {
        self.crowded = false;
        let mut left = Vec::new();
        for (id, stream) in &mut self.open {
            stream.writer.take().into_iter().for_each(Waker::wake);
            if stream.left.is_some() {
                left.push(*id);
            }
        }
        left.into_iter().for_each(|id| self.drain(id));
    }

    /// A stream that can be answered. One that the client has given up is done with.
    fn answerable(&mut self, id: u32) -> Option<&mut Stream> {
        if self.open.get(&id)?.reset {
            self.open.remove(&id);
        }
        self.open.get_mut(&id)
    }

    fn head(&mut self, id: u32) {
        let encoder = &mut self.encoder;
        frame::headers(&mut self.out, 0, id, |out| encoder.answer_head(out));
    }

    /// Answers with one small message.
    pub(in crate::etcd) fn answer(&mut self, id: u32, message: &impl Message) {
        let all = self.window;
        let Some(stream) = self.answerable(id) else { return };
        let length = message.encoded_len();
        let size = PREFIX + length;
        let window = stream.window.min(all);
        if size > MAX_PAYLOAD || i64::try_from(size).is_ok_and(|size| size > window) {
            return match grpc::frame(message) {
                Ok(framed) => {
                    self.head(id);
                    self.leave(id, framed, Ending::Trailers(Status::ok()));
                }
                Err(status) => self.refuse(id, &status),
            };
        }
        stream.window -= size as i64;
        self.window -= size as i64;
        self.head(id);
        frame::head(&mut self.out, size, DATA, 0, id);
        grpc::put(&mut self.out, message, length);
        self.end(id, &Status::ok());
    }

    /// Answers with a status alone.
    pub(in crate::etcd) fn refuse(&mut self, id: u32, status: &Status) {
        if self.answerable(id).is_none() {
            return;
        }
        let encoder = &mut self.encoder;
        frame::headers(&mut self.out, END_STREAM, id, |out| {
            let mut block = encoder.block(out);
            block.status(200).field("content-type", b"application/grpc");
            for (name, value) in fields(status) {
                block.field(name, value.as_bytes());
            }
            if status.code == Code::Unimplemented {
                block.field("grpc-accept-encoding", b"identity");
            }
        });
        self.close(id);
    }

    /// Answers what is not gRPC.
    pub(in crate::etcd) fn answer_http(&mut self, id: u32, code: u16, content_type: &str, body: String) {
        if self.answerable(id).is_none() {
            return;
        }
        let flags = if body.is_empty() { END_STREAM } else { 0 };
        let encoder = &mut self.encoder;
        frame::headers(&mut self.out, flags, id, |out| {
            let mut block = encoder.block(out);
            block.status(code);
            if !content_type.is_empty() {
                block.field("content-type", content_type.as_bytes());
            }
        });
        if body.is_empty() { self.close(id) } else { self.leave(id, body.into(), Ending::Data) }
    }

    /// Sends the rest of an answer as far as there is a window, and what is left of it when there is.
    fn leave(&mut self, id: u32, data: Bytes, ending: Ending) {
        if let Some(stream) = self.answerable(id) {
            stream.left = Some(Box::new((data, ending)));
            self.drain(id);
        }
    }

    fn drain(&mut self, id: u32) {
        let Some(mut left) = self.open.get_mut(&id).and_then(|stream| stream.left.take()) else { return };
        self.put(id, &mut left.0);
        match (left.0.is_empty(), &left.1) {
            (true, Ending::Trailers(status)) => self.end(id, status),
            (true, Ending::Data) => {
                frame::head(&mut self.out, 0, DATA, END_STREAM, id);
                self.close(id);
            }
            (false, _) => {
                if let Some(stream) = self.open.get_mut(&id) {
                    stream.left = Some(left);
                }
            }
        }
    }

    /// Writes as much as the windows allow.
    fn put(&mut self, id: u32, data: &mut Bytes) {
        let Some(stream) = self.open.get_mut(&id) else { return };
        while !data.is_empty() {
            let room = usize::try_from(stream.window.min(self.window)).unwrap_or(0);
            let size = room.min(MAX_PAYLOAD).min(data.len());
            if size == 0 {
                return;
            }
            frame::head(&mut self.out, size, DATA, 0, id);
            self.out.extend_from_slice(&data.split_to(size));
            stream.window -= size as i64;
            self.window -= size as i64;
        }
    }

    /// Ends an answer.
    fn end(&mut self, id: u32, status: &Status) {
        let encoder = &mut self.encoder;
        frame::headers(&mut self.out, END_STREAM, id, |out| {
            if status.code == Code::Ok && status.message.is_empty() {
                return encoder.ok_trailers(out);
            }
            let mut block = encoder.block(out);
            for (name, value) in fields(status) {
                block.field(name, value.as_bytes());
            }
        });
        self.close(id);
    }

    /// The answer has ended. A client that has more to say need not.
    fn close(&mut self, id: u32) {
        if self.open.remove(&id).is_some_and(|stream| !stream.ended) {
            self.reset(id, Reason::NoError);
        }
    }

    /// The connection has ended.
    pub(in crate::etcd) fn close_all(&mut self) {
        self.open.values_mut().for_each(Stream::lose);
    }
}

/// The fields of a status, one after the other.
fn fields(status: &Status) -> impl Iterator<Item = (&'static str, String)> {
    let message = (!status.message.is_empty()).then(|| ("grpc-message", status.escaped()));
    [("grpc-status", (status.code as u8).to_string())].into_iter().chain(message)
}
