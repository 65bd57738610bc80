//! The table of messages, read once on first use.

use std::collections::HashMap;
use std::sync::LazyLock;

/// How a field's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    String,
    Bool,
    Int,
    Double,
    Bytes,
    /// By definition name.
    Message(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    List,
    Map,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct FieldRow {
    /// `None`: an embedded struct, whose fields stand in the parent's JSON object.
    pub(super) name: Option<&'static str>,
    pub(super) number: u32,
    pub(super) ty: Type,
    pub(super) shape: Shape,
    /// Presence is meaningful: a zero that was sent is kept.
    pub(super) pointer: bool,
    /// A zero is left out of JSON.
    pub(super) omit_empty: bool,
}

/// Fields of a message, by number.
pub(super) struct Message {
    fields: Vec<FieldRow>,
}

impl Message {
    pub(super) fn fields(&self) -> &[FieldRow] {
        &self.fields
    }

    pub(super) fn field(&self, number: u32) -> Option<&FieldRow> {
        self.fields.iter().find(|field| field.number == number)
    }
}

static TABLE: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| parse(include_str!("../../../../embedded/tables/protobuf.txt")));

pub(super) fn message(definition: &str) -> Option<&'static Message> {
    TABLE.get(definition)
}

fn parse(text: &'static str) -> HashMap<&'static str, Message> {
    let mut messages = HashMap::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('@') {
            messages.insert(name, Message { fields: Vec::new() });
            current = Some(name);
        } else if let Some(message) = current.and_then(|name| messages.get_mut(name)) {
            message.fields.extend(row(line));
        }
    }
    messages
}

fn row(line: &'static str) -> Option<FieldRow> {
    let mut words = line.split(' ');
    let (name, number, ty) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let (shape, ty) = match (ty.strip_prefix("[]"), ty.strip_prefix("{}")) {
        (Some(item), _) => (Shape::List, item),
        (_, Some(value)) => (Shape::Map, value),
        _ => (Shape::Single, ty),
    };
    let ty = match ty {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" | "int64" => Type::Int,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        message => Type::Message(message.strip_prefix('*')?),
    };
    let flags: Vec<_> = words.collect();
    Some(FieldRow {
        name: (name != "-").then_some(name),
        number,
        ty,
        shape,
        pointer: flags.contains(&"p"),
        omit_empty: flags.contains(&"o"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_and_every_message_is_there_or_special() {
        let text = include_str!("../../../../embedded/tables/protobuf.txt");
        let rows = text.lines().filter(|line| !line.starts_with(['#', '@'])).count();
        let read: usize = TABLE.values().map(|message| message.fields.len()).sum();
        assert_eq!(rows, read);
        for field in TABLE.values().flat_map(|message| &message.fields) {
            if let Type::Message(name) = field.ty {
                assert!(message(name).is_some() || super::super::special::is_special(name), "{name}");
            }
        }
    }
}
