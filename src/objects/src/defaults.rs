//! Upstream's `SetDefaults_*`, typed.
//!
//! Kinds' strategies call these on every decode, so each function only fills what is absent.

pub mod pod;
pub mod volumes;

/// Sets an absent or empty text.
pub(crate) fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// Sets an absent value.
pub(crate) fn fill_value<T>(field: &mut Option<T>, value: T) {
    field.get_or_insert(value);
}

/// Sets an absent or zero number.
pub(crate) fn fill_number(field: &mut Option<i32>, value: i32) {
    if field.is_none_or(|n| n == 0) {
        *field = Some(value);
    }
}
