//! How entries lie in a segment file, and how damage is told from a torn tail.
//!
//! A record is `magic, length, body crc, synced offset, header crc | body | trailer`. The synced offset says how much of
//! the file was on disk when the record was written. So a bad record before the synced offset of a later one was
//! acknowledged: that is damage. A bad record at the end is torn only if it looks unwritten: it reaches past the file,
//! a part of it is still zero (files are allocated ahead as zeros), or its trailer never arrived. How many of its sectors
//! were written as zeros stands above its length, so that a value of zeros is not taken for a gap.

use crate::codec::{DecodeError, Decoder};

pub(crate) const HEADER: usize = 24;
pub(crate) const TRAILER: usize = 4;
pub(crate) const OVERHEAD: usize = HEADER + TRAILER;
/// The kind of an entry that holds a membership.
pub(crate) const MEMBERSHIP: u8 = 2;
const MAGIC: u32 = 0x6b72_01e9;
const END: [u8; TRAILER] = [0xa5, 0x5a, 0xc3, 0x3c];
const SECTOR: usize = 512;
/// Bits of the length; those above count sectors of zeros.
const LENGTH_BITS: u32 = 24;
const LENGTH: u32 = (1 << LENGTH_BITS) - 1;
/// So many sectors of zeros or more.
const MANY: usize = 255;

/// Longest body.
pub(crate) const MAX_BODY: usize = LENGTH as usize;

/// Makes a record of `record`, a body after [`HEADER`] bytes of room, to be written at `offset` of its file.
pub(crate) fn seal(record: &mut Vec<u8>, offset: u64, synced: u64) {
    let Some((header, body)) = record.split_first_chunk_mut::<HEADER>() else { return };
    let misaligned = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
    let zeros = zero_parts(body, misaligned + HEADER).min(MANY);
    let length = u32::try_from(body.len()).unwrap_or(LENGTH) | u32::try_from(zeros).unwrap_or(0) << LENGTH_BITS;
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    header[12..20].copy_from_slice(&synced.to_le_bytes());
    let crc = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    record.extend_from_slice(&END);
}

/// A record that is whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) body: &'a [u8],
    /// How much of the file was on disk when this was written.
    pub(crate) synced: u64,
    /// Bytes it takes in the file.
    pub(crate) size: usize,
}

/// What is found at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Whole(Record<'a>),
    /// Nothing was written here.
    Nothing,
    /// A write that did not finish, as far as the record itself tells.
    Torn,
    Damaged(&'static str),
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Looks at the record that should begin at `at`.
pub(crate) fn parse(file: &[u8], at: usize) -> Found<'_> {
    let Some(header) = file.get(at..at + HEADER) else { return Found::Nothing };
    if header.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    if word(header, 0) != MAGIC || crc32fast::hash(&header[..HEADER - 4]) != word(header, HEADER - 4) {
        // No written body begins with this many zeros: it starts with the entry's index and term.
        let no_body = file[at + HEADER..].iter().take(8).all(|byte| *byte == 0);
        // A header may lie in two sectors, of which one has arrived.
        let (first, second) = header.split_at((SECTOR - at % SECTOR).min(HEADER));
        let half = is_zero(first) || !second.is_empty() && is_zero(second);
        let unwritten = word(header, 0) == 0 || word(header, HEADER - 4) == 0 || half || no_body;
        return if unwritten { Found::Torn } else { Found::Damaged("a record header fails its checksum") };
    }
    let length = (word(header, 4) & LENGTH) as usize;
    let zeros = (word(header, 4) >> LENGTH_BITS) as usize;
    let size = OVERHEAD + length;
    let Some(whole) = file.get(at..at + size) else { return Found::Torn };
    let body = &whole[HEADER..HEADER + length];
    let sound = crc32fast::hash(body) == word(header, 8);
    let ended = whole[HEADER + length..] == END;
    if sound && ended {
        let low = u64::from(word(header, 12));
        let high = u64::from(word(header, 16));
        return Found::Whole(Record { body, synced: low | high << 32, size });
    }
    if !sound && (!ended && whole[HEADER + length..].contains(&0) || has_gap(body, at + HEADER, zeros)) {
        return Found::Torn;
    }
    if sound && whole[HEADER + length..].contains(&0) {
        return Found::Torn;
    }
    Found::Damaged("a record fails its checksum")
}

/// Whether there are more zeros than were written.
fn has_gap(body: &[u8], offset: usize, written: usize) -> bool {
    let found = zero_parts(body, offset);
    found > written || written == MANY && found >= MANY
}

