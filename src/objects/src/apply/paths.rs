//! Sets of field paths, in the form of `fieldsV1`: a tree whose edges are `f:name`, `k:{keys}` (an item of a keyed
//! list) or `v:value` (an item of a set).

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A set of paths. `member` says that the path leading to this node is in the set itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub(super) member: bool,
    pub(super) children: BTreeMap<Box<str>, FieldSet>,
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Reads `fieldsV1`. What is no object is an empty set.
    pub fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        let Some(members) = value.as_object() else { return set };
        for (name, child) in members {
            if name == "." {
                set.member = true;
                continue;
            }
            let mut child = Self::from_json(child);
            // `{}` stands for the path itself.
            child.member |= child.children.is_empty();
            set.children.insert(name.as_str().into(), child);
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        if self.member && !self.children.is_empty() {
            members.insert(".".to_owned(), Value::Object(Map::new()));
        }
        members.extend(self.children.iter().map(|(name, child)| (name.to_string(), child.to_json())));
        Value::Object(members)
    }

    pub(super) fn child(&mut self, edge: &str) -> &mut Self {
        self.children.entry(edge.into()).or_default()
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.extend(other);
        all
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.member |= other.member;
        for (edge, child) in &other.children {
            self.child(edge).extend(child);
        }
    }

    /// The paths in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut common = Self { member: self.member && other.member, ..Self::default() };
        for (edge, child) in &self.children {
            if let Some(other) = other.children.get(edge) {
                let both = child.intersection(other);
                if !both.is_empty() {
                    common.children.insert(edge.clone(), both);
                }
            }
        }
        common
    }

    /// Takes the paths of `other` out of this set.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (edge, other) in &other.children {
            if let Some(child) = self.children.get_mut(edge) {
                child.subtract(other);
                if child.is_empty() {
                    self.children.remove(edge);
                }
            }
        }
    }

    /// Takes out a dotted path of field names, with all beneath it.
    pub(super) fn remove_path(&mut self, path: &str) {
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        let edge = format!("f:{name}");
        match (rest, self.children.get_mut(edge.as_str())) {
            (Some(rest), Some(child)) => {
                child.remove_path(rest);
                if child.is_empty() {
                    self.children.remove(edge.as_str());
                }
            }
            _ => drop(self.children.remove(edge.as_str())),
        }
    }

    /// Takes out a field itself, but nothing beneath it.
    pub(super) fn drop_claim(&mut self, name: &str) {
        let edge = format!("f:{name}");
        if let Some(child) = self.children.get_mut(edge.as_str()) {
            child.member = false;
            if child.is_empty() {
                self.children.remove(edge.as_str());
            }
        }
    }

    /// Every path as people read it: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, prefix: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(prefix.to_owned());
        }
        for (edge, child) in &self.children {
            child.collect(&format!("{prefix}{}", readable(edge)), found);
        }
    }
}

fn readable(edge: &str) -> String {
    match edge.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v:", value)) => format!("[={value}]"),
        Some(("i:", index)) => format!("[{index}]"),
        _ => edge.to_owned(),
    }
}
