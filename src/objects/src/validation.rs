//! Field rules that many kinds share, and the validation of each part of the API.
//!
//! Every function writes to [`Errors`] in upstream's order and wording. Kinds' strategies call these.

pub mod labels;
pub mod metadata;
pub mod pod;
pub mod resources;
pub mod service;
pub mod storage;
pub mod workloads;

use crate::field::{BadValue, Errors, Path};
use crate::names::Messages;

pub const IMMUTABLE: &str = "field is immutable";
const NON_NEGATIVE: &str = "must be greater than or equal to 0";

/// Adds one `Invalid` per message.
pub fn check(errors: &mut Errors, path: &Path<'_>, value: &str, messages: Messages) {
    for message in messages {
        errors.invalid(path, value, &message);
    }
}

pub fn non_negative(errors: &mut Errors, path: &Path<'_>, value: impl Into<i64>) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, NON_NEGATIVE);
    }
}

pub fn positive(errors: &mut Errors, path: &Path<'_>, value: i64) {
    if value <= 0 {
        errors.invalid(path, value, "must be greater than 0");
    }
}

/// Refuses a changed value, showing the new one.
pub fn immutable<T: PartialEq + serde::Serialize>(errors: &mut Errors, path: &Path<'_>, new: &T, old: &T) {
    if new != old {
        errors.invalid(path, shown(new), IMMUTABLE);
    }
}

/// A value as it stands in a message: strings quoted, scalars bare, the rest JSON.
pub fn shown<T: serde::Serialize>(value: &T) -> BadValue {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => BadValue::from(&text),
        Ok(other) => BadValue::display(other),
        Err(_) => BadValue::from(""),
    }
}

/// A closed set of texts.
pub fn one_of(errors: &mut Errors, path: &Path<'_>, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

/// Like [`one_of`], where empty is `Required`.
pub fn required_one_of(errors: &mut Errors, path: &Path<'_>, value: Option<&str>, supported: &[&str]) {
    match value {
        None | Some("") => errors.required(path, ""),
        Some(value) => one_of(errors, path, value, supported),
    }
}

/// Finds repeated entries.
pub fn unique<'a>(errors: &mut Errors, path: &Path<'_>, values: impl Iterator<Item = &'a str>) {
    let mut seen = std::collections::HashSet::new();
    for (n, value) in values.enumerate() {
        if !seen.insert(value) {
            errors.duplicate(&path.index(n), value);
        }
    }
}

/// The text of an optional field, empty when absent.
pub fn text(value: Option<&String>) -> &str {
    value.map_or("", String::as_str)
}
