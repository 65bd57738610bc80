//! Typed decoding of a JSON value as upstream's decoder does it.
//!
//! A serde `Deserializer` over `serde_json::Value` that knows Go's habits: `null` is the zero value everywhere, an
//! empty list or map in an optional field is no value, a time that must be there and is not is Go's zero time,
//! quantities come out canonical, and errors carry Go's wording
//! and the dotted path (`json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type
//! int32`). Unknown fields are dropped by the types. Used by the typed strategies.

mod go_types;

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// Why a value does not fit its type. Displays as upstream's decoder words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    kind: Kind,
    /// Field names from the outermost in, in reverse.
    path: Vec<String>,
    /// Innermost struct that the error passed.
    structure: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A JSON value of one type where another belongs.
    Mismatch { found: String, wanted: String },
    /// Worded by the type itself.
    Text(String),
}

impl DecodeError {
    fn mismatch(found: &Value, wanted: impl Into<String>) -> Self {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Self::new(Kind::Mismatch { found: found.to_owned(), wanted: wanted.into() })
    }

    fn text(message: impl Into<String>) -> Self {
        Self::new(Kind::Text(message.into()))
    }

    fn new(kind: Kind) -> Self {
        Self { kind, path: Vec::new(), structure: None }
    }

    fn below(mut self, field: &str) -> Self {
        self.path.push(field.to_owned());
        self
    }

    fn inside(mut self, structure: &str) -> Self {
        if self.structure.is_none() && !self.path.is_empty() {
            self.structure = Some(structure.to_owned());
        }
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind::Mismatch { found, wanted } = &self.kind else {
            let Kind::Text(text) = &self.kind else { return Ok(()) };
            return f.write_str(text);
        };
        if self.path.is_empty() {
            return write!(f, "json: cannot unmarshal {found} into Go value of type {wanted}");
        }
        write!(f, "json: cannot unmarshal {found} into Go struct field ")?;
        if let Some(structure) = &self.structure {
            write!(f, "{structure}.")?;
        }
        for (n, field) in self.path.iter().rev().enumerate() {
            write!(f, "{}{field}", if n == 0 { "" } else { "." })?;
        }
        write!(f, " of type {wanted}")
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::text(message.to_string())
    }
}

/// Go's zero time. Go itself writes it as `null`, which the types here have no room for.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Fields that some types here insist on and Go does not: all of them are times.
const INSISTED: [&str; 2] = ["lastObservedTime", "lastTransitionTime"];

/// Decodes `value` into `T`.
///
/// # Errors
/// The first value that does not fit its type.
pub fn decode<T: DeserializeOwned>(value: Value) -> Result<T, DecodeError> {
    T::deserialize(Typed(value))
}

struct Typed(Value);

impl Typed {
    fn integer<'de, V: Visitor<'de>>(self, visitor: V, go: &str) -> Result<V::Value, DecodeError> {
        let value = self.0;
        let number = match &value {
            Value::Null => return visitor.visit_i64(0),
            Value::Number(number) => number,
            other => return Err(DecodeError::mismatch(other, go)),
        };
        let error = || DecodeError::new(Kind::Mismatch { found: format!("number {number}"), wanted: go.to_owned() });
        let integer = number.as_i64().ok_or_else(error)?;
        visitor.visit_i64::<DecodeError>(integer).map_err(|_| error())
    }

    /// `Time` and `MicroTime` parse themselves, but word their errors in their own way.
    fn time<'de, V: Visitor<'de>>(self, visitor: V, layout: &str) -> Result<V::Value, DecodeError> {
        let shown = self.0.as_str().map(str::to_owned);
        let value = if self.0.is_null() { Self(ZERO_TIME.into()) } else { self };
        visitor.visit_newtype_struct(value).map_err(|error| match shown {
            Some(text) => {
                let text = crate::status::quote(&text);
                DecodeError::text(format!("parsing time {text} as \"{layout}\": cannot parse {text} as \"2006\""))
            }
            None => error,
        })
    }
}

