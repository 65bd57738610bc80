//! Go names of Rust types, for error messages only.
//!
//! serde tells a deserializer the visitor's value type, and `type_name` spells it; that is enough to name
//! `[]v1.Container`. The exact spelling is not relied on for anything but texts and for telling lists and maps.

use std::any::type_name;

/// The Go spelling of `T`.
pub(super) fn name_of<T>() -> String {
    go_name(type_name::<T>())
}

fn go_name(rust: &str) -> String {
    if let Some(inner) = generic(rust, "Vec") {
        return format!("[]{}", go_name(inner));
    }
    if let Some(inner) = generic(rust, "Option") {
        return go_name(inner);
    }
    if let Some(inner) = generic(rust, "BTreeMap") {
        let value = inner.split_once(", ").map_or(inner, |(_, value)| value);
        return format!("map[string]{}", go_name(value));
    }
    let mut parts = rust.rsplit("::");
    match parts.next().unwrap_or(rust) {
        "String" => "string".to_owned(),
        "i32" => "int32".to_owned(),
        "i64" => "int64".to_owned(),
        "f64" => "float64".to_owned(),
        "ByteString" => "[]uint8".to_owned(),
        name => {
            let version = rust.split("::").filter(|part| is_version(part)).last().unwrap_or("v1");
            format!("{version}.{name}")
        }
    }
}

fn is_version(part: &str) -> bool {
    let mut bytes = part.bytes();
    bytes.next() == Some(b'v') && bytes.next().is_some_and(|b| b.is_ascii_digit()) && !part.contains('_')
}

/// The argument of `…::name<argument>`.
fn generic<'a>(rust: &'a str, name: &str) -> Option<&'a str> {
    let (head, rest) = rust.split_once('<')?;
    (head.rsplit("::").next() == Some(name)).then(|| rest.strip_suffix('>')).flatten()
}

pub(super) fn is_optional_list<T>() -> bool {
    generic(type_name::<T>(), "Option").is_some_and(|inner| generic(inner, "Vec").is_some())
}

pub(super) fn is_optional_map<T>() -> bool {
    generic(type_name::<T>(), "Option").is_some_and(|inner| generic(inner, "BTreeMap").is_some())
}

/// Checks base64 when `T` is a byte string, dropping line breaks as Go's decoder does.
///
/// # Errors
/// Go's complaint.
pub(super) fn check_base64<T>(mut text: String) -> Result<String, String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    if !type_name::<T>().ends_with("ByteString") {
        return Ok(text);
    }
    text.retain(|c| c != '\r' && c != '\n');
    let at = match STANDARD.decode(&text) {
        Ok(_) => return Ok(text),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => at,
        Err(base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding) => text.len(),
    };
    Err(format!("illegal base64 data at input byte {at}"))
}
