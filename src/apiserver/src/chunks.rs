//! Long answers, made as the client reads them: a chunk is written when the transport has room for it, so that an
//! answer of megabytes holds no more memory than its chunk, however slow its client is. Used by lists.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use objects::status::Status;

use crate::body::BoxError;

/// Size at which a chunk is full; the item that fills it is written whole. More than TLS packs into one record, and
/// little enough to stay in the processor's cache until it is encrypted.
const CHUNK: usize = 64 * 1024;

/// Appends what comes next; false when that was all.
pub(crate) type Pieces = Box<dyn FnMut(&mut Vec<u8>) -> Result<bool, Status> + Send>;

/// An answer in chunks.
pub(crate) struct Chunks {
    /// `None` at the end.
    pieces: Option<Pieces>,
}

impl Chunks {
    pub(crate) fn new(pieces: Pieces) -> Chunks {
        Chunks { pieces: Some(pieces) }
    }

    /// The next `size` bytes, a piece more, or what is left.
    pub(crate) fn fill(&mut self, size: usize) -> Result<Bytes, Status> {
        let mut out = Vec::with_capacity(size + size / 4);
        while let Some(pieces) = &mut self.pieces
            && out.len() < size
        {
            match pieces(&mut out) {
                Ok(true) => {}
                Ok(false) => self.pieces = None,
                Err(status) => {
                    self.pieces = None;
                    return Err(status);
                }
            }
        }
        Ok(out.into())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.pieces.is_none()
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes, BoxError>;

    /// The answer's head is sent by now: a failure can only cut the answer short, which the client notices.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done() {
            return None;
        }
        match self.fill(CHUNK) {
            Ok(chunk) => Some(Ok(chunk)),
            Err(status) => {
                tracing::warn!(error = %status, "an answer is cut short");
                Some(Err(status.into()))
            }
        }
    }
}

/// The gzip form of chunks.
pub(crate) struct Gzipped<C> {
    chunks: C,
    /// `None` when the end is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<C> Gzipped<C> {
    pub(crate) fn new(chunks: C) -> Gzipped<C> {
        // Upstream's level as well: the slower ones save little.
        Gzipped { chunks, encoder: Some(GzEncoder::new(Vec::new(), Compression::new(1))) }
    }
}

impl<C: Iterator<Item = Result<Bytes, BoxError>>> Iterator for Gzipped<C> {
    type Item = Result<Bytes, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let packed = match self.chunks.next() {
                Some(Ok(chunk)) => encoder.write_all(&chunk).map(|()| std::mem::take(encoder.get_mut())),
                Some(Err(error)) => {
                    self.encoder = None;
                    return Some(Err(error));
                }
                None => self.encoder.take()?.finish(),
            };
            match packed {
                Ok(packed) if packed.is_empty() => {}
                packed => return Some(packed.map(Bytes::from).map_err(BoxError::from)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn numbers(count: u32) -> Chunks {
        let mut at = 0;
        Chunks::new(Box::new(move |out| {
            out.extend_from_slice(format!("{at:07}\n").as_bytes());
            at += 1;
            Ok(at < count)
        }))
    }

    #[test]
    fn chunks_are_full_but_not_fuller_and_nothing_is_lost() {
        let chunks: Vec<Bytes> = numbers(20_000).map(Result::unwrap).collect();
        let (last, full) = chunks.split_last().unwrap();
        assert!(full.iter().all(|chunk| (CHUNK..CHUNK + 8).contains(&chunk.len())));
        assert!(last.len() <= CHUNK);
        let whole = chunks.concat();
        assert_eq!((whole.len(), &whole[whole.len() - 8..]), (160_000, b"0019999\n".as_slice()));
    }

    #[test]
    fn packed_chunks_are_unpacked_to_the_same() {
        let packed: Vec<Bytes> = Gzipped::new(numbers(50_000)).map(Result::unwrap).collect();
        let packed = packed.concat();
        assert!(packed.len() < 200_000, "{}", packed.len());
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut text).unwrap();
        assert_eq!(text, numbers(50_000).map(Result::unwrap).collect::<Vec<_>>().concat());
    }

    #[test]
    fn a_failure_cuts_the_answer_short() {
        let mut calls = 0;
        let chunks = Chunks::new(Box::new(move |out| {
            calls += 1;
            out.extend_from_slice(&[0; CHUNK]);
            if calls == 3 { Err(Status::internal("no more")) } else { Ok(true) }
        }));
        let ends: Vec<bool> = Gzipped::new(chunks).map(|chunk| chunk.is_ok()).collect();
        assert_eq!(ends.iter().filter(|ok| !**ok).count(), 1);
        assert_eq!(ends.last(), Some(&false));
    }
}
