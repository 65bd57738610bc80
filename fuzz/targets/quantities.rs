//! Quantities and durations: the canonical form is a fixed point and means the same amount.
#![no_main]

use libfuzzer_sys::fuzz_target;
use objects::quantity::Quantity;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = text.parse::<Quantity>() {
        let canonical = quantity.to_string();
        let again: Quantity = canonical.parse().expect("the canonical form is a quantity");
        assert_eq!((again, again.to_string()), (quantity, canonical));
    }
    if let Ok(duration) = objects::duration::parse(text) {
        assert_eq!(objects::duration::parse(&objects::duration::format(duration)), Ok(duration));
    }
});
