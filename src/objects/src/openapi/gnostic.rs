//! The Swagger document in protobuf, as client-go's discovery client asks for it: messages of the gnostic project's
//! `openapi.v2` package. Field numbers are those of its OpenAPIv2.proto. Only what our documents hold is encoded.

use serde_json::{Map, Value};

use super::paths::Paths;
use super::schemas::Definitions;

/// The media type of the encoded document.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

type Object = Map<String, Value>;

/// One message being built.
#[derive(Default)]
struct Message(Vec<u8>);

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

impl Message {
    fn varint(&mut self, mut value: u64) {
        loop {
            let low = value.to_le_bytes()[0] & 0x7f;
            value >>= 7;
            if value == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    fn key(&mut self, number: u64, wire_type: u64) {
        self.varint(number << 3 | wire_type);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.key(number, BYTES);
        self.varint(u64::try_from(bytes.len()).unwrap_or_default());
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: u64, message: &Self) {
        self.bytes(number, &message.0);
    }

    fn text(&mut self, number: u64, object: &Object, key: &str) {
        if let Some(text) = object.get(key).and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, object: &Object, key: &str) {
        for text in object.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, object: &Object, key: &str) {
        if object.get(key).and_then(Value::as_bool) == Some(true) {
            self.key(number, VARINT);
            self.varint(1);
        }
    }

    fn count(&mut self, number: u64, object: &Object, key: &str) {
        if let Some(count) = object.get(key).and_then(Value::as_u64) {
            self.key(number, VARINT);
            self.varint(count);
        }
    }

    fn double(&mut self, number: u64, object: &Object, key: &str) {
        if let Some(value) = object.get(key).and_then(Value::as_f64) {
            self.key(number, FIXED64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// A name and a message, as every map is encoded.
    fn named(&mut self, number: u64, name: &str, value: &Self) {
        let mut entry = Self::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(number, &entry);
    }

    /// All `x-...` entries.
    fn extensions(&mut self, number: u64, object: &Object) {
        for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, &any(value));
        }
    }
}

fn wrapped(number: u64, inner: &Message) -> Message {
    let mut outer = Message::default();
    outer.message(number, inner);
    outer
}

/// Any value: as YAML, which JSON is.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

/// `root` holds everything but paths and definitions.
pub(super) fn render(root: &Object, paths: &Paths<'_>, definitions: &Definitions<'_>) -> Vec<u8> {
    let mut document = Message(Vec::with_capacity(1 << 20));
    document.text(1, root, "swagger");
    if let Some(Value::Object(info)) = root.get("info") {
        let mut message = Message::default();
        message.text(1, info, "title");
        message.text(2, info, "version");
        document.message(2, &message);
    }
    let mut all = Message::default();
    paths.each(&mut |path, item| {
        if let Value::Object(item) = &item {
            all.named(2, path, &path_item(item));
        }
    });
    document.message(8, &all);
    let mut all = Message::default();
    definitions.each(&mut |name, definition| {
        if let Value::Object(definition) = &definition {
            all.named(1, name, &schema(definition));
        }
    });
    document.message(9, &all);
    for (name, _) in root.get("security").and_then(|s| s.get(0)).and_then(Value::as_object).into_iter().flatten() {
        let mut requirement = Message::default();
        requirement.named(1, name, &Message::default());
        document.message(12, &requirement);
    }
    let mut all = Message::default();
    for (name, definition) in root.get("securityDefinitions").and_then(Value::as_object).into_iter().flatten() {
        let Value::Object(definition) = definition else { continue };
        let mut key = Message::default();
        for (number, field) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
            key.text(number, definition, field);
        }
        all.named(1, name, &wrapped(2, &key));
    }
    document.message(13, &all);
    document.0
}

fn path_item(item: &Object) -> Message {
    let mut out = Message::default();
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(Value::Object(operation_)) = item.get(method) {
            out.message(number, &operation(operation_));
        }
    }
    parameters(&mut out, 9, item);
    out
}

fn operation(operation: &Object) -> Message {
    let mut out = Message::default();
    out.texts(1, operation, "tags");
    out.text(3, operation, "description");
    out.text(5, operation, "operationId");
    out.texts(6, operation, "produces");
    out.texts(7, operation, "consumes");
    parameters(&mut out, 8, operation);
    let mut responses = Message::default();
    for (code, response) in operation.get("responses").and_then(Value::as_object).into_iter().flatten() {
        let Value::Object(response) = response else { continue };
        let mut message = Message::default();
        message.text(1, response, "description");
        if let Some(Value::Object(of)) = response.get("schema") {
            message.message(2, &wrapped(1, &schema(of)));
        }
        responses.named(1, code, &wrapped(1, &message));
    }
    out.message(9, &responses);
    out.extensions(13, operation);
    out
}

fn parameters(out: &mut Message, number: u64, of: &Object) {
    for parameter in of.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let Value::Object(parameter) = parameter else { continue };
        let encoded = match parameter.get("in").and_then(Value::as_str) {
            Some("body") => wrapped(1, &body_parameter(parameter)),
            Some("path") => wrapped(2, &wrapped(4, &plain_parameter(parameter, [5, 6, 19]))),
            _ => wrapped(2, &wrapped(3, &plain_parameter(parameter, [6, 7, 20]))),
        };
        out.message(number, &wrapped(1, &encoded));
    }
}

