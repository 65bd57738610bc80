//! From JSON text to protobuf in one pass, without a tree in between. Members that the table does not know are left out,
//! as are nulls.
//!
//! A message's fields are written as its members come, and then put in the order of the table, behind the length that is
//! known by then. So the bytes do not depend on the order of members (but for that of a map's entries and of the JSON
//! text within raw fields, which stay as they are).

use super::scan::Scanner;
use super::table::{Definition, FieldRow, Message, Shape, Type};
use super::wire::{Writer, varint_size};
use super::{MAX_DEPTH, ProtobufError, special};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What an encoder needs while it works; kept between objects, so that a list costs no allocation for each.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    segments: Vec<Segment>,
    unordered: Vec<u8>,
}

/// Bytes of one field (all items of a list) in what is written: those of the member at `place` of its message.
#[derive(Debug, Clone, Copy)]
struct Segment {
    place: u8,
    begin: usize,
    end: usize,
}

pub(super) struct Encoder<'a, 's> {
    pub(super) json: Scanner<'a>,
    pub(super) out: &'s mut Writer,
    scratch: &'s mut Scratch,
    depth: usize,
}

impl<'a, 's> Encoder<'a, 's> {
    pub(super) fn new(json: &'a [u8], out: &'s mut Writer, scratch: &'s mut Scratch) -> Result<Self, ProtobufError> {
        // What a failed object has left.
        scratch.segments.clear();
        Ok(Encoder { json: Scanner::new(json)?, out, scratch, depth: 0 })
    }

    /// Writes the next value as a field that is a message. What is no object is an empty one.
    pub(super) fn message(&mut self, number: u32, definition: Definition) -> Result<(), ProtobufError> {
        if self.depth > MAX_DEPTH {
            return Err(ProtobufError::TooDeep);
        }
        self.depth += 1;
        self.out.delimited(number);
        let (begin, outer) = (self.out.written().len(), self.scratch.segments.len());
        let message = definition.message();
        if self.json.passes(b'{')? {
            let mut first = true;
            while let Some(name) = self.json.member(&mut first)? {
                match message.members().find(&name) {
                    Some((place, row)) => self.member(outer, place, row, &name)?,
                    None => drop(self.json.value()?),
                }
            }
        } else {
            self.json.value()?;
        }
        self.put_in_order(message, begin, outer);
        self.depth -= 1;
        Ok(())
    }

    fn member(&mut self, outer: usize, place: u8, row: &FieldRow, name: &str) -> Result<(), ProtobufError> {
        // Of members of one name the last counts.
        let earlier = self.scratch.segments[outer..].iter().position(|segment| segment.place == place);
        if let Some(earlier) = earlier {
            self.scratch.segments.remove(outer + earlier);
        }
        if self.json.peek()? == b'n' {
            self.json.value()?;
            return Ok(());
        }
        let begin = self.out.written().len();
        self.field(row, name)?;
        let end = self.out.written().len();
        self.scratch.segments.push(Segment { place, begin, end });
        Ok(())
    }

    fn field(&mut self, row: &FieldRow, name: &str) -> Result<(), ProtobufError> {
        match row.shape {
            Shape::Single => self.single(row.number, row.ty, name),
            Shape::List => {
                let mut first = true;
                if !self.json.passes(b'[')? {
                    return Err(mismatch(name, self.json.value()?, "a list"));
                }
                while self.json.item(b']', &mut first)? {
                    self.single(row.number, row.ty, name)?;
                }
                Ok(())
            }
            Shape::Map => {
                let mut first = true;
                if !self.json.passes(b'{')? {
                    return Err(mismatch(name, self.json.value()?, "a map"));
                }
                while let Some(key) = self.json.member(&mut first)? {
                    self.out.delimited(row.number);
                    let begin = self.out.open();
                    self.out.text(1, &key);
                    self.single(2, row.ty, name)?;
                    self.out.close(begin);
                }
                Ok(())
            }
        }
    }

    fn single(&mut self, number: u32, ty: Type, name: &str) -> Result<(), ProtobufError> {
        match ty {
            Type::String => self.string(number, name)?,
            Type::Bool => self.boolean(number, name)?,
            Type::Int => {
                let text = self.json.value()?;
                self.out.integer(number, text.parse().map_err(|_| mismatch(name, text, "an integer"))?);
            }
            Type::Double => {
                let text = self.json.value()?;
                self.out.double(number, text.parse().map_err(|_| mismatch(name, text, "a number"))?);
            }
            Type::Bytes => {
                if self.json.peek()? != b'"' {
                    return Err(mismatch(name, self.json.value()?, "base64"));
                }
                let text = self.json.string()?;
                self.out.delimited(number);
                let begin = self.out.open();
                let decoded = STANDARD.decode_vec(text.as_bytes(), self.out.written());
                decoded.map_err(|_| mismatch(name, "\"", "base64"))?;
                self.out.close(begin);
            }
            Type::Message(definition) => self.message(number, definition)?,
            Type::Special(special) => {
                self.out.delimited(number);
                let begin = self.out.open();
                special::encode(self, special)?;
                self.out.close(begin);
            }
        }
        Ok(())
    }

