//! Walks of objects along their schema: the fields an object sets, what changed between two, merging and pruning.

use super::paths::FieldSet;
use crate::schema::{ListType, MapType, Schema, Type};
use serde_json::{Map, Value};

/// An item of a keyed list that lacks a key.
#[derive(Debug, thiserror::Error)]
#[error("{list}: element {index}: associative list with keys has an element that omits key field {key:?}")]
pub(super) struct KeyError {
    list: String,
    index: usize,
    key: String,
}

/// What differs from an old object to a new one.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// How a value is walked.
enum Shape<'a> {
    /// Field by field.
    Members(&'a Map<String, Value>),
    /// Item by item, each with its edge.
    Items(Vec<(String, &'a Value)>),
    /// As one.
    Atom,
}

fn shape<'a>(value: &'a Value, schema: Option<&Schema>) -> Result<Shape<'a>, KeyError> {
    match value {
        Value::Object(members) if granular(schema) => Ok(Shape::Members(members)),
        Value::Array(items) => match schema.filter(|schema| schema.is_list()) {
            Some(schema) if schema.list_type() != ListType::Atomic => Ok(Shape::Items(edges(items, schema)?)),
            _ => Ok(Shape::Atom),
        },
        _ => Ok(Shape::Atom),
    }
}

/// Objects without a schema are walked, as upstream does with what it deduces.
fn granular(schema: Option<&Schema>) -> bool {
    schema.is_none_or(|schema| {
        matches!(schema.ty(), Type::Object | Type::Map | Type::Any) && schema.map_type() == MapType::Granular
    })
}

fn edges<'a>(items: &'a [Value], schema: &Schema) -> Result<Vec<(String, &'a Value)>, KeyError> {
    items.iter().enumerate().map(|(index, item)| Ok((edge(index, item, schema)?, item))).collect()
}

fn edge(index: usize, item: &Value, schema: &Schema) -> Result<String, KeyError> {
    if schema.list_type() == ListType::Set {
        return Ok(format!("v:{item}"));
    }
    let mut keys = Map::new();
    let mut names: Vec<&str> = schema.map_keys().iter().map(AsRef::as_ref).collect();
    names.sort_unstable();
    for name in names {
        let default = || schema.items().and_then(|items| items.field(name)).and_then(Schema::default_value);
        let value = item.get(name).or_else(default);
        let missing =
            || KeyError { list: schema.definition_name().unwrap_or("list").to_owned(), index, key: name.to_owned() };
        keys.insert(name.to_owned(), value.ok_or_else(missing)?.clone());
    }
    Ok(format!("k:{}", Value::Object(keys)))
}

fn beneath<'s>(schema: Option<&'s Schema>, edge: &str) -> Option<&'s Schema> {
    let schema = schema?;
    edge.strip_prefix("f:").map_or_else(|| schema.items(), |name| schema.field(name))
}

/// All fields that `value` sets: its leaves, and the items of keyed lists and sets themselves.
pub(super) fn field_set(value: &Value, schema: &Schema) -> Result<FieldSet, KeyError> {
    let mut set = FieldSet::default();
    collect(value, Some(schema), &mut set)?;
    set.member = false;
    Ok(set)
}

fn collect(value: &Value, schema: Option<&Schema>, set: &mut FieldSet) -> Result<(), KeyError> {
    match shape(value, schema)? {
        Shape::Members(members) if !members.is_empty() => {
            for (name, child) in members {
                let edge = format!("f:{name}");
                collect(child, beneath(schema, &edge), set.child(&edge))?;
            }
        }
        Shape::Items(items) if !items.is_empty() => {
            for (edge, item) in items {
                let child = set.child(&edge);
                child.member = true;
                collect(item, beneath(schema, &edge), child)?;
            }
        }
        _ => set.member = true,
    }
    Ok(())
}

/// Compares field by field. A list whose items lack keys (an old object may have one) is compared as one.
pub(super) fn compare(old: &Value, new: &Value, schema: &Schema) -> Change {
    let mut change = Change::default();
    compare_into(Some(old), Some(new), Some(schema), &mut Vec::new(), &mut change);
    change
}

fn compare_into(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: Option<&Schema>,
    path: &mut Vec<String>,
    change: &mut Change,
) {
    if old == new {
        return;
    }
    match (old.map(|old| children(old, schema)), new.map(|new| children(new, schema))) {
        (Some(Some(old)), Some(Some(new))) => compare_children(&old, &new, schema, path, change),
        (None, Some(Some(new))) => {
            if claims_itself(path, schema) || new.is_empty() {
                claim(&mut change.added, path);
            }
            compare_children(&[], &new, schema, path, change);
        }
        (Some(Some(old)), None) => {
            claim(&mut change.removed, path);
            compare_children(&old, &[], schema, path, change);
        }
        (None, Some(None)) => claim(&mut change.added, path),
        (Some(None), None) => claim(&mut change.removed, path),
        (Some(_), Some(_)) => claim(&mut change.modified, path),
        (None, None) => {}
    }
}

