//! Types whose JSON form is not their message's: times, quantities, int-or-string, raw JSON, and the like.

use super::ProtobufError;
use super::decode::text;
use super::encode::{Encoder, mismatch};
use super::table::{self, Definition};
use super::wire::{Field, Reader};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The definition of the schemas that stand within special types.
pub(super) fn schema() -> Result<Definition, ProtobufError> {
    table::find(SCHEMA).ok_or_else(|| ProtobufError::Unknown(SCHEMA.to_owned()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
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

impl Special {
    pub(super) fn of(definition: &str) -> Option<Special> {
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

    /// What its JSON form is, for errors.
    fn form(self) -> &'static str {
        match self {
            Special::Time(_) => "a time",
            Special::Duration => "a duration",
            Special::Quantity => "a quantity",
            Special::IntOrString => "an integer or a string",
            Special::Raw => "JSON",
            Special::Strings => "a list of strings",
            Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStrings => "a schema",
        }
    }
}

type Decode<'a> = &'a dyn Fn(&[u8], Definition) -> Result<Option<Value>, ProtobufError>;

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

pub(super) fn decode(bytes: &[u8], special: Special, message: Decode<'_>) -> Result<Option<Value>, ProtobufError> {
    let definition = special.form();
    let parts = parts(bytes)?;
    let integer = |slot: usize| parts.integers[slot].unwrap_or(0);
    let strings = |slot: usize| {
        parts.bytes[slot].iter().map(|bytes| text(bytes, definition).map(Value::String)).collect::<Result<Vec<_>, _>>()
    };
    let last = |slot: usize| parts.bytes[slot].last().copied();
    let one_schema = |slot: usize| match last(slot) {
        Some(bytes) => message(bytes, schema()?),
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
                let items = parts.bytes[2].iter().map(|bytes| Ok(message(bytes, schema()?)?.unwrap_or(Value::Null)));
                Some(Value::Array(items.collect::<Result<_, ProtobufError>>()?))
            }
        },
    })
}

/// Appends the message of the next value, without its length.
pub(super) fn encode(encoder: &mut Encoder<'_, '_>, special: Special) -> Result<(), ProtobufError> {
    let first = encoder.json.peek()?;
    let unfit = |text: &str| mismatch(special.form(), text, special.form());
    match (special, first) {
        (Special::Time(_), b'"') => {
            let text = encoder.json.string()?;
            let time: Timestamp = text.parse().map_err(|_| unfit("\""))?;
            encoder.out.integer(1, time.as_second());
            encoder.out.integer(2, i64::from(time.subsec_nanosecond()));
        }
        (Special::Duration, b'"') => {
            let duration = crate::duration::parse(&encoder.json.string()?).map_err(|_| unfit("\""))?;
            encoder.out.integer(1, i64::try_from(duration.as_nanos()).map_err(|_| unfit("\""))?);
        }
        (Special::Quantity, b'"') => encoder.out.text(1, &encoder.json.string()?),
        (Special::Quantity, b'-' | b'0'..=b'9') => encoder.out.text(1, encoder.json.value()?),
        (Special::IntOrString, b'"') => {
            encoder.out.integer(1, 1);
            encoder.out.integer(2, 0);
            encoder.out.text(3, &encoder.json.string()?);
        }
        (Special::IntOrString, b'-' | b'0'..=b'9') => {
            let text = encoder.json.value()?;
            encoder.out.integer(1, 0);
            encoder.out.integer(2, text.parse().map_err(|_| unfit(text))?);
            encoder.out.text(3, "");
        }
        (Special::Raw, _) => encoder.out.text(1, encoder.json.value()?),
        (Special::Strings, b'[') => strings(encoder, 1)?,
        (Special::SchemaOrStrings, b'[') => strings(encoder, 2)?,
        (Special::SchemaOrBool, b't' | b'f') => encoder.boolean(1, special.form())?,
        (Special::SchemaOrBool, _) => {
            encoder.out.integer(1, 1);
            encoder.message(2, schema()?)?;
        }
        (Special::SchemaOrArray, b'[') => {
            let mut first = encoder.json.passes(b'[')?;
            while encoder.json.item(b']', &mut first)? {
                encoder.message(2, schema()?)?;
            }
        }
        (Special::SchemaOrArray | Special::SchemaOrStrings, _) => encoder.message(1, schema()?)?,
        _ => return Err(unfit(encoder.json.value()?)),
    }
    Ok(())
}

fn strings(encoder: &mut Encoder<'_, '_>, number: u32) -> Result<(), ProtobufError> {
    let mut first = encoder.json.passes(b'[')?;
    while encoder.json.item(b']', &mut first)? {
        encoder.string(number, Special::Strings.form())?;
    }
    Ok(())
}

fn time_text(seconds: i64, nanos: i64, digits: i16, definition: &str) -> Result<String, ProtobufError> {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let time = Timestamp::new(seconds, if digits == 0 { 0 } else { nanos });
    let time = time.map_err(|_| ProtobufError::Text(definition.to_owned()))?;
    Ok(if digits == 0 { time.to_string() } else { format!("{time:.6}") })
}
