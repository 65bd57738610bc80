//! Image references: printed, they read back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::ImageRef;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<ImageRef>() {
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
    }
});
