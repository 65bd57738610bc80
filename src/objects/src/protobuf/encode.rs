//! From JSON to protobuf. Members that the table does not know are left out, as are nulls.

use super::table::{self, FieldRow, Shape, Type};
use super::wire::Writer;
use super::{MAX_DEPTH, ProtobufError, special};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Writes a JSON object as a message.
pub(super) fn message(value: &Value, definition: &str) -> Result<Vec<u8>, ProtobufError> {
    bytes_of(value, definition, 0)
}

fn bytes_of(value: &Value, definition: &str, depth: usize) -> Result<Vec<u8>, ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    if special::is_special(definition) {
        return special::encode(value, definition, &|value, definition| bytes_of(value, definition, depth + 1));
    }
    let message = table::message(definition).ok_or_else(|| ProtobufError::Unknown(definition.to_owned()))?;
    let mut writer = Writer::default();
    for row in message.fields() {
        let Some(name) = row.name else {
            if let Type::Message(embedded) = row.ty {
                writer.bytes(row.number, &bytes_of(value, embedded, depth + 1)?);
            }
            continue;
        };
        let Some(member) = value.get(name).filter(|member| !member.is_null()) else { continue };
        field(&mut writer, row, name, member, depth)?;
    }
    Ok(writer.finish())
}

fn field(writer: &mut Writer, row: &FieldRow, name: &str, value: &Value, depth: usize) -> Result<(), ProtobufError> {
    match row.shape {
        Shape::Single => single(writer, row.number, row.ty, name, value, depth),
        Shape::List => {
            let items = value.as_array().ok_or_else(|| mismatch(name, value, "a list"))?;
            items.iter().try_for_each(|item| single(writer, row.number, row.ty, name, item, depth))
        }
        Shape::Map => {
            let members = value.as_object().ok_or_else(|| mismatch(name, value, "a map"))?;
            for (key, value) in members {
                let mut entry = Writer::default();
                entry.text(1, key);
                single(&mut entry, 2, row.ty, name, value, depth)?;
                writer.bytes(row.number, &entry.finish());
            }
            Ok(())
        }
    }
}

fn single(
    writer: &mut Writer,
    number: u32,
    ty: Type,
    name: &str,
    value: &Value,
    depth: usize,
) -> Result<(), ProtobufError> {
    match ty {
        Type::String => writer.text(number, value.as_str().ok_or_else(|| mismatch(name, value, "a string"))?),
        Type::Bool => {
            let flag = value.as_bool().ok_or_else(|| mismatch(name, value, "a boolean"))?;
            writer.integer(number, i64::from(flag));
        }
        Type::Int => writer.integer(number, value.as_i64().ok_or_else(|| mismatch(name, value, "an integer"))?),
        Type::Double => writer.double(number, value.as_f64().ok_or_else(|| mismatch(name, value, "a number"))?),
        Type::Bytes => {
            let decoded = value.as_str().and_then(|text| STANDARD.decode(text).ok());
            writer.bytes(number, &decoded.ok_or_else(|| mismatch(name, value, "base64"))?);
        }
        Type::Message(definition) => writer.bytes(number, &bytes_of(value, definition, depth + 1)?),
    }
    Ok(())
}

pub(super) fn mismatch(name: &str, value: &Value, wanted: &'static str) -> ProtobufError {
    let value = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ProtobufError::Type { field: name.to_owned(), value: value.to_owned(), wanted }
}