fn body_parameter(parameter: &Object) -> Message {
    let mut out = Message::default();
    out.text(1, parameter, "description");
    out.text(2, parameter, "name");
    out.text(3, parameter, "in");
    out.flag(4, parameter, "required");
    if let Some(Value::Object(of)) = parameter.get("schema") {
        out.message(5, &schema(of));
    }
    out
}

/// The numbers of type, format and uniqueItems differ between query and path parameters.
fn plain_parameter(parameter: &Object, [ty, format, unique]: [u64; 3]) -> Message {
    let mut out = Message::default();
    out.flag(1, parameter, "required");
    out.text(2, parameter, "in");
    out.text(3, parameter, "description");
    out.text(4, parameter, "name");
    out.text(ty, parameter, "type");
    out.text(format, parameter, "format");
    out.flag(unique, parameter, "uniqueItems");
    out
}

fn schema(of: &Object) -> Message {
    let mut out = Message::default();
    for (number, key) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        out.text(number, of, key);
    }
    if let Some(value) = of.get("default") {
        out.message(5, &any(value));
    }
    for (number, key) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        out.double(number, of, key);
    }
    for (number, key) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        out.flag(number, of, key);
    }
    let counts = [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ];
    for (number, key) in counts {
        out.count(number, of, key);
    }
    out.texts(19, of, "required");
    for value in of.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, &any(value));
    }
    match of.get("additionalProperties") {
        Some(Value::Object(values)) => out.message(21, &wrapped(1, &schema(values))),
        Some(Value::Bool(true)) => {
            let mut item = Message::default();
            item.key(2, VARINT);
            item.varint(1);
            out.message(21, &item);
        }
        _ => {}
    }
    if let Some(ty) = of.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.bytes(1, ty.as_bytes());
        out.message(22, &item);
    }
    if let Some(Value::Object(items)) = of.get("items") {
        out.message(23, &wrapped(1, &schema(items)));
    }
    if let Some(Value::Object(properties)) = of.get("properties") {
        let mut all = Message::default();
        for (name, property) in properties {
            if let Value::Object(property) = property {
                all.named(1, name, &schema(property));
            }
        }
        out.message(25, &all);
    }
    out.extensions(31, of);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_encoded_by_the_published_field_numbers() {
        let Value::Object(of) = json!({"type": "string", "description": "d", "x-a": [1]}) else { unreachable!() };
        let wanted = [
            b"\x22\x01d".as_slice(),                         // description = 4
            b"\xb2\x01\x08\x0a\x06string",                   // type = 22 { value = 1 }
            b"\xfa\x01\x0d\x0a\x03x-a\x12\x06\x12\x04[1]\n", // vendor_extension = 31 { name, value { yaml = 2 } }
        ];
        assert_eq!(schema(&of).0, wanted.concat());
    }

    #[test]
    fn long_lengths_take_several_bytes() {
        let mut message = Message::default();
        message.bytes(1, &[b'x'; 300]);
        assert_eq!(message.0[..3], [0x0a, 0xac, 0x02]);
    }
}
