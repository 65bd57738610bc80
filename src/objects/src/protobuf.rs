//! The protobuf form of API objects, converted from and to JSON values along a table of field numbers.
//!
//! On the wire an object is the four bytes `k8s\0` and a `runtime.Unknown` message that names version and kind and
//! carries the object's own message. Watches frame `meta.v1.WatchEvent` messages without that envelope, each object
//! within enveloped. Kinds that the table does not know (custom resources) have no protobuf form.

mod decode;
mod encode;
mod scan;
mod special;
mod table;
mod wire;

use crate::kinds;
use encode::{Encoder, Scratch};
use serde_json::Value;
use wire::{Field, Reader, Writer};

pub use table::Definition;

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
    #[error("the object is not JSON at byte {0}")]
    Json(usize),
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

/// The definition of a kind, a list of one, or one of the types that every group version shares.
pub fn definition_of(api_version: &str, kind: &str) -> Option<Definition> {
    let row = |kind: &str| kinds::find_object(api_version, kind).map(|row| row.schema.to_string());
    let list = || Some(row(kind.strip_suffix("List")?)? + "List");
    let shared = || Some(format!("{META}{kind}"));
    // Bodies of subresources (TokenRequest, Eviction, Scale) have no row: they are beside one of their group version.
    let beside = || {
        let row = kinds::KINDS.iter().find(|row| row.api_version() == api_version)?;
        Some(format!("{}{kind}", row.schema.strip_suffix(row.kind.as_ref())?))
    };
    [row(kind), list(), shared(), beside()].into_iter().flatten().find_map(|name| table::find(&name))
}

/// Reads an enveloped object.
pub fn decode(bytes: &[u8]) -> Result<Decoded, ProtobufError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Envelope)?;
    let (api_version, kind, raw) = decode::unknown(body)?;
    let mut value = decode::message(raw, definition(&api_version, &kind)?)?;
    if let Value::Object(members) = &mut value {
        for (name, text) in [("apiVersion", &api_version), ("kind", &kind)] {
            if !text.is_empty() {
                members.insert(name.to_owned(), Value::String(text.clone()));
            }
        }
    }
    Ok(Decoded { api_version, kind, value })
}

fn definition(api_version: &str, kind: &str) -> Result<Definition, ProtobufError> {
    definition_of(api_version, kind).ok_or_else(|| ProtobufError::Unknown(format!("{api_version}, Kind={kind}")))
}

/// Writes an object, enveloped. Version and kind are the object's own.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut out = Vec::new();
    Transcoder::default().object(&mut out, text("apiVersion"), text("kind"), object.to_string().as_bytes())?;
    Ok(out)
}

/// Envelopes end with encoding and content type, both of no use.
const END: &[u8] = b"\x1a\x00\x22\x00";

fn types(api_version: &str, kind: &str) -> Vec<u8> {
    let mut types = Writer::default();
    types.text(1, api_version);
    types.text(2, kind);
    let mut unknown = Writer::default();
    unknown.bytes(1, &types.finish());
    unknown.finish()
}

/// Writes objects that are at hand as JSON text. Keeps its buffers: one for many objects is faster than one for each.
#[derive(Debug, Default)]
pub struct Transcoder {
    scratch: Scratch,
}

impl Transcoder {
    /// Appends an object, enveloped.
    pub fn object(
        &mut self,
        out: &mut Vec<u8>,
        api_version: &str,
        kind: &str,
        json: &[u8],
    ) -> Result<(), ProtobufError> {
        let definition = definition(api_version, kind)?;
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&types(api_version, kind));
        self.field(out, 2, definition, json)?;
        out.extend_from_slice(END);
        Ok(())
    }

    /// Appends a frame of a watch: the length, four bytes big-endian, and a WatchEvent of an enveloped object.
    pub fn watch_frame(
        &mut self,
        out: &mut Vec<u8>,
        event: &str,
        (api_version, kind): (&str, &str),
        json: &[u8],
    ) -> Result<(), ProtobufError> {
        let begin = out.len();
        let mut frame = Writer::from(std::mem::take(out));
        frame.written().extend_from_slice(&[0; 4]);
        frame.text(1, event);
        frame.delimited(2);
        let raw = frame.open();
        frame.delimited(1);
        let enveloped = frame.open();
        let written = self.object(frame.written(), api_version, kind, json);
        frame.close(enveloped);
        frame.close(raw);
        *out = frame.finish();
        if let Err(error) = written {
            out.truncate(begin);
            return Err(error);
        }
        let length = u32::try_from(out.len() - begin - 4).unwrap_or(u32::MAX).to_be_bytes();
        out[begin..begin + 4].copy_from_slice(&length);
        Ok(())
    }

    /// Appends a message as a field.
    fn field(
        &mut self,
        out: &mut Vec<u8>,
        number: u32,
        definition: Definition,
        json: &[u8],
    ) -> Result<(), ProtobufError> {
        let mut writer = Writer::from(std::mem::take(out));
        let written = Encoder::new(json, &mut writer, &mut self.scratch)
            .and_then(|mut encoder| encoder.message(number, definition));
        *out = writer.finish();
        written
    }
}

/// A list whose items are written one by one: the head, each item, the end.
#[derive(Debug, Clone, Copy)]
pub struct ListForm {
    list: Definition,
    item: Definition,
    number: u32,
}

impl ListForm {
    /// The form of `kind`, which is a list's.
    pub fn of(api_version: &str, kind: &str) -> Result<ListForm, ProtobufError> {
        let list = definition(api_version, kind)?;
        let items = list.message().members().find("items").map(|(_, row)| (row.number, row.ty));
        let Some((number, table::Type::Message(item))) = items else {
            return Err(ProtobufError::Unknown(format!("{api_version}, Kind={kind}")));
        };
        Ok(ListForm { list, item, number })
    }

    /// What the items are.
    pub fn item_definition(&self) -> Definition {
        self.item
    }

    /// Appends all that stands before the items. `json` is the list without them, `items` the size of them all.
    pub fn head(
        &self,
        out: &mut Vec<u8>,
        (api_version, kind): (&str, &str),
        json: &[u8],
        items: usize,
    ) -> Result<(), ProtobufError> {
        let mut own = Vec::new();
        Transcoder::default().field(&mut own, 2, self.list, json)?;
        // Without their length: that which is written covers the items too.
        let Some((_, Field::Bytes(fields))) = Reader::new(&own).next()? else { return Err(ProtobufError::Envelope) };
        let mut writer = Writer::from(std::mem::take(out));
        writer.written().extend_from_slice(MAGIC);
        writer.written().extend_from_slice(&types(api_version, kind));
        writer.delimited(2);
        writer.put((fields.len() + items) as u64);
        writer.written().extend_from_slice(fields);
        *out = writer.finish();
        Ok(())
    }

    /// Appends an item.
    pub fn item(&self, transcoder: &mut Transcoder, out: &mut Vec<u8>, json: &[u8]) -> Result<(), ProtobufError> {
        transcoder.field(out, self.number, self.item, json)
    }

    /// Appends all that stands behind the items.
    pub fn end(out: &mut Vec<u8>) {
        out.extend_from_slice(END);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree;
