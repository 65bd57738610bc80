//! Label and field selectors: what is accepted is printed so that it reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use objects::selector::{FieldSelector, Selector};

fuzz_target!(|text: &str| {
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(Selector::parse(&selector.to_string()).as_ref(), Ok(&selector));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        assert_eq!(FieldSelector::parse(&selector.to_string()).as_ref(), Ok(&selector));
    }
});
