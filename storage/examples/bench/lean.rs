//! A client that costs little: unary gRPC calls as bare HTTP/2 frames, many streams on a connection, all in one task.
//!
//! It measures servers on the machine that they run on, so what it takes itself would be missing there. It knows just
//! enough: each request has the same headers, an answer is its DATA followed by trailers, and a refusal, which has no
//! DATA, ends the measurement.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME: usize = 9;
/// Flag and length before a gRPC message.
const PREFIX: usize = 5;
/// What the protocol begins with.
const WINDOW: usize = 65_535;
/// What may come in before the server is told to go on.
const TOP_UP: usize = 1 << 24;

/// A request under way.
struct Call {
    stream: u32,
    began: Instant,
    received: usize,
}

struct Connection<'a> {
    path: &'a str,
    out: Vec<u8>,
    next: u32,
    /// Bytes that the server takes yet.
    window: usize,
    taken: usize,
    calls: Vec<Call>,
    least: usize,
    times: Vec<Duration>,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Outcome<()> {
    let length = u32::try_from(payload.len())?.to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// The first request names its headers and has them remembered, those after it point there (RFC 7541).
fn headers(path: &str, first: bool) -> Outcome<Vec<u8>> {
    // POST and http, from the static table.
    let mut block = vec![0x83, 0x86];
    if !first {
        block.extend([0xc1, 0xc0, 0xbf, 0xbe]);
        return Ok(block);
    }
    // Names from the static table: path, authority, content-type; then one of our own.
    for (name, value) in [(4, path), (1, "etcd"), (31, "application/grpc")] {
        block.extend([0x40 | name, u8::try_from(value.len())?]);
        block.extend(value.bytes());
    }
    block.extend(*b"\x40\x02te\x08trailers");
    Ok(block)
}

impl Connection<'_> {
    fn begin(&mut self, message: &[u8]) -> Outcome<()> {
        let block = headers(self.path, self.next == 1)?;
        frame(&mut self.out, HEADERS, END_HEADERS, self.next, &block)?;
        let length = u32::try_from(message.len())?;
        let framed = (length + u32::try_from(PREFIX)?).to_be_bytes();
        self.out.extend_from_slice(&framed[1..]);
        self.out.extend_from_slice(&[DATA, END_STREAM]);
        self.out.extend_from_slice(&self.next.to_be_bytes());
        self.out.push(0);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(message);
        self.window -= PREFIX + message.len();
        self.calls.push(Call { stream: self.next, began: Instant::now(), received: 0 });
        self.next += 2;
        Ok(())
    }

    /// Takes one frame.
    fn receive(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Outcome<()> {
        match kind {
            DATA => {
                self.taken += payload.len();
                if let Some(call) = self.calls.iter_mut().find(|call| call.stream == stream) {
                    call.received += payload.len();
                }
                if self.taken >= TOP_UP {
                    frame(&mut self.out, WINDOW_UPDATE, 0, 0, &u32::try_from(self.taken)?.to_be_bytes())?;
                    self.taken = 0;
                }
                if flags & END_STREAM != 0 {
                    return Err("an answer without trailers".into());
                }
            }
            HEADERS if flags & END_STREAM != 0 => {
                let Some(at) = self.calls.iter().position(|call| call.stream == stream) else { return Ok(()) };
                let call = self.calls.swap_remove(at);
                if call.received < self.least {
                    return Err(format!("an answer of {} bytes to {}", call.received, self.path).into());
                }
                self.times.push(call.began.elapsed());
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.out, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload)?,
            WINDOW_UPDATE if stream == 0 => {
                let more: [u8; 4] = payload.try_into()?;
                self.window += u32::from_be_bytes(more) as usize;
            }
            GOAWAY | RST_STREAM => return Err("the server has given up".into()),
            _ => {}
        }
        Ok(())
    }

    /// Takes all whole frames; says how many bytes they were.
    fn receive_all(&mut self, input: &[u8]) -> Outcome<usize> {
        let mut at = 0;
        while let Some(([a, b, c, kind, flags, stream @ ..], rest)) = input[at..].split_first_chunk::<FRAME>() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some(payload) = rest.get(..length) else { break };
            self.receive(*kind, *flags, u32::from_be_bytes(*stream), payload)?;
            at += FRAME + length;
        }
        Ok(at)
    }
}

/// Calls `path` on one connection with so many requests under way until `end`, and then waits for the last ones. An
/// answer has `least` bytes or more. Returns how long each took.
pub(crate) async fn drive(
    address: SocketAddr,
    path: &str,
    streams: usize,
    end: Instant,
    least: usize,
    mut message: impl FnMut() -> Vec<u8>,
) -> Outcome<Vec<Duration>> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut connection = Connection {
        path,
        out: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        next: 1,
        window: WINDOW,
        taken: 0,
        calls: Vec::new(),
        least: least + PREFIX,
        times: Vec::new(),
    };
    frame(&mut connection.out, SETTINGS, 0, 0, &[])?;
    frame(&mut connection.out, WINDOW_UPDATE, 0, 0, &u32::try_from(2 * TOP_UP)?.to_be_bytes())?;
    let (mut input, mut filled) = (vec![0; 1 << 18], 0);
    let mut waiting = message();
    loop {
        let over = Instant::now() >= end;
        while !over && connection.calls.len() < streams && connection.window >= PREFIX + waiting.len() {
            connection.begin(&waiting)?;
            waiting = message();
        }
        if connection.calls.is_empty() && over {
            return Ok(connection.times);
        }
        if !connection.out.is_empty() {
            socket.write_all(&connection.out).await?;
            connection.out.clear();
        }
        match socket.read(&mut input[filled..]).await? {
            0 => return Err("the server has closed the connection".into()),
            read => filled += read,
        }
        let taken = connection.receive_all(&input[..filled])?;
        input.copy_within(taken..filled, 0);
        filled -= taken;
    }
}
