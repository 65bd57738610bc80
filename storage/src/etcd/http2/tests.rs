//! A client that writes bare frames, the rules kept and broken.

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PUSH_PROMISE,
    RST_STREAM, Reason, SETTINGS, Violation, WINDOW_UPDATE,
};
use super::receive::{self, Method, Receiver};
use super::streams::Shared;
use crate::etcd::limits::{MAX_CALLS, STREAM_WINDOW};
use crate::etcd::status::{Code, Status};
use crate::etcd::wire;

/// `:method: POST`, `:path: /p`, `content-type: application/grpc`, `grpc-timeout: 5S`, none of it put into a table.
const POST: &[u8] = b"\x83\x04\x02/p\x0f\x10\x10application/grpc\x00\x0cgrpc-timeout\x025S";

/// One connection, seen from both sides.
struct Pair {
    receiver: Receiver,
    shared: Shared,
    input: BytesMut,
}

/// A call that has begun: its id, and its message when it came at once.
type Call = (u32, Option<Vec<u8>>);
/// A frame that went out: kind, flags, stream, payload.
type Sent = (u8, u8, u32, Vec<u8>);

impl Pair {
    fn greeted() -> Self {
        let mut pair = Self { receiver: Receiver::default(), shared: Shared::new(), input: BytesMut::new() };
        receive::greet(&mut pair.shared.lock());
        pair.input.extend_from_slice(PREFACE);
        assert_eq!(pair.says(SETTINGS, 0, 0, b""), Ok(vec![]));
        pair.sent();
        pair
    }

