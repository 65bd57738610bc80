//! Types whose JSON form is not their message's: times, quantities, int-or-string, raw JSON, and the like.

use super::ProtobufError;
use super::decode::text;
use super::encode::mismatch;
use super::wire::{Field, Reader, Writer};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// Seconds and nanoseconds; RFC 3339 with this many digits of a second's fraction.
    Time(i16),
    Duration,
    Quantity,
    IntOrString,
    /// JSON text in field 1.
    Raw,
    /// Strings in field 1, a plain list in JSON.
    Strings,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
}

fn special(definition: &str) -> Option<Special> {
    let (_, name) = definition.rsplit_once('.')?;
    Some(match name {
        "Time" => Special::Time(0),
        "MicroTime" => Special::Time(6),
        "Duration" => Special::Duration,
        "Quantity" => Special::Quantity,
        "IntOrString" => Special::IntOrString,
        "FieldsV1" | "RawExtension" | "JSON" => Special::Raw,
        "ExtraValue" | "Verbs" => Special::Strings,
        "JSONSchemaPropsOrBool" => Special::SchemaOrBool,
        "JSONSchemaPropsOrArray" => Special::SchemaOrArray,
        "JSONSchemaPropsOrStringArray" => Special::SchemaOrStrings,
        _ => return None,
    })
}

pub(super) fn is_special(definition: &str) -> bool {
    special(definition).is_some()
}

type Decode<'a> = &'a dyn Fn(&[u8], &str) -> Result<Option<Value>, ProtobufError>;
type Encode<'a> = &'a dyn Fn(&Value, &str) -> Result<Vec<u8>, ProtobufError>;

/// The parts of a special message: up to three fields, in every kind of value they may have.
#[derive(Default)]
struct Parts<'a> {
    integers: [Option<i64>; 4],
    bytes: [Vec<&'a [u8]>; 4],
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, ProtobufError> {
    let mut parts = Parts::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        let slot = usize::try_from(number).unwrap_or(usize::MAX);
        match field {
            Field::Varint(value) if slot < 4 => parts.integers[slot] = Some(value.cast_signed()),
            Field::Bytes(value) if slot < 4 => parts.bytes[slot].push(value),
            _ => {}
        }
    }
    Ok(parts)
}

pub(super) fn decode(bytes: &[u8], definition: &str, schema: Decode<'_>) -> Result<Option<Value>, ProtobufError> {
    let Some(special) = special(definition) else { return Ok(None) };
    let parts = parts(bytes)?;
    let integer = |slot: usize| parts.integers[slot].unwrap_or(0);
    let strings = |slot: usize| {
        parts.bytes[slot].iter().map(|bytes| text(bytes, definition).map(Value::String)).collect::<Result<Vec<_>, _>>()
    };
    let last = |slot: usize| parts.bytes[slot].last().copied();
    let one_schema = |slot: usize| match last(slot) {
        Some(bytes) => schema(bytes, SCHEMA),
        None => Ok(None),
    };
    Ok(match special {
        // The zero time is an absent one.
        Special::Time(_) if bytes.is_empty() => None,
        Special::Time(digits) => Some(Value::String(time_text(integer(1), integer(2), digits, definition)?)),
        Special::Duration => Some(Value::String(crate::duration::format(SignedDuration::from_nanos(integer(1))))),
        Special::Quantity => strings(1)?.pop(),
        Special::IntOrString if integer(1) == 0 => Some(Value::from(integer(2))),
        Special::IntOrString => strings(3)?.pop(),
        Special::Raw => match last(1).filter(|raw| !raw.is_empty()) {
            Some(raw) => Some(serde_json::from_slice(raw).map_err(|_| ProtobufError::Text(definition.to_owned()))?),
            None => None,
        },
        Special::Strings => Some(Value::Array(strings(1)?)),
        Special::SchemaOrBool => one_schema(2)?.or(Some(Value::Bool(integer(1) != 0))),
        Special::SchemaOrStrings => one_schema(1)?.or(Some(Value::Array(strings(2)?))),
        Special::SchemaOrArray => match one_schema(1)? {
            Some(schema) => Some(schema),
            None => {
                let items = parts.bytes[2].iter().map(|bytes| Ok(schema(bytes, SCHEMA)?.unwrap_or(Value::Null)));
                Some(Value::Array(items.collect::<Result<_, ProtobufError>>()?))
            }
        },
    })
}

pub(super) fn encode(value: &Value, definition: &str, schema: Encode<'_>) -> Result<Vec<u8>, ProtobufError> {
    let mut writer = Writer::default();
    let Some(special) = special(definition) else { return Ok(writer.finish()) };
    let unfit = |wanted: &'static str| mismatch(definition, value, wanted);
    match (special, value) {
        (Special::Time(_), Value::String(text)) => {
            let time: Timestamp = text.parse().map_err(|_| unfit("a time"))?;
            writer.integer(1, time.as_second());
            writer.integer(2, i64::from(time.subsec_nanosecond()));
        }
        (Special::Duration, Value::String(text)) => {
            let duration = crate::duration::parse(text).map_err(|_| unfit("a duration"))?;
            writer.integer(1, i64::try_from(duration.as_nanos()).map_err(|_| unfit("a duration"))?);
        }
        (Special::Quantity, Value::String(text)) => writer.text(1, text),
        (Special::Quantity, Value::Number(number)) => writer.text(1, &number.to_string()),
        (Special::IntOrString, Value::Number(number)) => {
            writer.integer(1, 0);
            writer.integer(2, number.as_i64().ok_or_else(|| unfit("an integer"))?);
            writer.text(3, "");
        }
        (Special::IntOrString, Value::String(text)) => {
            writer.integer(1, 1);
            writer.integer(2, 0);
            writer.text(3, text);
        }
        (Special::Raw, value) => writer.text(1, &value.to_string()),
        (Special::Strings, Value::Array(items)) => {
            for item in items {
                writer.text(1, item.as_str().ok_or_else(|| unfit("a list of strings"))?);
            }
        }
        (Special::SchemaOrBool, Value::Bool(allows)) => writer.integer(1, i64::from(*allows)),
        (Special::SchemaOrBool, value) => {
            writer.integer(1, 1);
            writer.bytes(2, &schema(value, SCHEMA)?);
        }
        (Special::SchemaOrArray, Value::Array(items)) => {
            for item in items {
                writer.bytes(2, &schema(item, SCHEMA)?);
            }
        }
        (Special::SchemaOrStrings, Value::Array(items)) => {
            for item in items {
                writer.text(2, item.as_str().ok_or_else(|| unfit("a list of strings"))?);
            }
        }
        (Special::SchemaOrArray | Special::SchemaOrStrings, value) => writer.bytes(1, &schema(value, SCHEMA)?),
        _ => return Err(unfit("its type")),
    }
    Ok(writer.finish())
}

fn time_text(seconds: i64, nanos: i64, digits: i16, definition: &str) -> Result<String, ProtobufError> {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let time = Timestamp::new(seconds, if digits == 0 { 0 } else { nanos });
    let time = time.map_err(|_| ProtobufError::Text(definition.to_owned()))?;
    Ok(if digits == 0 { time.to_string() } else { format!("{time:.6}") })
}
