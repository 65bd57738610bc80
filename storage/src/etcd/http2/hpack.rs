//! Header compression (RFC 7541) for the server's side of a connection: reads whatever a client may write, writes the
//! few fields that a server says.
//!
//! Invariants: whatever comes in gives fields or [`Malformed`], and never a panic; what a connection keeps is below 24
//! KiB, and what a field in work takes is what its block can expand to; what one block may be made to say has an end
//! ([`MAX_LIST`]). Names and values are bytes here: what may stand in them, and in which order, is for the connection
//! to judge. Called by the connection alone, and by the fuzz target through [`read_headers`].

mod decode;
mod encode;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub(in crate::etcd) use decode::Decoder;
pub(in crate::etcd) use encode::Encoder;

/// Each side's table before anybody says otherwise, in the measure of RFC 7541, 4.1. It is what we announce.
const TABLE_SIZE: usize = 4096;
/// What an entry of a table, or a field of a list, counts beside its bytes.
const OVERHEAD: usize = 32;
/// What the fields of one block may add up to, each with its [`OVERHEAD`]. It is far above what a connection accepts,
/// and below what a block could be made to stand for, since each of its bytes may point to 4 KiB.
pub(in crate::etcd) const MAX_LIST: usize = 256 << 10;

/// Why a header block is none. The table is out of step for good then: it ends the connection (`COMPRESSION_ERROR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::etcd) enum Malformed {
    #[error("a header block ends within a field")]
    Truncated,
    #[error("a header block has a number that is too large")]
    Number,
    #[error("a header block refers to an entry that is not in the table")]
    Index,
    #[error("a header block has a string that is not Huffman-coded as it says")]
    Huffman,
    #[error("a header block changes the table's size where it must not, or beyond what is allowed")]
    TableSize,
    #[error("a header block stands for far more than is allowed")]
    Large,
}

/// Reads the blocks of one client, one after the other, and says whether they are well formed. The door for `fuzz/`.
pub fn read_headers<'a>(blocks: impl IntoIterator<Item = &'a [u8]>, mut field: impl FnMut(&[u8], &[u8])) -> bool {
    let mut decoder = Decoder::default();
    blocks.into_iter().all(|block| decoder.decode(block, &mut field).is_ok())
}