/// Brings the text or number of a quantity into canonical form.
fn quantity(value: Value) -> Result<Value, DecodeError> {
    let text = match value {
        Value::Null => return Ok(Value::String("0".to_owned())),
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        other => return Err(DecodeError::mismatch(&other, "resource.Quantity")),
    };
    match text.parse::<Quantity>() {
        Ok(quantity) => Ok(Value::String(quantity.to_string())),
        Err(error) => Err(DecodeError::text(error.to_string())),
    }
}

impl<'de> de::Deserializer<'de> for Typed {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(n), _, _) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (_, _, Some(n)) => visitor.visit_f64(n),
                _ => Err(DecodeError::text(format!("invalid number {number}"))),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::Object(map) => visitor.visit_map(Entries::of_map(map)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(value) => visitor.visit_bool(value),
            other => Err(DecodeError::mismatch(&other, "bool")),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "int32")
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor, "int64")
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0 {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(number) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            other => Err(DecodeError::mismatch(other, "float64")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_string(String::new()),
            Value::String(text) => match go_types::check_base64::<V::Value>(text) {
                Err(error) => Err(DecodeError::text(error)),
                Ok(text) => visitor.visit_string(text),
            },
            other => Err(DecodeError::mismatch(&other, go_types::name_of::<V::Value>())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let absent = match &self.0 {
            Value::Null => true,
            Value::Array(items) => items.is_empty() && go_types::is_optional_list::<V::Value>(),
            Value::Object(map) => map.is_empty() && go_types::is_optional_map::<V::Value>(),
            _ => false,
        };
        if absent { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match name {
            "Quantity" => visitor.visit_newtype_struct(Typed(quantity(self.0)?)),
            "Time" => self.time(visitor, "2006-01-02T15:04:05Z07:00"),
            "MicroTime" => self.time(visitor, "2006-01-02T15:04:05.000000Z07:00"),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_seq(Items(Vec::new().into_iter())),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            other => Err(DecodeError::mismatch(&other, go_types::name_of::<V::Value>())),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0 {
            Value::Null => visitor.visit_map(Entries::of_map(Map::new())),
            Value::Object(map) => visitor.visit_map(Entries::of_map(map)),
            other => Err(DecodeError::mismatch(&other, go_types::name_of::<V::Value>())),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let mut fields = match self.0 {
            Value::Null => Map::new(),
            Value::Object(map) => map,
            other => return Err(DecodeError::mismatch(&other, go_types::name_of::<V::Value>())),
        };
        for name in INSISTED.into_iter().filter(|name| known.contains(name)) {
            fields.entry(name).or_insert(Value::Null);
        }
        visitor.visit_map(Entries::of_struct(fields)).map_err(|error| error.inside(name))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items(std::vec::IntoIter<Value>);

impl<'de> de::SeqAccess<'de> for Items {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        self.0.next().map(|item| seed.deserialize(Typed(item))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries {
    rest: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
    /// Whether keys are field names, which errors show, or those of a map, which they do not.
    fields: bool,
}

impl Entries {
    fn of_map(map: Map<String, Value>) -> Self {
        Self { rest: map.into_iter(), value: None, fields: false }
    }

    fn of_struct(map: Map<String, Value>) -> Self {
        Self { fields: true, ..Self::of_map(map) }
    }
}

// What does not depend on the type that is read stays out of the functions below, of which there is a copy for each.
impl Entries {
    #[inline(never)]
    fn next_key(&mut self) -> Option<StringDeserializer<DecodeError>> {
        let (key, value) = self.rest.next()?;
        self.value = Some((key.clone(), value));
        Some(key.into_deserializer())
    }

    #[inline(never)]
    fn failed(&self, key: &str, error: DecodeError) -> DecodeError {
        if self.fields { error.below(key) } else { error }
    }
}

impl<'de> de::MapAccess<'de> for Entries {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.next_key().map(|key| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        let Some((key, value)) = self.value.take() else {
            return Err(DecodeError::text("value asked for before its key"));
        };
        seed.deserialize(Typed(value)).map_err(|error| self.failed(&key, error))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
    use serde_json::json;

    fn deployment(spec: Value) -> Result<Deployment, String> {
        decode(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec})).map_err(|e| e.to_string())
    }

    #[test]
    fn mismatches_are_worded_as_go_does() {
        assert_eq!(
            deployment(json!({"replicas": "three"})).unwrap_err(),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let env = json!({"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}});
        assert_eq!(
            deployment(env).unwrap_err(),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
        );
        assert_eq!(
            deployment(json!({"template": {"spec": {"containers": {}}}})).unwrap_err(),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        );
        assert_eq!(
            deployment(json!({"template": {"metadata": {"labels": {"a": 1}}}})).unwrap_err(),
            "json: cannot unmarshal number into Go struct field ObjectMeta.spec.template.metadata.labels of type string"
        );
        assert_eq!(
            deployment(json!({"replicas": 1.5})).unwrap_err(),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
    }

    #[test]
    fn unknown_fields_are_dropped_and_nulls_are_zero() {
        let map: ConfigMap =
            decode(json!({"apiVersion": "v1", "kind": "ConfigMap", "foo": 1, "data": {"a": null}, "immutable": null}))
                .unwrap();
        assert_eq!(serde_json::to_value(map).unwrap()["data"], json!({"a": ""}));
    }

    #[test]
    fn empty_optional_lists_and_maps_vanish_but_structs_stay() {
        let pod: Pod = decode(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {}},
            "spec": {"containers": [{"name": "a", "args": []}], "volumes": [{"name": "v", "emptyDir": {}}]}}))
        .unwrap();
        let value = serde_json::to_value(pod).unwrap();
        assert_eq!(value["spec"], json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}));
        assert_eq!(value["metadata"], json!({}));
    }

    #[test]
    fn quantities_become_canonical_or_fail() {
        let pod = |cpu: Value| {
            decode::<Pod>(json!({"apiVersion": "v1", "kind": "Pod",
                "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": cpu}}}]}}))
        };
        let value = serde_json::to_value(pod(json!(0.5)).unwrap()).unwrap();
        assert_eq!(value["spec"]["containers"][0]["resources"]["limits"]["cpu"], "500m");
        assert_eq!(
            pod(json!("abc")).unwrap_err().to_string(),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }

    #[test]
    fn a_time_that_is_not_given_is_the_zero_time() {
        let status = json!({"conditions": [{"type": "A", "status": "True"},
            {"type": "B", "status": "True", "lastTransitionTime": null}]});
        let service: k8s_openapi::api::core::v1::Service =
            decode(json!({"apiVersion": "v1", "kind": "Service", "status": status})).unwrap();
        let value = serde_json::to_value(service).unwrap();
        let times = value["status"]["conditions"].as_array().unwrap().iter().map(|c| c["lastTransitionTime"].clone());
        assert_eq!(times.collect::<Vec<_>>(), [ZERO_TIME, ZERO_TIME]);
        let node: k8s_openapi::api::core::v1::Node = decode(json!({"apiVersion": "v1", "kind": "Node",
            "status": {"conditions": [{"type": "A", "status": "True"}]}}))
        .unwrap();
        assert_eq!(serde_json::to_value(node).unwrap()["status"]["conditions"][0].get("lastTransitionTime"), None);
    }

    #[test]
    fn broken_base64_and_times_are_named() {
        let secret = decode::<Secret>(json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "a*b="}}));
        assert_eq!(secret.unwrap_err().to_string(), "illegal base64 data at input byte 1");
        let pod = decode::<Pod>(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": "now"}}));
        assert_eq!(
            pod.unwrap_err().to_string(),
            "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\""
        );
    }
}
