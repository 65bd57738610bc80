//! The Huffman code of RFC 7541, appendix B, of which only reading is needed.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and longer ones are
//! greater. So the lengths say all. Codes of up to eight bits, which is nearly all of text, are looked up; for others
//! the lengths are gone through.

use super::Malformed;

/// The symbol that must not occur.
const EOS: usize = 256;
const LONGEST: usize = 30;

/// Of each symbol's code, in bits.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

/// What is known of the codes of one length.
#[derive(Clone, Copy)]
struct Codes {
    /// The first code above them and all shorter ones, in the upper bits of 32.
    end: u64,
    /// What turns a code into the place of its symbol.
    offset: u32,
}

struct Code {
    /// Symbols in the order of their codes.
    symbols: [u8; 256],
    by_length: [Codes; LONGEST + 1],
    /// By the next eight bits: the symbol and the length of its code, which is 0 for one that is longer.
    short: [(u8, u8); 256],
}

static CODE: Code = code();

#[expect(clippy::cast_possible_truncation, reason = "symbols and lengths are below 256, codes have 30 bits")]
const fn code() -> Code {
    let mut code =
        Code { symbols: [0; 256], by_length: [Codes { end: 0, offset: 0 }; LONGEST + 1], short: [(0, 0); 256] };
    let (mut length, mut next, mut place) = (1, 0_u64, 0);
    while length <= LONGEST {
        next <<= 1;
        code.by_length[length].offset = (place as u32).wrapping_sub(next as u32);
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                // The last place of all is for EOS, which is none of a byte.
                if symbol != EOS {
                    code.symbols[place] = symbol as u8;
                }
                let mut low = 0;
                while length <= 8 && low < 1 << (8 - length) {
                    code.short[((next as usize) << (8 - length)) + low] = (symbol as u8, length as u8);
                    low += 1;
                }
                next += 1;
                place += 1;
            }
            symbol += 1;
        }
        code.by_length[length].end = next << (32 - length);
        length += 1;
    }
    assert!(next == 1 << LONGEST && place == LENGTHS.len(), "every row of bits is a code or goes on");
    code
}

/// Appends what a string stands for: at most eight bytes for five.
pub(super) fn decode(mut string: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.reserve(string.len() + string.len() / 2);
    // The next `count` bits, from the top, each turned over: so behind the last there are ones, as in padding.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56
            && let Some((byte, rest)) = string.split_first()
        {
            bits |= u64::from(!byte) << (56 - count);
            count += 8;
            string = rest;
        }
        let window = !((bits >> 32) as u32);
        let (symbol, length) = match CODE.short[(window >> 24) as usize] {
            (_, 0) => long(window),
            (symbol, length) => (Some(symbol), u32::from(length)),
        };
        if length > count {
            // Padding: the beginning of EOS, and less than a byte (5.2).
            return if count < 8 && bits == 0 { Ok(()) } else { Err(Malformed::Huffman) };
        }
        out.push(symbol.ok_or(Malformed::Huffman)?);
        bits <<= length;
        count -= length;
    }
}

/// The symbol of a code of more than eight bits, none for EOS, and the code's length.
fn long(window: u32) -> (Option<u8>, u32) {
    let mut length = 9_u32;
    for codes in &CODE.by_length[9..] {
        if u64::from(window) < codes.end {
            let place = (window >> (32 - length)).wrapping_add(codes.offset);
            return (CODE.symbols.get(place as usize).copied(), length);
        }
        length += 1;
    }
    (None, length)
}

/// Writes what [`decode`] reads.
#[cfg(test)]
pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0_u64, 0_u32);
    for byte in bytes {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        let place = CODE.symbols.iter().position(|symbol| symbol == byte).unwrap();
        let code = u32::try_from(place).unwrap().wrapping_sub(CODE.by_length[length as usize].offset);
        bits = bits << length | u64::from(code);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count) & 0xff) as u8 | 0xff >> count);
    }
    out
}
