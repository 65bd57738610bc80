//! Duplicate keys in a YAML document: lost in a parsed tree, so found while its events go by.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// The first key that a mapping of the document has twice, worded as upstream's YAML library words it. A document that
/// cannot be read has none: parsing it reports that.
pub(crate) fn duplicate_key(yaml: &[u8]) -> Option<String> {
    let found = RefCell::new(None);
    let error = serde_yaml_ng::Deserializer::from_slice(yaml).deserialize_any(Walk(&found)).err()?;
    let key = found.into_inner()?;
    let line = error.location().map_or(0, |location| location.line());
    Some(format!("yaml: unmarshal errors:\n  line {line}: key \"{key}\" already set in map"))
}

/// Visits a value; the key that is found twice is left in the cell, where it is in the error that ends the walk.
#[derive(Clone, Copy)]
struct Walk<'w>(&'w RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while map.next_key_seed(Key { seen: &mut seen, found: self.0 })?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
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
}

/// One key. Refused here, for here the error gets the key's own line.
struct Key<'k> {
    seen: &'k mut HashSet<String>,
    found: &'k RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<(), E> {
        if self.seen.insert(key.to_owned()) {
            return Ok(());
        }
        *self.found.borrow_mut() = Some(key.to_owned());
        Err(E::custom("key already set in map"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_given_twice_is_named_with_its_line() {
        let found = duplicate_key(b"\nkind: A\nspec:\n  ports:\n  - port: 1\n    name: x\n    port: 2\n");
        assert_eq!(found.as_deref(), Some("yaml: unmarshal errors:\n  line 7: key \"port\" already set in map"));
    }

    #[test]
    fn the_same_key_in_two_mappings_is_no_duplicate() {
        assert_eq!(duplicate_key(b"a: {b: 1, c: null}\nd: {b: [1.5, true, -2]}\n"), None);
        assert_eq!(duplicate_key(b"a: ["), None);
        assert_eq!(duplicate_key(br#"{"a": 1, "a": 2}"#).map(|text| text.contains("line 1")), Some(true));
    }
}
