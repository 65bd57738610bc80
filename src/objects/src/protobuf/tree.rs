//! Another encoder to compare with: slow, from a tree, and so plain that its bytes can be believed. And objects to
//! compare them on: of every message of the table, with values of all sorts.

#![expect(clippy::cast_possible_truncation, reason = "the numbers are small")]

use super::table::{self, Definition, FieldRow, Shape, Type};
use super::{Transcoder, decode, special::Special};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn integer(number: u32, value: i64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value.cast_unsigned())].concat()
}

fn bytes(number: u32, value: &[u8]) -> Vec<u8> {
    [varint(u64::from(number) << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn message(value: &Value, definition: Definition) -> Vec<u8> {
    let mut out = Vec::new();
    for row in definition.message().fields() {
        let Some(name) = row.name else {
            let Type::Message(embedded) = row.ty else { panic!("{row:?}") };
            out.extend(bytes(row.number, &message(value, embedded)));
            continue;
        };
        let Some(member) = value.get(name).filter(|member| !member.is_null()) else { continue };
        match row.shape {
            Shape::Single => out.extend(single(row.number, row.ty, member)),
            Shape::List => {
                member.as_array().unwrap().iter().for_each(|item| out.extend(single(row.number, row.ty, item)));
            }
            Shape::Map => {
                for (key, value) in member.as_object().unwrap() {
                    let entry = [bytes(1, key.as_bytes()), single(2, row.ty, value)].concat();
                    out.extend(bytes(row.number, &entry));
                }
            }
        }
    }
    out
}

fn single(number: u32, ty: Type, value: &Value) -> Vec<u8> {
    match ty {
        Type::String => bytes(number, value.as_str().unwrap().as_bytes()),
        Type::Bool => integer(number, i64::from(value.as_bool().unwrap())),
        Type::Int => integer(number, value.as_i64().unwrap()),
        Type::Double => [varint(u64::from(number) << 3 | 1), value.as_f64().unwrap().to_le_bytes().to_vec()].concat(),
        Type::Bytes => bytes(number, &STANDARD.decode(value.as_str().unwrap()).unwrap()),
        Type::Message(definition) => bytes(number, &message(value, definition)),
        Type::Special(special) => bytes(number, &special_message(value, special)),
    }
}

fn special_message(value: &Value, special: Special) -> Vec<u8> {
    let schema = || super::special::schema().unwrap();
    let each = |number, items: &[Value]| items.iter().flat_map(|item| single(number, Type::String, item)).collect();
    match (special, value) {
        (Special::Time(_), Value::String(text)) => {
            let time: Timestamp = text.parse().unwrap();
            [integer(1, time.as_second()), integer(2, i64::from(time.subsec_nanosecond()))].concat()
        }
        (Special::Duration, Value::String(text)) => {
            integer(1, i64::try_from(crate::duration::parse(text).unwrap().as_nanos()).unwrap())
        }
        (Special::Quantity, Value::String(text)) => bytes(1, text.as_bytes()),
        (Special::Quantity, Value::Number(number)) => bytes(1, number.to_string().as_bytes()),
        (Special::IntOrString, Value::Number(number)) => {
            [integer(1, 0), integer(2, number.as_i64().unwrap()), bytes(3, b"")].concat()
        }
        (Special::IntOrString, Value::String(text)) => {
            [integer(1, 1), integer(2, 0), bytes(3, text.as_bytes())].concat()
        }
        (Special::Raw, value) => bytes(1, value.to_string().as_bytes()),
        (Special::Strings, Value::Array(items)) => each(1, items),
        (Special::SchemaOrStrings, Value::Array(items)) => each(2, items),
        (Special::SchemaOrBool, Value::Bool(allows)) => integer(1, i64::from(*allows)),
        (Special::SchemaOrBool, value) => [integer(1, 1), bytes(2, &message(value, schema()))].concat(),
        (Special::SchemaOrArray, Value::Array(items)) => {
            items.iter().flat_map(|item| bytes(2, &message(item, schema()))).collect()
        }
        (Special::SchemaOrArray | Special::SchemaOrStrings, value) => bytes(1, &message(value, schema())),
        other => panic!("{other:?}"),
    }
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn text(&mut self) -> String {
        let parts = ["", "a", "nginx:1.27", "\"", "\\", "\n\t\u{1}", "é\u{1F600}", "{\"k\":[1]}", "0123456789abcdef"];
        (0..self.below(4))
            .map(|_| parts[self.below(parts.len() as u64) as usize].repeat(self.below(12) as usize))
            .collect()
    }

    fn integer(&mut self) -> i64 {
        [0, 1, -1, 127, 128, 65_536, i64::MAX, i64::MIN][self.below(8) as usize]
    }

    fn object(&mut self, definition: Definition, depth: usize) -> Value {
        let mut members = Map::new();
        self.fill(definition, depth, &mut members);
        members.insert("notInTheTable".into(), json!({"a": [self.text(), {}, null]}));
        Value::Object(members)
    }

    fn fill(&mut self, definition: Definition, depth: usize, members: &mut Map<String, Value>) {
        for row in definition.message().fields() {
            let (Some(name), ty) = (row.name, row.ty) else {
                let Type::Message(embedded) = row.ty else { continue };
                self.fill(embedded, depth, members);
                continue;
            };
            let deep = matches!(ty, Type::Message(_) | Type::Special(_));
            // The deeper, the fewer: a schema holds schemas without end.
            if self.below(8) < 2 || (deep && self.below(depth as u64 + 1) > 0) {
                continue;
            }
            let value = if self.below(16) == 0 { Value::Null } else { self.field(row, depth) };
            members.insert(name.to_owned(), value);
        }
    }

    fn field(&mut self, row: &FieldRow, depth: usize) -> Value {
        let count = self.below(4);
        match row.shape {
            Shape::Single => self.value(row.ty, depth),
            Shape::List => (0..count).map(|_| self.value(row.ty, depth)).collect(),
            Shape::Map => Value::Object((0..count).map(|_| (self.text(), self.value(row.ty, depth))).collect()),
        }
    }

    fn value(&mut self, ty: Type, depth: usize) -> Value {
        match ty {
            Type::String => self.text().into(),
            Type::Bool => (self.below(2) == 0).into(),
            Type::Int => self.integer().into(),
            Type::Double => [0.0, -1.5, 1e300, 0.1][self.below(4) as usize].into(),
            Type::Bytes => STANDARD.encode(self.text()).into(),
            Type::Message(_) if self.below(16) == 0 => Value::Null,
            Type::Message(definition) => self.object(definition, depth + 1),
            Type::Special(special) => self.special(special, depth),
        }
    }

    fn special(&mut self, special: Special, depth: usize) -> Value {
        let schema = |dice: &mut Dice| dice.object(super::special::schema().unwrap(), depth + 1);
        let plain = self.below(2) == 0;
        match special {
            Special::Time(0) => {
                let times = [
                    "1970-01-01T00:00:00Z",
                    "2024-02-29T23:59:59Z",
                    "1969-12-31T23:59:59Z",
                    "2026-11-23T11:00:00+02:00",
                ];
                times[self.below(4) as usize].into()
            }
            Special::Time(_) => ["2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05Z"][self.below(2) as usize].into(),
            Special::Duration => ["1h30m", "0s", "-300ms"][self.below(3) as usize].into(),
            Special::Quantity | Special::IntOrString if plain => self.integer().into(),
            Special::Quantity | Special::IntOrString => self.text().into(),
            Special::Raw => json!({"f:a": {"k:{\"x\":1}": {".": {}}}, "b": [1, -2.5, true, null, self.text()]}),
            Special::SchemaOrBool if plain => Value::Bool(self.below(2) == 0),
            Special::SchemaOrArray if plain => (0..self.below(3)).map(|_| schema(self)).collect(),
            Special::Strings => (0..self.below(3)).map(|_| Value::from(self.text())).collect(),
            Special::SchemaOrStrings if plain => (0..self.below(3)).map(|_| Value::from(self.text())).collect(),
            Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrStrings => schema(self),
        }
    }
}

/// The same object with its members the other way round, as text.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().rev().map(|(name, value)| format!("{} :\n{}", json!(name), reversed(value))).collect();
            format!("{{ {} }}", members.join(" , "))
        }
        other => other.to_string(),
    }
}