/// `None` for what is walked as one.
fn children<'a>(value: &'a Value, schema: Option<&Schema>) -> Option<Vec<(String, &'a Value)>> {
    match shape(value, schema) {
        Ok(Shape::Members(members)) => Some(members.iter().map(|(name, value)| (format!("f:{name}"), value)).collect()),
        Ok(Shape::Items(items)) => Some(items),
        Ok(Shape::Atom) | Err(_) => None,
    }
}

/// Maps and list items are fields of their own; objects with named properties are but their properties.
fn claims_itself(path: &[String], schema: Option<&Schema>) -> bool {
    let item = path.last().is_some_and(|edge| !edge.starts_with("f:"));
    item || schema.is_none_or(|schema| schema.fields().is_empty() && !schema.is_list())
}

fn compare_children(
    old: &[(String, &Value)],
    new: &[(String, &Value)],
    schema: Option<&Schema>,
    path: &mut Vec<String>,
    change: &mut Change,
) {
    for (edge, value) in new {
        let before = old.iter().find(|(other, _)| other == edge).map(|(_, value)| *value);
        path.push(edge.clone());
        compare_into(before, Some(value), beneath(schema, edge), path, change);
        path.pop();
    }
    for (edge, value) in old {
        if !new.iter().any(|(other, _)| other == edge) {
            path.push(edge.clone());
            compare_into(Some(value), None, beneath(schema, edge), path, change);
            path.pop();
        }
    }
}

fn claim(set: &mut FieldSet, path: &[String]) {
    if !path.is_empty() {
        path.iter().fold(set, |node, edge| node.child(edge)).member = true;
    }
}

/// Lays `config` over `live`.
pub(super) fn merge(live: &Value, config: Value, schema: &Schema) -> Result<Value, KeyError> {
    merge_value(live, config, Some(schema))
}

fn merge_value(live: &Value, config: Value, schema: Option<&Schema>) -> Result<Value, KeyError> {
    match (shape(live, schema)?, config) {
        (Shape::Members(members), Value::Object(config)) => {
            let mut merged = members.clone();
            for (name, value) in config {
                let value = match members.get(&name) {
                    Some(live) => merge_value(live, value, schema.and_then(|schema| schema.field(&name)))?,
                    None => value,
                };
                merged.insert(name, value);
            }
            Ok(Value::Object(merged))
        }
        (Shape::Items(items), Value::Array(config)) => merge_items(&items, config, schema),
        (_, config) => Ok(config),
    }
}

/// Items of `config` come in its order; an item only `live` has keeps its place before the first that it preceded.
fn merge_items(live: &[(String, &Value)], config: Vec<Value>, schema: Option<&Schema>) -> Result<Value, KeyError> {
    let Some(list) = schema else { return Ok(Value::Array(config)) };
    let mut edges = Vec::with_capacity(config.len());
    for (index, item) in config.iter().enumerate() {
        edges.push(edge(index, item, list)?);
    }
    let place = |edge: &str| live.iter().position(|(other, _)| other == edge);
    let mut foreign = live.iter().filter(|(edge, _)| !edges.contains(edge)).peekable();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    for (edge, item) in edges.iter().zip(config) {
        let own = place(edge);
        while let Some(own) = own
            && let Some((_, other)) = foreign.next_if(|(other, _)| place(other).is_some_and(|other| other < own))
        {
            merged.push((*other).clone());
        }
        merged.push(match own {
            Some(own) => merge_value(live[own].1, item, list.items())?,
            None => item,
        });
    }
    merged.extend(foreign.map(|(_, value)| (*value).clone()));
    Ok(Value::Array(merged))
}

/// Takes away what `former` has and `owned` has no part of.
pub(super) fn prune(value: &mut Value, former: &FieldSet, owned: &FieldSet, schema: &Schema) {
    prune_value(value, former, owned, Some(schema));
}

fn prune_value(value: &mut Value, former: &FieldSet, owned: &FieldSet, schema: Option<&Schema>) {
    for (path, child) in &former.children {
        let kept = owned.children.get(path);
        let below = beneath(schema, path);
        match (path.strip_prefix("f:"), &mut *value) {
            (Some(name), Value::Object(members)) => match (kept, members.get_mut(name)) {
                (None, _) => drop(members.remove(name)),
                (Some(kept), Some(field)) => prune_value(field, child, kept, below),
                (Some(_), None) => {}
            },
            (None, Value::Array(items)) => {
                let Some(list) = schema else { continue };
                let same = |item: &Value| edge(0, item, list).is_ok_and(|edge| *edge == **path);
                match kept {
                    None => items.retain(|item| !same(item)),
                    Some(kept) => {
                        if let Some(item) = items.iter_mut().find(|item| same(item)) {
                            prune_value(item, child, kept, below);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

/// In an applied configuration null means the same as absent.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
