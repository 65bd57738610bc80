//! Field errors with upstream's wording, and the path builder that names the field.
//!
//! A [`Path`] borrows its parent and allocates nothing until an error is recorded, so that validating a good
//! object costs no strings. [`Errors`] is the sink every validation function writes to.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::status::{Cause, quote};

/// Why a field was refused (`field.ErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    TypeInvalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
}

impl ErrorKind {
    /// The `reason` of the Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One refused field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub kind: ErrorKind,
    /// Dotted path, for example `spec.containers[0].image`.
    pub field: String,
    /// Everything after the path: `Invalid value: -1: must be …`.
    pub body: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

impl FieldError {
    fn new(kind: ErrorKind, field: String, value: Option<&str>, detail: &str) -> Self {
        let mut body = kind.text().to_owned();
        for part in value.into_iter().chain((!detail.is_empty()).then_some(detail)) {
            body.push_str(": ");
            body.push_str(part);
        }
        Self { kind, field, body }
    }

    pub(crate) fn cause(&self) -> Cause {
        Cause { reason: self.kind.reason().to_owned(), message: self.body.clone(), field: self.field.clone() }
    }
}

/// Several errors as one text: alone as it is, more as `[a, b]`, repeated ones once.
pub(crate) fn aggregate(errors: &[FieldError]) -> String {
    let mut unique: Vec<String> = Vec::with_capacity(errors.len());
    for text in errors.iter().map(FieldError::to_string) {
        if !unique.contains(&text) {
            unique.push(text);
        }
    }
    if unique.len() == 1 { unique.remove(0) } else { format!("[{}]", unique.join(", ")) }
}

enum Segment<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

/// Where in an object a value lies. Built downwards, each step borrowing the one above.
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

impl<'a> Path<'a> {
    pub fn root(name: &'a str) -> Path<'a> {
        Path { parent: None, segment: Segment::Name(name) }
    }

    /// A field below; `name` may hold dots for several steps at once. An empty parent name is left out.
    pub fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Name(name) }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chain = Vec::with_capacity(8);
        let mut at = Some(self);
        while let Some(path) = at {
            chain.push(&path.segment);
            at = path.parent;
        }
        let mut empty = true;
        for segment in chain.iter().rev() {
            match segment {
                Segment::Name("") => continue,
                Segment::Name(name) if empty => f.write_str(name)?,
                Segment::Name(name) => write!(f, ".{name}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => write!(f, "[{key}]")?,
            }
            empty = false;
        }
        Ok(())
    }
}

/// A refused value as messages show it: strings quoted, scalars bare, the rest as JSON.
pub struct BadValue(String);

impl From<&str> for BadValue {
    fn from(value: &str) -> Self {
        Self(quote(value))
    }
}

impl From<&String> for BadValue {
    fn from(value: &String) -> Self {
        Self(quote(value))
    }
}

macro_rules! bare_values {
    ($($ty:ty),*) => {
        $(impl From<$ty> for BadValue {
            fn from(value: $ty) -> Self {
                Self(value.to_string())
            }
        })*
    };
}
bare_values!(i32, i64, u32, u64, usize, bool, f64);

impl BadValue {
    /// A structured value, shown as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        Self(serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned()))
    }

    /// A value with a text form of its own (quantities, IntOrString), shown without quotes.
    pub fn display(value: impl fmt::Display) -> Self {
        Self(value.to_string())
    }
}

/// The errors found so far, in order.
#[derive(Debug, Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, kind: ErrorKind, path: &Path<'_>, value: Option<BadValue>, detail: &str) {
        let value = value.map(|v| v.0);
        self.0.push(FieldError::new(kind, path.to_string(), value.as_deref(), detail));
    }

    pub fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.add(ErrorKind::Required, path, None, detail);
    }

    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<BadValue>, detail: &str) {
        self.add(ErrorKind::Invalid, path, Some(value.into()), detail);
    }

    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<BadValue>, detail: &str) {
        self.add(ErrorKind::TypeInvalid, path, Some(value.into()), detail);
    }

    pub fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.add(ErrorKind::Forbidden, path, None, detail);
    }

    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<BadValue>) {
        self.add(ErrorKind::Duplicate, path, Some(value.into()), "");
    }

    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<BadValue>) {
        self.add(ErrorKind::NotFound, path, Some(value.into()), "");
    }

    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<BadValue>, supported: &[&str]) {
        let mut detail = String::new();
        for (n, value) in supported.iter().enumerate() {
            // Writing to a String cannot fail.
            write!(detail, "{}{}", if n == 0 { "supported values: " } else { ", " }, quote(value)).unwrap_or_default();
        }
        self.add(ErrorKind::NotSupported, path, Some(value.into()), &detail);
    }

    /// The value itself is left out of the message, being too long to show.
    pub fn too_long(&mut self, path: &Path<'_>, max_bytes: usize) {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        self.add(ErrorKind::TooLong, path, None, &format!("may not be more than {max_bytes} {unit}"));
    }

    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        self.add(ErrorKind::TooMany, path, Some(actual.into()), &format!("must have at most {max} {unit}"));
    }

    pub fn internal(&mut self, path: &Path<'_>, error: impl fmt::Display) {
        self.add(ErrorKind::Internal, path, None, &error.to_string());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn as_slice(&self) -> &[FieldError] {
        &self.0
    }

    pub fn extend(&mut self, other: Errors) {
        self.0.extend(other.0);
    }

    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(errors: Errors) -> String {
        aggregate(errors.as_slice())
    }

    #[test]
    fn paths_join_names_indexes_and_keys() {
        let spec = Path::root("spec");
        let path = spec.child("containers");
        assert_eq!(
            path.index(2).child("resources.limits").key("cpu").to_string(),
            "spec.containers[2].resources.limits[cpu]"
        );
    }

    #[test]
    fn wording_follows_the_kind_of_error() {
        let path = Path::root("f");
        let mut errors = Errors::default();
        errors.not_supported(&path, "x", &["a", "b"]);
        assert_eq!(only(errors), "f: Unsupported value: \"x\": supported values: \"a\", \"b\"");
        let mut errors = Errors::default();
        errors.too_long(&path, 63);
        assert_eq!(only(errors), "f: Too long: may not be more than 63 bytes");
        let mut errors = Errors::default();
        errors.too_many(&path, 3, 2);
        assert_eq!(only(errors), "f: Too many: 3: must have at most 2 items");
        let mut errors = Errors::default();
        errors.duplicate(&path, "a");
        errors.duplicate(&path, "a");
        assert_eq!(only(errors), "f: Duplicate value: \"a\"");
    }
}
