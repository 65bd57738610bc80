//! The protobuf form of API objects, converted from and to JSON values along a table of field numbers.
//!
//! On the wire an object is the four bytes `k8s\0` and a `runtime.Unknown` message that names version and kind and
//! carries the object's own message. Watches frame `meta.v1.WatchEvent` messages without that envelope, each object
//! within enveloped. Kinds that the table does not know (custom resources) have no protobuf form.

mod decode;
mod encode;
mod special;
mod table;
mod wire;

use crate::kinds;
use serde_json::Value;
use wire::Writer;

/// What every enveloped object begins with.
pub const MAGIC: &[u8] = b"k8s\0";

/// Nesting beyond this is refused; no API type comes near it.
const MAX_DEPTH: usize = 100;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Why bytes are no object, or an object has no protobuf form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("the object does not begin with the protobuf envelope k8s\\x00")]
    Envelope,
    #[error("the protobuf message is cut short or malformed at byte {0}")]
    Malformed(usize),
    #[error("{0} has no protobuf form")]
    Unknown(String),
    #[error("the protobuf message is nested too deeply")]
    TooDeep,
    #[error("field {0}: a text is not UTF-8")]
    Text(String),
    #[error("field {field}: {value} does not fit {wanted}")]
    Type { field: String, value: String, wanted: &'static str },
}

/// An object as it was decoded, `apiVersion` and `kind` among its members where the envelope had them.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub api_version: String,
    pub kind: String,
    pub value: Value,
}

/// Name of the definition of a kind, a list of one, or one of the types that every group version shares.
pub fn definition_of(api_version: &str, kind: &str) -> Option<String> {
    let row = |kind: &str| kinds::find_object(api_version, kind).map(|row| row.schema.to_string());
    let list = || Some(row(kind.strip_suffix("List")?)? + "List");
    let shared = || Some(format!("{META}{kind}"));
    // Bodies of subresources (TokenRequest, Eviction, Scale) have no row: they are beside one of their group version.
    let beside = || {
        let row = kinds::KINDS.iter().find(|row| row.api_version() == api_version)?;
        Some(format!("{}{kind}", row.schema.strip_suffix(row.kind.as_ref())?))
    };
    [row(kind), list(), shared(), beside()].into_iter().flatten().find(|name| table::message(name).is_some())
}

/// Reads an enveloped object.
pub fn decode(bytes: &[u8]) -> Result<Decoded, ProtobufError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Envelope)?;
    let (api_version, kind, raw) = decode::unknown(body)?;
    let name = definition_of(&api_version, &kind)
        .ok_or_else(|| ProtobufError::Unknown(format!("{api_version}, Kind={kind}")))?;
    let mut value = decode::message(raw, &name)?;
    if let Value::Object(members) = &mut value {
        for (name, text) in [("apiVersion", &api_version), ("kind", &kind)] {
            if !text.is_empty() {
                members.insert(name.to_owned(), Value::String(text.clone()));
            }
        }
    }
    Ok(Decoded { api_version, kind, value })
}

/// Writes an object, enveloped. Version and kind are the object's own.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let name = definition_of(api_version, kind)
        .ok_or_else(|| ProtobufError::Unknown(format!("{api_version}, Kind={kind}")))?;
    let raw = encode::message(object, &name)?;
    let mut types = Writer::default();
    types.text(1, api_version);
    types.text(2, kind);
    let mut unknown = Writer::default();
    unknown.bytes(1, &types.finish());
    unknown.bytes(2, &raw);
    unknown.text(3, "");
    unknown.text(4, "");
    Ok([MAGIC, &unknown.finish()].concat())
}

/// Writes one frame of a watch: the length, four bytes big-endian, and a WatchEvent of an enveloped object.
pub fn encode_watch_frame(event: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut raw = Writer::default();
    raw.bytes(1, enveloped);
    let mut message = Writer::default();
    message.text(1, event);
    message.bytes(2, &raw.finish());
    let message = message.finish();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [length.as_slice(), &message].concat()
}

#[cfg(test)]
mod tests;
