//! Header blocks of one client, any bytes: fields or an error, no more of them than is allowed, and the same ones when
//! they are written again in full.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::etcd::read_headers;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What one block may add up to.
const MOST: usize = 256 << 10;

fn read(blocks: &[&[u8]]) -> (bool, Fields) {
    let mut fields = Fields::new();
    let good = read_headers(blocks.iter().copied(), |name, value| fields.push((name.to_vec(), value.to_vec())));
    (good, fields)
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len().checked_sub(127) {
        None => out.push(u8::try_from(bytes.len()).expect("below 127")),
        Some(mut rest) => {
            out.push(127);
            while rest >= 128 {
                out.push(u8::try_from(rest % 128).expect("below 128") | 128);
                rest /= 128;
            }
            out.push(u8::try_from(rest).expect("below 128"));
        }
    }
    out.extend(bytes);
}

// A byte before each block says how long it is; 255 is all that is left.
fuzz_target!(|input: &[u8]| {
    let mut blocks = Vec::new();
    let mut rest = input;
    while let Some((&length, behind)) = rest.split_first() {
        let length = if length == 255 { behind.len() } else { usize::from(length).min(behind.len()) };
        let (block, behind) = behind.split_at(length);
        blocks.push(block);
        rest = behind;
    }
    let (good, fields) = read(&blocks);
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    assert!(size <= MOST * blocks.len());
    let (good_again, ahead) = read(&blocks[..blocks.len() / 2]);
    assert!(fields.starts_with(&ahead) && (good_again || !good));
    let again: Vec<Vec<u8>> = fields
        .iter()
        .map(|(name, value)| {
            let mut block = vec![0x40];
            string(&mut block, name);
            string(&mut block, value);
            block
        })
        .collect();
    let again: Vec<&[u8]> = again.iter().map(Vec::as_slice).collect();
    assert_eq!(read(&again), (true, fields));
});
