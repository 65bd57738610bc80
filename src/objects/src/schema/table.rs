//! The table of built-in definitions: `embedded/tables/schema.txt`, written by `cargo xtask gen-tables`.
//!
//! The text stays in the executable's read-only pages; names borrow from it. It is parsed once, on first use, into
//! about half a megabyte of nodes that live as long as the process.
//!
//! Grammar, one item a line (`#` starts a comment):
//! ```text
//! @<definition> <type> [attributes]      a definition; an object's properties follow, sorted
//! <property>[!] <type> [attributes]      `!`: required
//! type: s string · i integer · i32 · i64 · n number · f64 · b boolean · byte · time · any · o object · q quantity
//!       · ios int-or-string · x object of unknown fields · []type list · {}type map · *<definition> reference
//! attributes: k=a,b list map keys · l=set|map list type · m=key merge key · p=merge,retainKeys patch strategy
//!       · a atomic map · g granular map · e=A|B enumeration (of the items, on a list), `~` a space · d=json default
//! ```

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::{Body, Format, ListBody, ListType, MapType, PatchStrategy, Schema, Text, Type};

static TEXT: &str = include_str!("../../../../embedded/tables/schema.txt");

struct Table {
    names: Vec<&'static str>,
    schemas: Vec<Schema>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| parse(TEXT));
static ANY: LazyLock<Schema> = LazyLock::new(Schema::default);

/// A built-in definition by its OpenAPI name, e.g. `io.k8s.api.core.v1.PodSpec`.
pub fn definition(name: &str) -> Option<&'static Schema> {
    let table = &*TABLE;
    table.names.binary_search(&name).ok().map(|i| &table.schemas[i])
}

/// Names of all built-in definitions, sorted.
pub fn definition_names() -> &'static [&'static str] {
    &TABLE.names
}

/// The table as it stands in the executable.
pub(crate) fn text() -> &'static str {
    TEXT
}

pub(super) fn by_index(index: u16) -> &'static Schema {
    TABLE.schemas.get(usize::from(index)).unwrap_or(&ANY)
}

pub(super) fn name_of(index: u16) -> &'static str {
    TABLE.names.get(usize::from(index)).copied().unwrap_or_default()
}

/// A node that refers to a built-in definition; anything if there is none of that name.
pub(super) fn reference(name: &str) -> Schema {
    let index = TABLE.names.binary_search(&name).ok().and_then(|i| u16::try_from(i).ok());
    index.map(|i| Schema { body: Body::Definition(i), ..Schema::default() }).unwrap_or_default()
}

fn parse(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: Vec<&str> = lines().filter_map(|line| line.strip_prefix('@')).map(|line| split_word(line).0).collect();
    let index: HashMap<&str, u16> = names.iter().copied().zip(0..).collect();
    let mut schemas: Vec<Schema> = Vec::with_capacity(names.len());
    for line in lines() {
        if let Some(line) = line.strip_prefix('@') {
            schemas.push(node(split_word(line).1, &index));
            continue;
        }
        let (name, rest) = split_word(line);
        let (name, required) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
        let Some(Body::Object(body)) = schemas.last_mut().map(|s| &mut s.body) else { continue };
        if required {
            body.required.push(Text::Borrowed(name));
        }
        body.fields.push((Text::Borrowed(name), node(rest, &index)));
    }
    for schema in &mut schemas {
        if let Body::Object(body) = &mut schema.body {
            body.fields.shrink_to_fit();
            body.required.shrink_to_fit();
        }
    }
    Table { names, schemas }
}

fn split_word(line: &'static str) -> (&'static str, &'static str) {
    line.split_once(' ').unwrap_or((line, ""))
}

/// Parses `type [attributes]`.
fn node(text: &'static str, index: &HashMap<&str, u16>) -> Schema {
    let (ty, mut rest) = split_word(text);
    let mut schema = typed(ty, index);
    while !rest.is_empty() {
        // a default is JSON and may hold spaces, so it is always the last attribute
        let (attribute, tail) = if rest.starts_with("d=") { (rest, "") } else { split_word(rest) };
        rest = tail;
        apply(&mut schema, attribute);
    }
    schema
}

fn typed(ty: &'static str, index: &HashMap<&str, u16>) -> Schema {
    let scalar = |ty, format| Schema { ty, format, ..Schema::default() };
    match ty {
        "s" => scalar(Type::String, Format::None),
        "byte" => scalar(Type::String, Format::Byte),
        "time" => scalar(Type::String, Format::DateTime),
        "i" => scalar(Type::Integer, Format::None),
        "i32" => scalar(Type::Integer, Format::Int32),
        "i64" => scalar(Type::Integer, Format::Int64),
        "n" => scalar(Type::Number, Format::None),
        "f64" => scalar(Type::Number, Format::Double),
        "b" => scalar(Type::Boolean, Format::None),
        "q" => scalar(Type::Quantity, Format::None),
        "ios" => scalar(Type::IntOrString, Format::None),
        "o" => Schema { ty: Type::Object, body: Body::Object(Box::default()), ..Schema::default() },
        "x" => Schema { ty: Type::Object, preserve_unknown: true, ..Schema::default() },
        _ => {
            if let Some(items) = ty.strip_prefix("[]") {
                let body = ListBody { items: typed(items, index), ..ListBody::default() };
                return Schema { ty: Type::List, body: Body::List(Box::new(body)), ..Schema::default() };
            }
            if let Some(values) = ty.strip_prefix("{}") {
                let body = Body::Map(Box::new(typed(values, index)));
                return Schema { ty: Type::Map, body, ..Schema::default() };
            }
            let target = ty.strip_prefix('*').and_then(|name| index.get(name));
            target.map(|i| Schema { body: Body::Definition(*i), ..Schema::default() }).unwrap_or_default()
        }
    }
}

fn apply(schema: &mut Schema, attribute: &'static str) {
    let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
    match key {
        "a" => schema.map_type = Some(MapType::Atomic),
        "g" => schema.map_type = Some(MapType::Granular),
        "l" => schema.list_type = if value == "map" { ListType::Map } else { ListType::Set },
        "p" => {
            schema.patch = PatchStrategy {
                merge: value.contains("merge"),
                retain_keys: value.contains("retainKeys"),
                replace: value == "replace",
            };
        }
        "d" => schema.extra.get_or_insert_default().default = serde_json::from_str(value).ok(),
        "e" => {
            let values = value.split('|').map(|v| Value::from(v.replace('~', " "))).collect();
            let target = match &mut schema.body {
                Body::List(body) => &mut body.items,
                _ => schema,
            };
            target.extra.get_or_insert_default().enumeration = values;
        }
        "k" => {
            if let Body::List(body) = &mut schema.body {
                body.map_keys = value.split(',').map(Text::Borrowed).collect();
            }
        }
        "m" => {
            if let Body::List(body) = &mut schema.body {
                body.merge_key = Some(Text::Borrowed(value));
            }
        }
        _ => {}
    }
}