/// How many sectors, or the body's parts of them, are all zero.
fn zero_parts(body: &[u8], offset: usize) -> usize {
    let (mut at, mut zeros) = (0, 0);
    while at < body.len() {
        let next = (at + SECTOR - (offset + at) % SECTOR).min(body.len());
        zeros += usize::from(next - at >= 8 && body[at..next].iter().all(|byte| *byte == 0));
        at = next;
    }
    zeros
}

/// Whether all of it is zero. Space is allocated ahead, so there is a lot of it to look through.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Whether a later whole record says that the file was on disk beyond `at` when it was written.
pub(crate) fn proven_synced(file: &[u8], at: usize) -> bool {
    if file.get(at..).is_none_or(is_zero) {
        return false;
    }
    let magic = MAGIC.to_le_bytes();
    let mut from = at + 1;
    while let Some(found) = file.get(from..).and_then(|rest| rest.windows(4).position(|window| window == magic)) {
        let candidate = from + found;
        if let Found::Whole(record) = parse(file, candidate)
            && record.synced > at as u64
            && record.synced <= candidate as u64
        {
            return true;
        }
        from = candidate + 1;
    }
    false
}

/// The identity of an entry and the body that follows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) kind: u8,
    pub(crate) body: &'a [u8],
}

impl<'a> Head<'a> {
    pub(crate) fn decode(record: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(record);
        let (index, term, leader, kind) = (input.u64()?, input.u64()?, input.u64()?, input.u8()?);
        Ok(Self { index, term, leader, kind, body: input.rest() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(out: &mut Vec<u8>, offset: u64, synced: u64, body: &[u8]) {
        let mut record = [&[0; HEADER], body].concat();
        seal(&mut record, offset, synced);
        out.append(&mut record);
    }

    fn file(bodies: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for body in bodies {
            let synced = out.len() as u64;
            frame(&mut out, synced, synced, body);
        }
        out.resize(out.len() + 4096, 0);
        out
    }

    #[test]
    fn a_written_record_is_read_and_zeros_are_the_end() {
        let file = file(&[b"hello"]);
        let Found::Whole(record) = parse(&file, 0) else { panic!("not whole") };
        assert_eq!(record.body, b"hello");
        assert_eq!(parse(&file, record.size), Found::Nothing);
    }

    #[test]
    fn a_flipped_bit_beside_written_zeros_is_damage_and_a_gap_is_torn() {
        let mut body = vec![7; 100];
        body.resize(4000, 0);
        body.resize(5000, 7);
        let whole = file(&[&body]);
        for at in (HEADER..HEADER + 100).chain(HEADER + 4100..HEADER + 5000) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(matches!(parse(&flipped, 0), Found::Damaged(_)), "at {at}: {:?}", parse(&flipped, 0));
        }
        let mut gap = whole;
        gap[4608..HEADER + 5000].fill(0);
        assert_eq!(parse(&gap, 0), Found::Torn);
    }

    #[test]
    fn a_record_in_two_sectors_of_which_one_arrived_is_torn() {
        for start in 512 - HEADER - 40..512 {
            let mut whole = vec![0; start];
            frame(&mut whole, start as u64, 32, &[9; 30]);
            whole.resize(1536, 0);
            for lost in [start..512, 512..1024] {
                let mut half = whole.clone();
                half[lost].fill(0);
                if half != whole {
                    assert!(
                        matches!(parse(&half, start), Found::Torn | Found::Nothing),
                        "at {start}: {:?}",
                        parse(&half, start)
                    );
                }
            }
        }
    }

    #[test]
    fn every_cut_of_the_last_record_is_torn_or_nothing() {
        let body: Vec<u8> = (1..=255).cycle().take(2000).collect();
        let whole = file(&[&body]);
        for cut in 0..OVERHEAD + body.len() {
            let mut torn = whole.clone();
            torn[cut..].fill(0);
            assert!(matches!(parse(&torn, 0), Found::Torn | Found::Nothing), "cut at {cut}: {:?}", parse(&torn, 0));
        }
    }

    #[test]
    fn every_flipped_bit_before_a_later_record_is_noticed() {
        let whole = file(&[b"first record", b"second"]);
        for bit in 0..(OVERHEAD + 12) * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match parse(&flipped, 0) {
                Found::Whole(_) => panic!("bit {bit} was not noticed"),
                Found::Damaged(_) => {}
                Found::Torn | Found::Nothing => assert!(proven_synced(&flipped, 0), "bit {bit} taken for a torn tail"),
            }
        }
    }
}