#[test]
fn objects_of_every_message_have_the_bytes_that_a_tree_of_them_has() {
    let mut dice = Dice(7);
    let (mut transcoder, mut sum) = (Transcoder::default(), 0);
    for (name, definition) in table::all() {
        for _ in 0..8 {
            let object = dice.object(definition, 0);
            let expected = bytes(3, &message(&object, definition));
            let mut got = Vec::new();
            transcoder.field(&mut got, 3, definition, object.to_string().as_bytes()).unwrap();
            assert!(got == expected, "{name}: {object}");
            sum += got.len();
        }
    }
    assert!(sum > 4 << 20, "{sum} bytes compared");
}

#[test]
fn the_order_of_members_and_the_space_between_them_do_not_matter() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "generation": 2, "uid": "u"},
        "spec": {"containers": [{"name": "c", "livenessProbe": {"periodSeconds": 3, "exec": {"command": ["x"]}}}],
            "volumes": [{"name": "v", "configMap": {"name": "m", "optional": true}}], "nodeName": "n"}});
    let mut out = Vec::new();
    Transcoder::default().object(&mut out, "v1", "Pod", reversed(&pod).as_bytes()).unwrap();
    assert_eq!(out, super::encode(&pod).unwrap());
    assert_eq!(decode(&out).unwrap().value["spec"]["volumes"][0]["configMap"]["name"], "m");
}

#[test]
fn of_members_of_one_name_the_last_counts() {
    let mut out = Vec::new();
    let twice = br#"{"data":{"a":"b"},"immutable":true,"data":{"c":"d"},"immutable":null}"#;
    Transcoder::default().object(&mut out, "v1", "ConfigMap", twice).unwrap();
    let once = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"c": "d"}});
    assert_eq!(out, super::encode(&once).unwrap());
}
