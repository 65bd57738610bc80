//! Numeric ranges, lengths, counts and patterns.

use serde_json::Value;

use super::super::{Format, Limits, Schema, Type};
use super::{bad_value, same};
use crate::field::{BadValue, Errors, Path};

pub(super) fn check(errors: &mut Errors, value: &Value, schema: &Schema, path: &Path<'_>) {
    if let Value::Number(_) = value
        && schema.ty() == Type::Integer
        && *schema.format() == Format::Int32
        && value.as_f64().is_some_and(|n| n > f64::from(i32::MAX) || n < f64::from(i32::MIN))
    {
        let detail = format!("Checked value must be of type integer with format int32 in {path}");
        errors.invalid(&Path::root("<nil>"), "", &detail);
    }
    let Some(limits) = schema.extra().map(|e| &e.limits) else { return };
    match value {
        Value::Number(_) => number(errors, value, limits, path),
        Value::String(text) => string(errors, text, limits, path),
        Value::Array(items) => list(errors, items, limits, path),
        Value::Object(map) => object(errors, map.len(), limits, path),
        Value::Null | Value::Bool(_) => {}
    }
}

fn number(errors: &mut Errors, value: &Value, limits: &Limits, path: &Path<'_>) {
    let Some(n) = value.as_f64() else { return };
    let mut refuse = |detail: String| errors.invalid(path, bad_value(value), &detail);
    if let Some(factor) = limits.multiple_of.filter(|f| *f > 0.0)
        && (n / factor).fract() != 0.0
    {
        refuse(format!("{path} in body should be a multiple of {factor}"));
    }
    if let Some(max) = limits.maximum {
        if limits.exclusive_maximum && n >= max {
            refuse(format!("{path} in body should be less than {max}"));
        } else if n > max {
            refuse(format!("{path} in body should be less than or equal to {max}"));
        }
    }
    if let Some(min) = limits.minimum {
        if limits.exclusive_minimum && n <= min {
            refuse(format!("{path} in body should be greater than {min}"));
        } else if n < min {
            refuse(format!("{path} in body should be greater than or equal to {min}"));
        }
    }
}

fn string(errors: &mut Errors, text: &str, limits: &Limits, path: &Path<'_>) {
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if let Some(max) = limits.max_length.filter(|max| length > *max) {
        errors.too_long(path, usize::try_from(max).unwrap_or(usize::MAX));
    }
    if let Some(min) = limits.min_length.filter(|min| length < *min) {
        errors.invalid(path, text, &format!("{path} in body should be at least {min} chars long"));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|p| !p.is_match(text)) {
        errors.invalid(path, text, &format!("{path} in body should match '{}'", pattern.as_str()));
    }
}

fn list(errors: &mut Errors, items: &[Value], limits: &Limits, path: &Path<'_>) {
    let length = u64::try_from(items.len()).unwrap_or(u64::MAX);
    if let Some(min) = limits.min_items.filter(|min| length < *min) {
        let detail = format!("{path} in body should have at least {min} items");
        errors.invalid(path, BadValue::display(length), &detail);
    }
    if let Some(max) = limits.max_items.filter(|max| length > *max) {
        errors.too_many(path, items.len(), usize::try_from(max).unwrap_or(usize::MAX));
    }
    if limits.unique_items && items.iter().enumerate().any(|(i, a)| items[..i].iter().any(|b| same(a, b))) {
        errors.invalid(path, "", &format!("{path} in body shouldn't contain duplicates"));
    }
}

fn object(errors: &mut Errors, length: usize, limits: &Limits, path: &Path<'_>) {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    if let Some(min) = limits.min_properties.filter(|min| length < *min) {
        let detail = format!("{path} in body should have at least {min} properties");
        errors.invalid(path, BadValue::display(length), &detail);
    }
    if let Some(max) = limits.max_properties.filter(|max| length > *max) {
        let detail = format!("{path} in body should have at most {max} properties");
        errors.invalid(path, BadValue::display(length), &detail);
    }
}
