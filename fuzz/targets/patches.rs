//! Patches of all three kinds on any object: never a panic, and a merge patch applied twice is one applied once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use objects::patch::{json_patch, merge_patch, parse_json_patch, strategic_merge};
use objects::schema::definition;
use serde_json::Value;

fuzz_target!(|input: (&str, &str)| {
    let (object, patch) = input;
    let Ok(object) = serde_json::from_str::<Value>(object) else { return };
    if let Ok(operations) = parse_json_patch(patch.as_bytes()) {
        // An error is an answer, too.
        json_patch(&mut object.clone(), operations).unwrap_or_default();
    }
    let Ok(patch) = serde_json::from_str::<Value>(patch) else { return };
    let mut once = object.clone();
    merge_patch(&mut once, patch.clone());
    let mut twice = once.clone();
    merge_patch(&mut twice, patch.clone());
    assert_eq!(once, twice);
    let pod = definition("io.k8s.api.core.v1.Pod").expect("pods have a schema");
    strategic_merge(&mut object.clone(), patch, pod).unwrap_or_default();
});
