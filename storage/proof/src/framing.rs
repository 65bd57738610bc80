//! How bytes are framed in the store's files, with the checksums right: for inputs that are to get past these, to the
//! decoders behind them. Written down anew, not taken from the store: what both get wrong would not be seen.

/// Bytes of a log segment before its first record.
pub const SEGMENT_HEADER: usize = 32;
/// Begins a record of the log.
pub const RECORD: u32 = 0x6b72_01e9;
/// Bytes of a record before and after its body.
pub const RECORD_HEADER: usize = 24;
pub const RECORD_END: [u8; 4] = [0xa5, 0x5a, 0xc3, 0x3c];

pub fn sum(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

pub fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes()
}

/// A log record; it follows nothing but the segment's header.
pub fn record(body: &[u8]) -> Vec<u8> {
    let behind = (SEGMENT_HEADER as u64).to_le_bytes();
    let mut out = [&RECORD.to_le_bytes()[..], &length(body), &sum(body), &behind].concat();
    let crc = sum(&out);
    out.extend_from_slice(&crc);
    out.extend_from_slice(body);
    out.extend_from_slice(&RECORD_END);
    out
}

/// What is framed by its length and checksum alone: a description of a snapshot, the hard state.
pub fn framed(body: &[u8]) -> Vec<u8> {
    [&length(body)[..], &sum(body), body].concat()
}

/// A block of a snapshot, compressed from so many bytes.
pub fn block(raw: &[u8; 4], stored: &[u8]) -> Vec<u8> {
    [&raw[..], &framed(stored)].concat()
}
