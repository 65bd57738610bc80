//! What one client of the etcd endpoint sends, cut anywhere: calls, or the end of its connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage::etcd::read_frames;

// The first byte says into pieces of which size it is cut; the preface and a first frame need not be guessed.
fuzz_target!(|input: &[u8]| {
    let Some((&size, frames)) = input.split_first() else { return };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(frames);
    read_frames(bytes.chunks(usize::from(size) + 1));
});
