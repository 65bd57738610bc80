//! Inputs that are nearly valid: what came in once, changed a little. They reach further than random bytes do.

use crate::seeded::Seeded;

/// Numbers at the edges of what decoders expect.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX >> 1, u64::MAX];

/// One to four changes of a valid input; some take parts of another one.
pub fn mutate(random: &mut Seeded, valid: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..random.between(1, 5) {
        let at = random.index(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
            2 | 3 => overwrite(&mut bytes, at, &EDGES[random.index(EDGES.len())].to_le_bytes()),
            4 => bytes.truncate(at),
            5 => {
                let from = random.index(other.len() + 1);
                let length = random.index((other.len() - from).min(64) + 1);
                overwrite(&mut bytes, at, &other[from..from + length]);
            }
            6 => {
                let length = random.index((bytes.len() - at).min(64) + 1);
                let part = bytes[at..at + length].to_vec();
                drop(bytes.splice(at..at, part));
            }
            _ => {
                let length = random.index((bytes.len() - at).min(16) + 1);
                bytes.drain(at..at + length);
            }
        }
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let length = with.len().min(bytes.len() - at);
    bytes[at..at + length].copy_from_slice(&with[..length]);
}
