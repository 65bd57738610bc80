//! API quantities as whole numbers. The parsing itself is `objects::quantity`'s.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up; `None` when it is not a quantity.
pub fn millis(quantity: &Quantity) -> Option<i128> {
    quantity.0.parse::<objects::quantity::Quantity>().ok().map(|q| i128::from(q.millis()))
}

/// The quantity as a whole number, rounded up; `None` when it is not a quantity or beyond 2^63.
pub fn whole(quantity: &Quantity) -> Option<i64> {
    i64::try_from(ceil(millis(quantity)?, 1000)).ok()
}

/// `value / by`, rounded up; `by` is positive.
pub fn ceil(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) > 0)
}

/// Bytes as `Ki` when that is exact: what nodes report.
pub fn bytes(value: u64) -> Quantity {
    if value.is_multiple_of(1024) && value > 0 {
        Quantity(format!("{}Ki", value / 1024))
    } else {
        Quantity(value.to_string())
    }
}
