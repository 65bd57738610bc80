//! Duplicate keys in a JSON document: lost in a parsed tree, so found on the raw bytes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::unknown::{LIMIT, push_index, push_name};

/// One `duplicate field "spec.foo"` per key that appears again in the same object; for strict field validation.
/// Bytes that are not JSON yield nothing: parsing them reports that.
pub fn duplicate_fields(json: &[u8]) -> Vec<String> {
    let state = RefCell::new(State::default());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    match deserializer.deserialize_any(Walk(&state)) {
        Ok(()) => state.into_inner().found,
        Err(_) => Vec::new(),
    }
}

#[derive(Default)]
struct State {
    path: String,
    found: Vec<String>,
}

#[derive(Clone, Copy)]
struct Walk<'a>(&'a RefCell<State>);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let length = self.0.borrow().path.len();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            {
                let state = &mut *self.0.borrow_mut();
                push_name(&mut state.path, &name);
                if seen.contains(&name) && state.found.len() < LIMIT {
                    state.found.push(format!("duplicate field \"{}\"", state.path));
                }
            }
            map.next_value_seed(self)?;
            self.0.borrow_mut().path.truncate(length);
            seen.insert(name);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let length = self.0.borrow().path.len();
        for index in 0.. {
            push_index(&mut self.0.borrow_mut().path, index);
            let more = items.next_element_seed(self)?;
            self.0.borrow_mut().path.truncate(length);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_newtype_struct<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        IgnoredAny.visit_newtype_struct(deserializer).map(drop)
    }
}