    pub(super) fn string(&mut self, number: u32, name: &str) -> Result<(), ProtobufError> {
        if self.json.peek()? != b'"' {
            return Err(mismatch(name, self.json.value()?, "a string"));
        }
        let text = self.json.string()?;
        self.out.text(number, &text);
        Ok(())
    }

    pub(super) fn boolean(&mut self, number: u32, name: &str) -> Result<(), ProtobufError> {
        let flag = match self.json.value()? {
            "true" => true,
            "false" => false,
            other => return Err(mismatch(name, other, "a boolean")),
        };
        self.out.integer(number, i64::from(flag));
        Ok(())
    }

    /// Writes the length of the message that begins at `begin`, and its fields in order.
    fn put_in_order(&mut self, message: &'static Message, begin: usize, outer: usize) {
        let Scratch { segments, unordered } = &mut *self.scratch;
        segments[outer..].sort_unstable_by_key(|segment| segment.place);
        unordered.clear();
        unordered.extend_from_slice(&self.out.written()[begin..]);
        self.out.written().truncate(begin);
        let ordered = Ordered { segments: &segments[outer..], bytes: unordered, begin };
        self.out.put(ordered.size(message, 0) as u64);
        ordered.write(message, 0, self.out);
        segments.truncate(outer);
    }
}

/// The fields of one message.
struct Ordered<'a> {
    segments: &'a [Segment],
    bytes: &'a [u8],
    /// Where `bytes` began when the segments were made.
    begin: usize,
}

impl Ordered<'_> {
    /// The fields of the members from `place` on, `count` of them.
    fn of(&self, place: usize, count: usize) -> impl Iterator<Item = &[u8]> {
        let places = place..place + count;
        let ours = self.segments.iter().filter(move |segment| places.contains(&usize::from(segment.place)));
        ours.map(|segment| &self.bytes[segment.begin - self.begin..segment.end - self.begin])
    }

    /// Size of a message whose first member is at `place`.
    fn size(&self, message: &'static Message, place: usize) -> usize {
        let own: usize = self.of(place, message.members().len()).map(<[u8]>::len).sum();
        let heads: usize = embedded(message, place)
            .map(|(number, inner, place)| {
                let (size, below) = (self.size(inner, place), self.of(place, inner.members().len()));
                // The inner fields are counted already.
                let tag = varint_size((number as usize) << 3);
                tag + varint_size(size) + size - below.map(<[u8]>::len).sum::<usize>()
            })
            .sum();
        own + heads
    }

    fn write(&self, message: &'static Message, place: usize, out: &mut Writer) {
        if !message.members().embeds() {
            self.of(place, message.members().len()).for_each(|field| out.written().extend_from_slice(field));
            return;
        }
        let mut place = place;
        for row in message.fields() {
            if let (None, Type::Message(inner)) = (row.name, row.ty) {
                let inner = inner.message();
                out.delimited(row.number);
                out.put(self.size(inner, place) as u64);
                self.write(inner, place, out);
                place += inner.members().len();
            } else {
                self.of(place, 1).for_each(|field| out.written().extend_from_slice(field));
                place += 1;
            }
        }
    }
}

/// The structs embedded in a message whose first member is at `place`: number, message, place of its first member.
fn embedded(message: &'static Message, mut place: usize) -> impl Iterator<Item = (u32, &'static Message, usize)> {
    let fields = if message.members().embeds() { message.fields() } else { &[] };
    fields.iter().filter_map(move |row| {
        let here = place;
        match (row.name, row.ty) {
            (None, Type::Message(inner)) => {
                place += inner.message().members().len();
                Some((row.number, inner.message(), here))
            }
            _ => {
                place += 1;
                None
            }
        }
    })
}

pub(super) fn mismatch(name: &str, json: &str, wanted: &'static str) -> ProtobufError {
    let value = match json.as_bytes().first() {
        Some(b'n') | None => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'"') => "a string",
        Some(b'[') => "a list",
        Some(b'{') => "an object",
        Some(_) => "a number",
    };
    ProtobufError::Type { field: name.to_owned(), value: value.to_owned(), wanted }
}
