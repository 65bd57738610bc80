//! The frame around a message: protocol version, checksum, who speaks to whom in which cluster.

use bytes::Bytes;

use super::{Refusal, Request, Response};
use crate::codec::Decoder;
use crate::members::{ClusterId, MemberId};
use crate::transport::MAX_RPC_BYTES;

const MAGIC: [u8; 3] = *b"rkr";
const VERSION: u8 = 2;
const HEAD: usize = 8;
const ADDRESS: usize = 48;

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) cluster: ClusterId,
    pub(crate) from: MemberId,
    pub(crate) to: MemberId,
    /// Grows each time the sender's directory is opened.
    pub(crate) session: u64,
    /// Random, another one for each process: two that share a session are copies of each other.
    pub(crate) process: u64,
}

fn begin() -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&[0; 4]);
    out
}

fn seal(mut out: Vec<u8>) -> Bytes {
    let crc = crc32fast::hash(&out[HEAD..]);
    out[4..HEAD].copy_from_slice(&crc.to_le_bytes());
    Bytes::from(out)
}

/// What the frame holds, if it is of this version and whole.
fn open(bytes: &[u8]) -> Result<&[u8], Refusal> {
    let (head, rest) = bytes.split_at_checked(HEAD).ok_or(Refusal::Malformed)?;
    if head[..3] != MAGIC {
        return Err(Refusal::Malformed);
    }
    if head[3] != VERSION {
        return Err(Refusal::Version(head[3]));
    }
    if crc32fast::hash(rest).to_le_bytes() == head[4..] { Ok(rest) } else { Err(Refusal::Malformed) }
}

pub(crate) fn request(envelope: &Envelope, request: &Request) -> serde_json::Result<Bytes> {
    let mut out = begin();
    let Envelope { cluster, from, to, session, process } = *envelope;
    for word in [cluster.id, cluster.generation, from, to, session, process] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    request.encode(&mut out)?;
    Ok(seal(out))
}

/// Who sent a request to whom, and the request, still encoded: that is worth decoding only from a friend.
pub(crate) fn open_request(bytes: &[u8]) -> Result<(Envelope, &[u8]), Refusal> {
    if bytes.len() > MAX_RPC_BYTES {
        return Err(Refusal::Malformed);
    }
    let (address, body) = open(bytes)?.split_at_checked(ADDRESS).ok_or(Refusal::Malformed)?;
    let word = |at: usize| address[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let cluster = ClusterId { id: word(0), generation: word(8) };
    let (from, to, session, process) = (word(16), word(24), word(32), word(40));
    Ok((Envelope { cluster, from, to, session, process }, body))
}

pub(crate) fn response(response: &Response) -> Bytes {
    let mut out = begin();
    response.encode(&mut out);
    seal(out)
}

pub(crate) fn open_response(bytes: &[u8]) -> Result<Response, Refusal> {
    Response::decode(&mut Decoder::new(open(bytes)?)).map_err(|_| Refusal::Malformed)
}
