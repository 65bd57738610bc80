//! From protobuf to JSON.

use super::table::{Definition, FieldRow, Shape, Type};
use super::wire::{Field, Reader};
use super::{MAX_DEPTH, ProtobufError, special};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Reads `runtime.Unknown`: version, kind, and the raw message.
pub(super) fn unknown(bytes: &[u8]) -> Result<(String, String, &[u8]), ProtobufError> {
    let (mut api_version, mut kind, mut raw): (_, _, &[u8]) = (String::new(), String::new(), &[]);
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(types)) => {
                let mut reader = Reader::new(types);
                while let Some((number, field)) = reader.next()? {
                    match (number, field) {
                        (1, Field::Bytes(value)) => api_version = text(value, "apiVersion")?,
                        (2, Field::Bytes(value)) => kind = text(value, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Field::Bytes(value)) => raw = value,
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// Reads a message into a JSON object.
pub(super) fn message(bytes: &[u8], definition: Definition) -> Result<Value, ProtobufError> {
    object(bytes, definition, 0)
}

fn object(bytes: &[u8], definition: Definition, depth: usize) -> Result<Value, ProtobufError> {
    let mut members = Map::new();
    fields(bytes, definition, depth, &mut members)?;
    Ok(Value::Object(members))
}

fn fields(
    bytes: &[u8],
    definition: Definition,
    depth: usize,
    members: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let message = definition.message();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        // A field of a newer version is skipped, as protobuf wants it.
        let Some(row) = message.field(number) else { continue };
        match (row.name, row.ty, field) {
            (None, Type::Message(embedded), Field::Bytes(bytes)) => fields(bytes, embedded, depth + 1, members)?,
            (None, ..) => {}
            (Some(name), ..) => put(row, name, field, depth, members)?,
        }
    }
    Ok(())
}

fn put(
    row: &FieldRow,
    name: &str,
    field: Field<'_>,
    depth: usize,
    members: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    match row.shape {
        Shape::Single => {
            let Some(value) = single(row, name, field, depth)? else { return Ok(()) };
            if row.pointer || !(row.omit_empty && is_zero(&value)) {
                members.insert(name.to_owned(), value);
            }
        }
        Shape::List => {
            let value = single(row, name, field, depth)?.unwrap_or(Value::Null);
            if let Value::Array(items) = members.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                items.push(value);
            }
        }
        Shape::Map => {
            let Field::Bytes(entry) = field else { return Err(mismatch(name, field, "a map entry")) };
            let (mut key, mut value) = (String::new(), None);
            let mut reader = Reader::new(entry);
            while let Some((number, field)) = reader.next()? {
                match (number, field) {
                    (1, Field::Bytes(bytes)) => key = text(bytes, name)?,
                    (2, field) => value = single(row, name, field, depth)?,
                    _ => {}
                }
            }
            let value = value.unwrap_or_else(|| zero(row.ty));
            if let Value::Object(map) = members.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

/// `None` where the message stands for an absent value (a zero time).
fn single(row: &FieldRow, name: &str, field: Field<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    let value = match (row.ty, field) {
        (Type::String, Field::Bytes(bytes)) => Value::String(text(bytes, name)?),
        (Type::Bytes, Field::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Type::Bool, Field::Varint(value)) => Value::Bool(value != 0),
        (Type::Int, Field::Varint(value)) => Value::from(value.cast_signed()),
        (Type::Double, Field::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Type::Message(definition), Field::Bytes(bytes)) => object(bytes, definition, depth + 1)?,
        (Type::Special(special), Field::Bytes(bytes)) => {
            return special::decode(bytes, special, &|bytes, schema| object(bytes, schema, depth + 2).map(Some));
        }
        (ty, field) => return Err(mismatch(name, field, describe(ty))),
    };
    Ok(Some(value))
}

fn describe(ty: Type) -> &'static str {
    match ty {
        Type::String => "a string",
        Type::Bool => "a boolean",
        Type::Int => "an integer",
        Type::Double => "a number",
        Type::Bytes => "bytes",
        Type::Message(_) | Type::Special(_) => "a message",
    }
}

fn zero(ty: Type) -> Value {
    match ty {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int | Type::Double => Value::from(0),
        Type::Message(_) | Type::Special(_) => Value::Object(Map::new()),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
    }
}

fn mismatch(name: &str, field: Field<'_>, wanted: &'static str) -> ProtobufError {
    let value = match field {
        Field::Varint(_) => "a varint",
        Field::Fixed64(_) | Field::Fixed32(_) => "a fixed-width number",
        Field::Bytes(_) => "a length-delimited field",
    };
    ProtobufError::Type { field: name.to_owned(), value: value.to_owned(), wanted }
}

pub(super) fn text(bytes: &[u8], field: &str) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Text(field.to_owned()))
}
