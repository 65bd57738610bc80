//! Frames of RFC 6455, section 5.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::close;

/// The longest message taken.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
/// Control frames are this long at most.
const MAX_CONTROL: u64 = 125;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(nibble: u8) -> Option<Opcode> {
        use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
        [Continuation, Text, Binary, Close, Ping, Pong].into_iter().find(|o| *o as u8 == nibble)
    }

    pub(crate) fn is_data(self) -> bool {
        matches!(self, Self::Continuation | Self::Text | Self::Binary)
    }
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    pub(crate) opcode: Opcode,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("connection")]
    Io(#[from] io::Error),
    #[error("the client sent {0}")]
    Protocol(&'static str),
    #[error("the client sent a message of more than {MAX_MESSAGE} bytes")]
    TooBig,
}

impl FrameError {
    /// What to tell the client, where there is still one.
    pub(crate) fn close_code(&self) -> Option<u16> {
        match self {
            Self::Io(_) => None,
            Self::Protocol(_) => Some(close::PROTOCOL),
            Self::TooBig => Some(close::TOO_BIG),
        }
    }
}

/// Reads one frame of a client; `None` at the end of the connection. `room` bounds the payload of a data frame.
pub(crate) async fn read(input: &mut (impl AsyncRead + Unpin), room: usize) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; 2];
    if input.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..]).await?;
    if head[0] & 0x70 != 0 {
        return Err(FrameError::Protocol("a frame with reserved bits"));
    }
    let fin = head[0] & 0x80 != 0;
    let opcode = Opcode::of(head[0] & 0x0f).ok_or(FrameError::Protocol("an unknown kind of frame"))?;
    if head[1] & 0x80 == 0 {
        return Err(FrameError::Protocol("a frame without mask"));
    }
    let length = match head[1] & 0x7f {
        126 => u64::from(input.read_u16().await?),
        127 => input.read_u64().await?,
        short => u64::from(short),
    };
    if !opcode.is_data() && (length > MAX_CONTROL || !fin) {
        return Err(FrameError::Protocol("a control frame that is too long or in parts"));
    }
    if opcode.is_data() && length > room as u64 {
        return Err(FrameError::TooBig);
    }
    let mut mask = [0; 4];
    input.read_exact(&mut mask).await?;
    // Grows with what arrives, not with what is announced.
    let mut payload = Vec::new();
    if input.take(length).read_to_end(&mut payload).await? as u64 != length {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    apply_mask(&mut payload, mask);
    Ok(Some(Frame { fin, opcode, payload }))
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        chunk.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// Adds an unmasked, whole frame: what a server sends.
pub(crate) fn encode(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.push(0x80 | opcode as u8);
    push_length(out, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn push_length(out: &mut Vec<u8>, length: usize, mask_bit: u8) {
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Adds a masked frame: what a client sends.
#[cfg(test)]
pub(crate) fn encode_as_client(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8]) {
    let mask = [0x12, 0x34, 0x56, 0x78];
    out.push(if fin { 0x80 } else { 0 } | opcode as u8);
    push_length(out, payload.len(), 0x80);
    out.extend_from_slice(&mask);
    let from = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[from..], mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(payload: &[u8]) -> Frame {
        let mut wire = Vec::new();
        encode_as_client(&mut wire, true, Opcode::Binary, payload);
        read(&mut wire.as_slice(), MAX_MESSAGE).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn payloads_of_all_three_length_forms_come_through() {
        for size in [0, 1, 125, 126, 127, 65_535, 65_536, 100_001] {
            let payload: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
            assert_eq!(round_trip(&payload).await.payload, payload);
        }
    }

    #[tokio::test]
    async fn the_masked_hello_of_the_rfc_is_read() {
        let wire = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let frame = read(&mut wire.as_slice(), 100).await.unwrap().unwrap();
        assert_eq!((frame.fin, frame.opcode, frame.payload.as_slice()), (true, Opcode::Text, &b"Hello"[..]));
        let mut out = Vec::new();
        encode(&mut out, Opcode::Text, b"Hello");
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }

    #[tokio::test]
    async fn broken_frames_are_refused() {
        let cases: [(&[u8], Option<u16>); 6] = [
            (&[0x81, 0x01, b'x'], Some(close::PROTOCOL)),
            (&[0xc1, 0x80, 0, 0, 0, 0], Some(close::PROTOCOL)),
            (&[0x83, 0x80, 0, 0, 0, 0], Some(close::PROTOCOL)),
            (&[0x09, 0x80, 0, 0, 0, 0], Some(close::PROTOCOL)),
            (&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], Some(close::TOO_BIG)),
            (&[0x82, 0x85, 0, 0, 0, 0, b'x'], None),
        ];
        for (wire, code) in cases {
            let error = read(&mut &*wire, MAX_MESSAGE).await.unwrap_err();
            assert_eq!(error.close_code(), code, "{wire:?}");
        }
        assert!(read(&mut &[][..], MAX_MESSAGE).await.unwrap().is_none());
    }
}
