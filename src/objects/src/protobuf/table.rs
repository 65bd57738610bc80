//! The table of messages, read once on first use. Messages are known by their place in it, and each knows the JSON
//! members of its object, those of embedded structs among them.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::special::Special;

/// How a field's values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    String,
    Bool,
    Int,
    Double,
    Bytes,
    Message(Definition),
    Special(Special),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    List,
    Map,
}

/// A message of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition(u16);

impl Definition {
    /// A number of its own, for who keeps what was worked out for one definition.
    pub fn number(self) -> u16 {
        self.0
    }

    pub(super) fn message(self) -> &'static Message {
        &TABLE.messages[usize::from(self.0)]
    }
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
    members: Members,
}

impl Message {
    pub(super) fn fields(&self) -> &[FieldRow] {
        &self.fields
    }

    pub(super) fn field(&self, number: u32) -> Option<&FieldRow> {
        self.fields.iter().find(|field| field.number == number)
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }
}

/// The members of a message's JSON object, in the order they are written in: an embedded struct's at its place.
#[derive(Default)]
pub(super) struct Members {
    rows: Vec<FieldRow>,
    /// Open addressing by [`hash`]; a power of two, at most half full. [`EMPTY`] or a place in `rows`.
    slots: Vec<u8>,
    embeds: bool,
}

const EMPTY: u8 = u8::MAX;

impl Members {
    fn new(rows: Vec<FieldRow>, embeds: bool) -> Members {
        let mut members = Members { slots: vec![EMPTY; (rows.len() * 2).next_power_of_two()], rows, embeds };
        for (place, row) in members.rows.iter().enumerate() {
            let mut at = members.first_slot(row.name.unwrap_or_default().as_bytes());
            while members.slots[at] != EMPTY {
                at = (at + 1) % members.slots.len();
            }
            members.slots[at] = u8::try_from(place).unwrap_or(EMPTY);
        }
        members
    }

    fn first_slot(&self, name: &[u8]) -> usize {
        hash(name) & (self.slots.len() - 1)
    }

    /// The row of a member, and its place among all.
    pub(super) fn find(&self, name: &str) -> Option<(u8, &FieldRow)> {
        let mut at = self.first_slot(name.as_bytes());
        loop {
            let row = self.rows.get(usize::from(self.slots[at]))?;
            if row.name == Some(name) {
                return Some((self.slots[at], row));
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether some members belong to embedded structs.
    pub(super) fn embeds(&self) -> bool {
        self.embeds
    }
}

/// Length, both ends and the middle tell the members of one object apart nearly always.
fn hash(name: &[u8]) -> usize {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 0 };
    let middle = name[name.len() / 2];
    let mixed = u32::from_le_bytes([*first, *last, middle, name.len().to_le_bytes()[0]]).wrapping_mul(0x9e37_79b1);
    (mixed >> 20) as usize
}

struct Table {
    messages: Vec<Message>,
    names: HashMap<&'static str, Definition>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| parse(include_str!("../../../../embedded/tables/protobuf.txt")));

pub(super) fn find(definition: &str) -> Option<Definition> {
    TABLE.names.get(definition).copied()
}

fn parse(text: &'static str) -> Table {
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    let names: HashMap<_, _> = lines().filter_map(|line| line.strip_prefix('@')).zip((0..).map(Definition)).collect();
    let mut messages: Vec<Vec<FieldRow>> = Vec::with_capacity(names.len());
    for line in lines() {
        match (line.starts_with('@'), messages.last_mut()) {
            (true, _) => messages.push(Vec::new()),
            (false, Some(fields)) => fields.extend(row(line, &names)),
            (false, None) => {}
        }
    }
    let with_members = |fields: &Vec<FieldRow>| {
        let mut rows = Vec::new();
        flatten(fields, &messages, &mut rows);
        let embeds = fields.iter().any(|field| field.name.is_none());
        Message { fields: fields.clone(), members: Members::new(rows, embeds) }
    };
    Table { messages: messages.iter().map(with_members).collect(), names }
}

fn flatten(fields: &[FieldRow], messages: &[Vec<FieldRow>], into: &mut Vec<FieldRow>) {
    for field in fields {
        match (field.name, field.ty) {
            (None, Type::Message(embedded)) => flatten(&messages[usize::from(embedded.0)], messages, into),
            _ => into.push(*field),
        }
    }
}

fn row(line: &'static str, names: &HashMap<&'static str, Definition>) -> Option<FieldRow> {
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
        message => {
            let name = message.strip_prefix('*')?;
            match Special::of(name) {
                Some(special) => Type::Special(special),
                None => Type::Message(*names.get(name)?),
            }
        }
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
pub(super) fn all() -> impl Iterator<Item = (&'static str, Definition)> {
    TABLE.names.iter().map(|(name, definition)| (*name, *definition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood() {
        let text = include_str!("../../../../embedded/tables/protobuf.txt");
        let rows = text.lines().filter(|line| !line.starts_with(['#', '@'])).count();
        let read: usize = TABLE.messages.iter().map(|message| message.fields.len()).sum();
        assert_eq!(rows, read);
        assert_eq!(text.lines().filter(|line| line.starts_with('@')).count(), TABLE.messages.len());
    }

    #[test]
    fn every_member_is_found_by_its_name_and_nothing_else_is() {
        for (name, definition) in all() {
            let members = definition.message().members();
            assert!(members.len() < usize::from(EMPTY), "{name}");
            for (place, row) in members.rows.iter().enumerate() {
                let found = members.find(row.name.unwrap()).unwrap();
                assert_eq!((usize::from(found.0), found.1.number), (place, row.number), "{name} {row:?}");
            }
            assert!(members.find("no such member").is_none() && members.find("").is_none(), "{name}");
        }
    }
}
