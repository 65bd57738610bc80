//! Frames of SPDY/3.1.
//!
//! Data is not part of [`Frame`] when read: a data frame may announce 16 MiB, so its payload is read in pieces by the
//! session. Everything else is bounded here.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::header::{Decoder, Encoder, Headers, MAX_BLOCK};

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const MAX_SETTINGS: usize = 64;
const ID_MASK: u32 = 0x7fff_ffff;

/// Why a stream is reset (draft 3, section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    Protocol = 1,
    InvalidStream = 2,
    Refused = 3,
    Cancel = 5,
    FlowControl = 7,
}

/// Of the settings, only the window matters here.
pub(crate) const INITIAL_WINDOW: u32 = 7;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    /// Identifier and value of each setting.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    /// The head of a data frame; so many bytes follow.
    Data {
        id: u32,
        fin: bool,
        length: u32,
    },
    /// A kind that this side does not know.
    Other(u16),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("connection")]
    Io(#[from] io::Error),
    #[error("the client sent {0}")]
    Malformed(&'static str),
    #[error("the client sent a control frame that is too big")]
    TooBig,
    #[error("header compression failed")]
    Compression,
}

/// Reads the next frame; `None` at the end of the connection.
pub(crate) async fn read(
    input: &mut (impl AsyncRead + Unpin),
    decoder: &mut Decoder,
) -> Result<Option<Frame>, SpdyError> {
    let mut head = [0; 8];
    if input.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..]).await?;
    let [a, b, c, d, flags, x, y, z] = head;
    let fin = flags & FLAG_FIN != 0;
    let length = u32::from_be_bytes([0, x, y, z]);
    if a & 0x80 == 0 {
        return Ok(Some(Frame::Data { id: u32::from_be_bytes([a, b, c, d]), fin, length }));
    }
    if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
        return Err(SpdyError::Malformed("a frame of another protocol version"));
    }
    if length as usize > MAX_BLOCK {
        return Err(SpdyError::TooBig);
    }
    let mut payload = Vec::new();
    if input.take(length.into()).read_to_end(&mut payload).await? != length as usize {
        return Err(SpdyError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    control(u16::from_be_bytes([c, d]), fin, &payload, decoder).map(Some)
}

fn control(kind: u16, fin: bool, payload: &[u8], decoder: &mut Decoder) -> Result<Frame, SpdyError> {
    let number = |at: usize| {
        let bytes = payload.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or(SpdyError::Malformed("a control frame that ends early"))
    };
    let id = |at| number(at).map(|n| n & ID_MASK);
    let mut block = |at: usize| {
        let block = payload.get(at..).ok_or(SpdyError::Malformed("a control frame that ends early"))?;
        decoder.decode(block)
    };
    Ok(match kind {
        1 => Frame::SynStream { id: id(0)?, fin, headers: block(10)? },
        2 => Frame::SynReply { id: id(0)?, fin, headers: block(4)? },
        3 => Frame::RstStream { id: id(0)?, status: number(4)? },
        4 => {
            let count = number(0)? as usize;
            if count > MAX_SETTINGS {
                return Err(SpdyError::TooBig);
            }
            let entry = |i: usize| Ok((number(4 + i * 8)? & 0x00ff_ffff, number(8 + i * 8)?));
            Frame::Settings((0..count).map(entry).collect::<Result<_, SpdyError>>()?)
        }
        6 => Frame::Ping(number(0)?),
        7 => Frame::GoAway { last: id(0)?, status: number(4)? },
        8 => Frame::Headers { id: id(0)?, fin, headers: block(4)? },
        9 => Frame::WindowUpdate { id: id(0)?, delta: id(4)? },
        other => Frame::Other(other),
    })
}

/// Adds a frame; the payload of a data frame is to follow.
pub(crate) fn encode(out: &mut Vec<u8>, frame: &Frame, encoder: &mut Encoder) -> Result<(), SpdyError> {
    match frame {
        Frame::SynStream { id, fin, headers } => {
            let block = encoder.encode(headers)?;
            // No associated stream, priority zero, no slot.
            push_control(out, 1, *fin, &[&id.to_be_bytes(), &[0; 6], &block]);
        }
        Frame::SynReply { id, fin, headers } => {
            let block = encoder.encode(headers)?;
            push_control(out, 2, *fin, &[&id.to_be_bytes(), &block]);
        }
        Frame::Headers { id, fin, headers } => {
            let block = encoder.encode(headers)?;
            push_control(out, 8, *fin, &[&id.to_be_bytes(), &block]);
        }
        Frame::RstStream { id, status } => push_control(out, 3, false, &[&id.to_be_bytes(), &status.to_be_bytes()]),
        Frame::Settings(entries) => {
            let mut payload = u32::try_from(entries.len()).unwrap_or(0).to_be_bytes().to_vec();
            for (id, value) in entries {
                payload.extend_from_slice(&id.to_be_bytes());
                payload.extend_from_slice(&value.to_be_bytes());
            }
            push_control(out, 4, false, &[&payload]);
        }
        Frame::Ping(id) => push_control(out, 6, false, &[&id.to_be_bytes()]),
        Frame::GoAway { last, status } => push_control(out, 7, false, &[&last.to_be_bytes(), &status.to_be_bytes()]),
        Frame::WindowUpdate { id, delta } => push_control(out, 9, false, &[&id.to_be_bytes(), &delta.to_be_bytes()]),
        Frame::Data { id, fin, length } => {
            out.extend_from_slice(&(id & ID_MASK).to_be_bytes());
            push_length(out, *fin, *length);
        }
        Frame::Other(_) => {}
    }
    Ok(())
}

fn push_control(out: &mut Vec<u8>, kind: u16, fin: bool, parts: &[&[u8]]) {
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    let length: usize = parts.iter().map(|p| p.len()).sum();
    push_length(out, fin, u32::try_from(length).unwrap_or(u32::MAX));
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn push_length(out: &mut Vec<u8>, fin: bool, length: u32) {
    let [_, x, y, z] = length.to_be_bytes();
    out.extend_from_slice(&[if fin { FLAG_FIN } else { 0 }, x, y, z]);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(wire: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let (mut input, mut decoder, mut frames) = (wire, Decoder::new(), Vec::new());
        while let Some(frame) = read(&mut input, &mut decoder).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let headers = Headers(vec![("streamtype".into(), "data".into())]);
        let frames = vec![
            Frame::SynStream { id: 1, fin: false, headers: headers.clone() },
            Frame::SynReply { id: 1, fin: true, headers: Headers::default() },
            Frame::Headers { id: 1, fin: false, headers },
            Frame::RstStream { id: 3, status: Reset::Cancel as u32 },
            Frame::Settings(vec![(INITIAL_WINDOW, 1 << 20)]),
            Frame::Ping(9),
            Frame::GoAway { last: 5, status: 0 },
            Frame::WindowUpdate { id: 1, delta: 4096 },
            Frame::Data { id: 1, fin: true, length: 0 },
        ];
        let (mut wire, mut encoder) = (Vec::new(), Encoder::new().unwrap());
        for frame in &frames {
            encode(&mut wire, frame, &mut encoder).unwrap();
        }
        assert_eq!(read_all(&wire).await.unwrap(), frames);
    }

    #[tokio::test]
    async fn malformed_frames_are_refused() {
        let cases: [&[u8]; 6] = [
            &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
            &[0x80, 3, 0, 6, 0, 0, 0, 2, 0, 0],
            &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
            &[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
            &[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1],
            &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2],
        ];
        for wire in cases {
            assert!(read_all(wire).await.is_err(), "{wire:?}");
        }
        assert_eq!(read_all(&[0x80, 3, 0, 99, 0, 0, 0, 1, 7]).await.unwrap(), [Frame::Other(99)]);
    }

    #[tokio::test]
    async fn no_bytes_make_the_reader_panic() {
        // A fixed generator: the same inputs each time.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..2_000 {
            let mut wire: Vec<u8> = (0..64)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_be_bytes()[0]
                })
                .collect();
            wire[..3].copy_from_slice(&[0x80, 3, 0]);
            wire[3] %= 10;
            wire[5..7].copy_from_slice(&[0, 0]);
            drop(read_all(&wire).await);
        }
    }
}