    /// The client sends a frame.
    fn says(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<Vec<Call>, Violation> {
        self.input.put_uint(payload.len() as u64, 3);
        self.input.put_slice(&[kind, flags]);
        self.input.put_u32(stream);
        self.input.put_slice(payload);
        self.take()
    }

    fn take(&mut self) -> Result<Vec<Call>, Violation> {
        let mut calls = Vec::new();
        loop {
            let input = self.input.split().freeze();
            let (taken, begun) = self.receiver.next(&mut self.shared.lock(), &input)?;
            self.input.extend_from_slice(&input[taken..]);
            let Some(begun) = begun else { return Ok(calls) };
            calls.push((begun.id, begun.whole.map(<[u8]>::to_vec)));
        }
    }

    fn breaks(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Reason {
        self.says(kind, flags, stream, payload).unwrap_err().reason
    }

    /// The client begins a call.
    fn calls(&mut self, id: u32) {
        assert_eq!(self.says(HEADERS, END_HEADERS, id, POST), Ok(vec![(id, None)]));
    }

    /// What was sent to the client since it was last asked for.
    fn sent(&mut self) -> Vec<Sent> {
        let mut streams = self.shared.lock();
        let mut frames = Vec::new();
        let mut at = 0;
        while let Some((frame, size)) = Frame::parse(&streams.out()[at..]).unwrap() {
            frames.push((frame.kind, frame.flags, frame.stream, frame.payload.to_vec()));
            at += size;
        }
        assert_eq!(at, streams.out().len());
        streams.sent(at);
        frames
    }

    fn kinds(&mut self) -> Vec<(u8, u32)> {
        self.sent().into_iter().map(|(kind, _, stream, _)| (kind, stream)).collect()
    }

    fn reset_with(&mut self) -> (u32, u32) {
        let [(RST_STREAM, 0, id, reason)] = &self.sent()[..] else { unreachable!("one reset") };
        (*id, u32::from_be_bytes(reason[..].try_into().unwrap()))
    }

    /// Answers with so many bytes, prefix and all.
    fn answer(&mut self, id: u32, bytes: usize) {
        let message =
            wire::PutRequest { key: vec![b'k'; bytes - 5 - 2 - usize::from(bytes > 134)], ..Default::default() };
        assert_eq!(prost::Message::encoded_len(&message) + 5, bytes);
        self.shared.lock().answer(id, &message);
    }

    fn data(&mut self) -> usize {
        self.sent().iter().filter(|(kind, ..)| *kind == DATA).map(|(.., payload)| payload.len()).sum()
    }
}

#[test]
fn a_connection_begins_with_its_preface_and_settings() {
    let new = || Pair { receiver: Receiver::default(), shared: Shared::new(), input: BytesMut::new() };
    for known in 0..PREFACE.len() {
        let mut pair = new();
        pair.input.extend_from_slice(&PREFACE[..known]);
        assert_eq!(pair.take(), Ok(vec![]), "it may come in pieces");
        pair.input.put_u8(b'x');
        assert_eq!(pair.take().unwrap_err().reason, Reason::Protocol);
    }
    for (kind, flags, payload) in [(PING, 0, &[0; 8][..]), (SETTINGS, frame::ACK, &[]), (HEADERS, END_HEADERS, POST)] {
        let mut pair = new();
        pair.input.extend_from_slice(PREFACE);
        assert_eq!(pair.breaks(kind, flags, u32::from(kind == HEADERS), payload), Reason::Protocol);
    }
    assert!(Pair::greeted().receiver.is_greeted());
}

#[test]
fn a_call_comes_with_its_message_or_without() {
    let mut pair = Pair::greeted();
    let mut both = BytesMut::new();
    frame::headers(&mut both, 0, 1, |out| out.extend_from_slice(POST));
    frame::head(&mut both, 3, DATA, END_STREAM, 1);
    both.extend_from_slice(b"abc");
    // A part of the message comes before anything else can, and is waited for.
    for byte in &both[..both.len() - 1] {
        pair.input.put_u8(*byte);
        let calls = pair.take().unwrap();
        let at_headers = pair.input.is_empty();
        assert_eq!(calls, if at_headers { vec![(1, None)] } else { vec![] });
        if at_headers {
            break;
        }
    }
    let mut pair = Pair::greeted();
    pair.input.extend_from_slice(&both[..both.len() - 1]);
    assert_eq!(pair.take(), Ok(vec![]));
    pair.input.put_u8(b'c');
    assert_eq!(pair.take(), Ok(vec![(1, Some(b"abc".to_vec()))]));
    pair.answer(1, 20);
    assert_eq!(pair.kinds(), [(HEADERS, 1), (DATA, 1), (HEADERS, 1)]);
    // With padding; and one that has more to say.
    assert_eq!(pair.says(HEADERS, END_HEADERS | 8, 3, &[b"\x02", POST, b"\0\0"].concat()), Ok(vec![(3, None)]));
    assert_eq!(pair.says(DATA, 8, 3, b"\x03abc\0\0\0"), Ok(vec![]));
    let (mut body, respond) = pair.shared.call(3);
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Some(Ok(piece))) = body.poll(&cx) else { unreachable!("a piece") };
    assert_eq!(&piece[..], b"abc");
    assert!(body.poll(&cx).is_pending());
    respond.refuse(&Status::new(Code::Internal, "100 %\n"));
    let sent = pair.sent();
    assert!(sent[0].3.ends_with(b"grpc-status\x0213\x00\x0cgrpc-message\x0a100 %25%0A"), "{sent:?}");
    assert_eq!((sent[1].0, &sent[1].3[..]), (RST_STREAM, &[0; 4][..]), "it need not go on");
}

#[test]
fn what_headers_say() {
    let mut pair = Pair::greeted();
    let mut head = |block: &[u8]| {
        let mut framed = BytesMut::new();
        let last = pair.shared.lock().last();
        let id = if last == 0 { 1 } else { last + 2 };
        frame::headers(&mut framed, END_STREAM, id, |out| out.extend_from_slice(block));
        let (_, begun) = pair.receiver.next(&mut pair.shared.lock(), &framed).unwrap();
        begun.map(|begun| begun.head)
    };
    let good = head(POST).unwrap();
    assert_eq!((good.method, &*good.path, good.grpc, good.too_long), (Method::Post, "/p", true, false));
    assert_eq!(good.timeout, Ok(Some(std::time::Duration::from_secs(5))));
    assert!(!good.wants_leader);
    let wants = head(&[POST, b"\x00\x09hasleader\x04true"].concat()).unwrap();
    assert!(wants.wants_leader);
    // `accept-encoding: gzip, deflate` counts 60 bytes and takes one.
    let long = head(&[POST, &[0x90; 300]].concat());
    assert!(long.is_some_and(|head| head.too_long));
    for bad in [
        &b"\x04\x02/p"[..],
        b"\x83",
        b"\x83\x83\x04\x02/p",
        b"\x83\x04\x02/p\x04\x02/p",
        b"\x83\x04\x02/p\x00\x0aconnection\x05close",
        b"\x83\x04\x02/p\x00\x03Bad\x01x",
    ] {
        assert!(head(bad).is_none(), "{bad:?}");
    }
    let resets = pair.sent();
    assert!(resets.len() == 6 && resets.iter().all(|(kind, .., reason)| *kind == RST_STREAM && reason[3] == 1));
}

#[test]
fn headers_may_come_in_pieces_but_not_without_end() {
    let mut pair = Pair::greeted();
    assert_eq!(pair.says(HEADERS, END_STREAM, 1, &POST[..5]), Ok(vec![]));
    assert_eq!(pair.says(CONTINUATION, 0, 1, &POST[5..9]), Ok(vec![]));
    assert_eq!(pair.says(CONTINUATION, END_HEADERS, 1, &POST[9..]), Ok(vec![(1, None)]));
    assert_eq!(pair.says(HEADERS, 0, 3, POST), Ok(vec![]));
    assert_eq!(pair.breaks(CONTINUATION, 0, 5, b""), Reason::Protocol);
    for other in [DATA, HEADERS, PING, SETTINGS, WINDOW_UPDATE, 77] {
        let mut pair = Pair::greeted();
        assert_eq!(pair.says(HEADERS, 0, 1, POST), Ok(vec![]));
        assert_eq!(pair.breaks(other, 0, 1, b""), Reason::Protocol, "{other}");
    }
    for piece in [&[][..], &[0; 16_000]] {
        let mut pair = Pair::greeted();
        assert_eq!(pair.says(HEADERS, 0, 1, b""), Ok(vec![]));
        let ended = (0..200).find_map(|_| pair.says(CONTINUATION, 0, 1, piece).err());
        assert_eq!(ended.map(|violation| violation.reason), Some(Reason::EnhanceYourCalm));
    }
    assert_eq!(Pair::greeted().breaks(HEADERS, END_HEADERS, 1, b"\xff\xff"), Reason::Compression);
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let cases: &[(u8, u8, u32, &[u8], Reason)] = &[
        (DATA, 0, 0, b"", Reason::Protocol),
        (DATA, 0, 5, b"", Reason::Protocol),
        (DATA, 8, 1, b"", Reason::FrameSize),
        (DATA, 8, 1, b"\x02x", Reason::Protocol),
        (HEADERS, END_HEADERS, 0, POST, Reason::Protocol),
        (HEADERS, END_HEADERS, 4, POST, Reason::Protocol),
        (HEADERS, END_HEADERS | 0x20, 3, b"\0\0\0\0", Reason::FrameSize),
        (CONTINUATION, END_HEADERS, 1, b"", Reason::Protocol),
        (PRIORITY, 0, 1, b"\0\0\0\0", Reason::FrameSize),
        (RST_STREAM, 0, 1, b"\0\0\0", Reason::FrameSize),
        (RST_STREAM, 0, 0, b"\0\0\0\0", Reason::Protocol),
        (RST_STREAM, 0, 3, b"\0\0\0\0", Reason::Protocol),
        (SETTINGS, 0, 0, b"\0\x04\0", Reason::FrameSize),
        (SETTINGS, 0, 1, b"", Reason::Protocol),
        (SETTINGS, frame::ACK, 0, b"\0\x04\0\0\0\0", Reason::FrameSize),
        (SETTINGS, 0, 0, b"\0\x04\x80\0\0\0", Reason::FlowControl),
        (SETTINGS, 0, 0, b"\0\x05\0\0\x3f\xff", Reason::Protocol),
        (SETTINGS, 0, 0, b"\0\x02\0\0\0\x02", Reason::Protocol),
        (PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02", Reason::Protocol),
        (PING, 0, 0, b"short", Reason::FrameSize),
        (PING, 0, 1, &[0; 8], Reason::Protocol),
        (GOAWAY, 0, 0, b"\0\0\0\0", Reason::FrameSize),
        (WINDOW_UPDATE, 0, 0, b"\0\0\0\0", Reason::FlowControl),
        (WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff", Reason::FlowControl),
        (WINDOW_UPDATE, 0, 3, b"\0\0\0\x01", Reason::Protocol),
        (WINDOW_UPDATE, 0, 1, b"\0\0\x01", Reason::FrameSize),
        (DATA, 0, 1, &[0; 16_385], Reason::FrameSize),
    ];
    for (kind, flags, stream, payload, reason) in cases {
        let mut pair = Pair::greeted();
        pair.calls(1);
        let found = pair.breaks(*kind, *flags, *stream, payload);
        assert_eq!(found, *reason, "kind {kind}, flags {flags}, stream {stream}, {} bytes", payload.len());
    }
}

#[test]
fn what_may_be_ignored_is() {
    let mut pair = Pair::greeted();
    pair.calls(1);
    pair.sent();
    for (kind, flags, stream, payload) in [
        (PRIORITY, 0, 1, &[0; 5][..]),
        (PRIORITY, 0, 9, &[0; 5]),
        (77, 0xff, 12, b"whatever"),
        (SETTINGS, frame::ACK, 0, b""),
        (PING, frame::ACK, 0, &[0; 8]),
        (GOAWAY, 0, 0, &[0; 8]),
        (DATA, 0, 1, b""),
    ] {
        assert_eq!(pair.says(kind, flags, stream, payload), Ok(vec![]));
    }
    assert_eq!(pair.sent(), []);
    assert_eq!(pair.says(PING, 0, 0, b"12345678"), Ok(vec![]));
    assert_eq!(pair.sent(), [(PING, frame::ACK, 0, b"12345678".to_vec())]);
    assert_eq!(pair.says(SETTINGS, 0, 0, b"\0\x99\0\0\0\x01\0\x03\0\0\0\0"), Ok(vec![]));
    assert_eq!(pair.sent(), [(SETTINGS, frame::ACK, 0, vec![])]);
}

#[test]
fn a_body_is_taken_as_far_as_its_window() {
    let mut pair = Pair::greeted();
    pair.calls(1);
    let (mut body, _respond) = pair.shared.call(1);
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..4 {
        assert_eq!(pair.says(DATA, 0, 1, &[7; 16_384]), Ok(vec![]));
    }
    // Taken: it may send as much again.
    assert!(matches!(body.poll(&cx), std::task::Poll::Ready(Some(Ok(piece))) if piece.len() == 65_536));
    assert_eq!(pair.sent(), [(WINDOW_UPDATE, 0, 1, STREAM_WINDOW.to_be_bytes().to_vec())]);
    for _ in 0..4 {
        assert_eq!(pair.says(DATA, 0, 1, &[7; 16_384]), Ok(vec![]));
    }
    assert_eq!(pair.says(DATA, 0, 1, b"x"), Ok(vec![]));
    assert_eq!(pair.reset_with(), (1, Reason::FlowControl as u32));
    assert!(matches!(body.poll(&cx), std::task::Poll::Ready(Some(Err(_)))));
    // What comes after its end.
    assert_eq!(pair.says(HEADERS, END_HEADERS | END_STREAM, 3, POST), Ok(vec![(3, None)]));
    assert_eq!(pair.says(DATA, 0, 3, b"x"), Ok(vec![]));
    assert_eq!(pair.reset_with(), (3, Reason::StreamClosed as u32));
    // What is on its way to a stream that is no more counts, and is not kept.
    pair.calls(5);
    pair.shared.lock().refuse(5, &Status::empty_key());
    pair.sent();
    for _ in 0..64 {
        assert_eq!(pair.says(DATA, 0, 5, &[0; 16_384]), Ok(vec![]));
    }
    let told: u64 = pair
        .sent()
        .iter()
        .map(|(kind, _, stream, more)| {
            assert_eq!((*kind, *stream), (WINDOW_UPDATE, 0));
            u64::from(u32::from_be_bytes(more[..].try_into().unwrap()))
        })
        .sum();
    assert!(told >= 1 << 20, "{told}");
}

#[test]
fn an_answer_goes_as_far_as_the_windows() {
    let mut pair = Pair::greeted();
    // Windows of 100 bytes for streams.
    assert_eq!(pair.says(SETTINGS, 0, 0, b"\0\x04\0\0\0\x64"), Ok(vec![]));
    pair.calls(1);
    pair.sent();
    pair.answer(1, 300);
    assert_eq!(pair.data(), 100);
    // Less than nothing is left when it takes some back.
    assert_eq!(pair.says(SETTINGS, 0, 0, b"\0\x04\0\0\0\x32"), Ok(vec![]));
    assert_eq!(pair.says(WINDOW_UPDATE, 0, 1, &50_u32.to_be_bytes()), Ok(vec![]));
    assert_eq!(pair.data(), 0);
    assert_eq!(pair.says(SETTINGS, 0, 0, b"\0\x04\0\0\0\x64"), Ok(vec![]));
    assert_eq!(pair.data(), 50);
    assert_eq!(pair.says(WINDOW_UPDATE, 0, 1, &1000_u32.to_be_bytes()), Ok(vec![]));
    let sent = pair.sent();
    assert_eq!(
        sent.iter().map(|(kind, flags, ..)| (*kind, flags & END_STREAM)).collect::<Vec<_>>(),
        [(DATA, 0), (HEADERS, END_STREAM), (RST_STREAM, 0)]
    );
    assert_eq!(sent[0].3.len(), 150);
    assert!(!pair.shared.lock().several());
    // All of them together have the first 65,535 bytes, of which 300 are gone.
    assert_eq!(pair.says(SETTINGS, 0, 0, b"\0\x04\0\x10\0\0"), Ok(vec![]));
    for id in [3, 5, 7, 9, 11] {
        pair.calls(id);
        pair.answer(id, 16_000);
    }
    assert_eq!(pair.data(), 65_235);
    // One that waits is given up.
    assert_eq!(pair.says(RST_STREAM, 0, 11, &8_u32.to_be_bytes()), Ok(vec![]));
    assert_eq!(pair.says(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()), Ok(vec![]));
    assert_eq!(pair.data(), 0);
    // A window that a stream cannot have is that stream's end.
    pair.calls(13);
    assert_eq!(pair.says(WINDOW_UPDATE, 0, 13, b"\x7f\xff\xff\xff"), Ok(vec![]));
    assert_eq!(pair.reset_with(), (13, Reason::FlowControl as u32));
    pair.calls(15);
    assert_eq!(pair.breaks(SETTINGS, 0, 0, b"\0\x04\x80\0\0\0"), Reason::FlowControl);
}

#[test]
fn calls_that_are_given_up_make_no_room_for_others_while_somebody_works_for_them() {
    let mut pair = Pair::greeted();
    let mut calls = Vec::new();
    for n in 0..MAX_CALLS {
        pair.calls(2 * n + 1);
        calls.push(pair.shared.call(2 * n + 1));
        assert_eq!(pair.says(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()), Ok(vec![]));
    }
    pair.sent();
    let next = 2 * MAX_CALLS + 1;
    assert_eq!(pair.says(HEADERS, END_HEADERS, next, POST), Ok(vec![]));
    assert_eq!(pair.reset_with(), (next, Reason::RefusedStream as u32));
    // Nobody hears of what becomes of them.
    let (_, respond) = calls.pop().unwrap();
    respond.answer(&wire::Empty {});
    let (_, respond) = calls.pop().unwrap();
    drop(respond);
    assert_eq!(pair.sent(), []);
    pair.calls(next + 2);
    pair.calls(next + 4);
    // A call that nobody answers is broken off.
    drop(pair.shared.call(next + 4));
    assert_eq!(pair.reset_with(), (next + 4, Reason::Internal as u32));
}

#[test]
fn who_does_not_read_is_not_listened_to_after_a_while() {
    let mut pair = Pair::greeted();
    let mut pings = 0;
    while !pair.shared.lock().is_full() {
        assert_eq!(pair.says(PING, 0, 0, b"12345678"), Ok(vec![]));
        pings += 1;
    }
    assert!((10_000..20_000).contains(&pings), "{pings}");
    pair.calls(1);
    let (_, respond) = pair.shared.call(1);
    let cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut piece = Bytes::from_static(b"piece");
    assert!(respond.poll_send(&cx, &mut piece).is_pending());
    pair.sent();
    assert!(respond.poll_send(&cx, &mut piece).is_ready());
    assert_eq!(pair.sent().len(), 1);
}

/// Frames of all kinds, some of them spoilt: calls, or an end, and never a panic.
#[test]
fn whatever_comes_in_is_taken_or_ends_the_connection() {
    use rand::{Rng as _, SeedableRng as _};
    let (mut taken, mut ended) = (0, 0);
    for seed in 0..3000 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let mut bytes = BytesMut::from(PREFACE);
        frame::head(&mut bytes, 0, SETTINGS, 0, 0);
        for _ in 0..random.random_range(1..40) {
            let at = bytes.len();
            let stream = random.random_range(0..12);
            match random.random_range(0..8) {
                0..3 => {
                    frame::headers(&mut bytes, random.random_range(0..2), stream | 1, |out| out.extend_from_slice(POST))
                }
                3 | 4 => {
                    let size = random.random_range(0..200);
                    frame::head(&mut bytes, size, DATA, random.random_range(0..2), stream);
                    bytes.put_bytes(0, size);
                }
                5 => frame::number(&mut bytes, WINDOW_UPDATE, stream, 1 << random.random_range(0..31)),
                6 => frame::number(&mut bytes, RST_STREAM, stream, 8),
                _ => {
                    frame::head(&mut bytes, 6, SETTINGS, 0, 0);
                    bytes.put_u16(random.random_range(0..7));
                    bytes.put_u32(1 << random.random_range(0..32));
                }
            }
            if random.random_range(0..20) == 0 {
                let spoilt = random.random_range(at..bytes.len());
                bytes[spoilt] ^= 1 << random.random_range(0..8);
            }
        }
        let size = random.random_range(1..300);
        if receive::read_frames(bytes.chunks(size)) { taken += 1 } else { ended += 1 }
    }
    assert!(taken > 100 && ended > 100, "{taken} {ended}");
}
