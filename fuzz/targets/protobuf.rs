//! Protobuf bodies of requests: any bytes are refused or decoded, and what was decoded survives a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use objects::protobuf::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    // Most inputs would fail at the envelope's magic: give it.
    let enveloped = [b"k8s\0", bytes].concat();
    let Ok(decoded) = decode(&enveloped) else { return };
    let Ok(encoded) = encode(&decoded.value) else { return };
    let again = decode(&encoded).expect("what was encoded is decoded");
    assert_eq!(again.value, decoded.value);
});
