//! Strategic merge patch: a merge patch that knows, from the schema, which lists are merged by key and which values
//! are replaced whole. Directives: `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f`.

use super::PatchError;
use crate::schema::Schema;
use serde_json::{Map, Value};

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `current`, an object that `schema` describes.
pub fn strategic_merge(current: &mut Value, patch: Value, schema: &Schema) -> Result<(), PatchError> {
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => merge_object(current, patch, Some(schema)),
        _ => Err(malformed("a strategic merge patch must be an object")),
    }
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_object(current: &mut Object, mut patch: Object, schema: Option<&Schema>) -> Result<(), PatchError> {
    match patch.remove(PATCH).as_ref().map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *current = without_directives(patch);
            return Ok(());
        }
        Some(Some("delete")) => {
            current.clear();
            return Ok(());
        }
        Some(other) => return Err(malformed(format!("unknown patch type: {}", other.unwrap_or("not a string")))),
    }
    if let Some(retained) = patch.remove(RETAIN_KEYS) {
        retain_keys(current, &patch, &retained)?;
    }
    let orders = take_prefixed(&mut patch, ELEMENT_ORDER)?;
    for (field, removed) in take_prefixed(&mut patch, DELETE_FROM)? {
        if let Some(Value::Array(items)) = current.get_mut(&field) {
            items.retain(|item| !removed.contains(item));
        }
    }
    let before: Object =
        orders.iter().filter_map(|(field, _)| Some((field.clone(), current.get(field)?.clone()))).collect();
    for (field, value) in patch {
        let schema = schema.and_then(|schema| schema.field(&field));
        if value.is_null() {
            current.remove(&field);
        } else {
            merge_field(current, field, value, schema)?;
        }
    }
    for (field, order) in orders {
        let merge_key = schema.and_then(|schema| schema.field(&field)).and_then(Schema::merge_key);
        let former = before.get(&field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if let Some(Value::Array(items)) = current.get_mut(&field) {
            *items = ordered(std::mem::take(items), &order, former, merge_key);
        }
    }
    Ok(())
}

fn merge_field(current: &mut Object, field: String, value: Value, schema: Option<&Schema>) -> Result<(), PatchError> {
    let strategy = schema.map(Schema::patch_strategy).unwrap_or_default();
    match value {
        Value::Object(patch) => {
            let slot = current.entry(field).or_insert_with(|| Value::Object(Object::new()));
            // A patch of another type replaces; an empty object is a value too, and stays.
            if !slot.is_object() {
                *slot = Value::Object(Object::new());
            }
            let Value::Object(target) = slot else { return Ok(()) };
            merge_object(target, patch, schema)
        }
        Value::Array(patch) if strategy.merge => {
            let slot = current.entry(field.clone()).or_insert_with(|| Value::Array(Vec::new()));
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Value::Array(target) = slot else { return Ok(()) };
            merge_list(target, patch, &field, schema)
        }
        Value::Array(patch) => {
            current.insert(field, Value::Array(patch.into_iter().map(plain).collect()));
            Ok(())
        }
        scalar => {
            current.insert(field, scalar);
            Ok(())
        }
    }
}

/// Merges a list whose strategy is merge, and orders it as the patch does: new items come first.
fn merge_list(
    current: &mut Vec<Value>,
    patch: Vec<Value>,
    field: &str,
    schema: Option<&Schema>,
) -> Result<(), PatchError> {
    let (former, order) = (current.clone(), patch.clone());
    merge_items(current, patch, field, schema)?;
    *current = ordered(std::mem::take(current), &order, &former, schema.and_then(Schema::merge_key));
    Ok(())
}

/// Merges objects by their merge key, scalars as a set.
fn merge_items(
    current: &mut Vec<Value>,
    patch: Vec<Value>,
    field: &str,
    schema: Option<&Schema>,
) -> Result<(), PatchError> {
    let Some(key) = schema.and_then(Schema::merge_key) else {
        for item in patch {
            if item.is_object() {
                return Err(PatchError::Unprocessable(format!("{field} has no merge key to merge its objects by")));
            }
            if !current.contains(&item) {
                current.push(item);
            }
        }
        return Ok(());
    };
    if patch.iter().any(|item| item.get(PATCH).and_then(Value::as_str) == Some("replace")) {
        let items = patch.into_iter().filter(|item| item.get(PATCH).is_none());
        *current = items.map(plain).collect();
        return Ok(());
    }
    let items = schema.and_then(Schema::items);
    for item in patch {
        let Value::Object(mut item) = item else {
            return Err(malformed(format!("{field}: an item to merge by {key} must be an object")));
        };
        let Some(wanted) = item.get(key).cloned() else {
            return Err(malformed(format!("map: {} does not contain declared merge key: {key}", Value::Object(item))));
        };
        let same = |one: &Value| one.get(key) == Some(&wanted);
        if item.get(PATCH).and_then(Value::as_str) == Some("delete") {
            current.retain(|one| !same(one));
            continue;
        }
        match current.iter_mut().find(|one| same(one)) {
            Some(Value::Object(target)) => merge_object(target, item, items)?,
            _ => {
                item.remove(PATCH);
                let mut fresh = Object::new();
                merge_object(&mut fresh, item, items)?;
                current.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

fn retain_keys(current: &mut Object, patch: &Object, retained: &Value) -> Result<(), PatchError> {
    let names = retained.as_array().ok_or_else(|| malformed("$retainKeys must be a list of field names"))?;
    if let Some(stray) = patch.keys().find(|key| !key.starts_with('$') && !names.iter().any(|name| name == *key)) {
        return Err(malformed(format!("$retainKeys does not name {stray:?}, which the patch sets")));
    }
    current.retain(|key, _| names.iter().any(|name| name == key));
    Ok(())
}

/// Takes out the directives `PREFIXfield: [...]`.
fn take_prefixed(patch: &mut Object, prefix: &str) -> Result<Vec<(String, Vec<Value>)>, PatchError> {
    let names: Vec<_> = patch.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
    let take = |name: String| match patch.remove(&name) {
        Some(Value::Array(items)) => Ok((name[prefix.len()..].to_owned(), items)),
        _ => Err(malformed(format!("{name} must be a list"))),
    };
    names.into_iter().map(take).collect()
}

/// Orders a merged list: items that `order` names come in that order, all others keep their place before the first
/// named item that they preceded in `former`.
fn ordered(items: Vec<Value>, order: &[Value], former: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let identity = |item: &Value| match merge_key {
        Some(key) => item.get(key).cloned().unwrap_or(Value::Null),
        None => item.clone(),
    };
    let place = |list: &[Value], item: &Value| list.iter().position(|one| identity(one) == identity(item));
    let (mut named, mut others): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(former, item).unwrap_or(usize::MAX));
    let mut sorted = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(other), Some(next)) = (others.peek(), named.peek()) {
        let other_first = matches!((place(former, other), place(former, next)), (Some(a), Some(b)) if a < b);
        sorted.extend(if other_first { others.next() } else { named.next() });
    }
    sorted.extend(others);
    sorted.extend(named);
    sorted
}

/// A value to be taken over whole: nulls and directives in it mean nothing there.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(without_directives(members)),
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect()),
        scalar => scalar,
    }
}

fn without_directives(members: Object) -> Object {
    let kept = members.into_iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    kept.map(|(name, value)| (name, plain(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::definition;
    use serde_json::json;

    fn pod(current: Value, patch: Value) -> Value {
        let mut got = current;
        strategic_merge(&mut got, patch, definition("io.k8s.api.core.v1.Pod").unwrap()).unwrap();
        got
    }

    #[test]
    fn containers_merge_by_name() {
        let current = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}});
        let patch = json!({"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}});
        let wanted = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}, {"name": "c", "image": "4"}]);
        assert_eq!(pod(current, patch)["spec"]["containers"], wanted);
    }

    #[test]
    fn new_items_come_before_those_that_the_patch_does_not_name() {
        let current = json!({"metadata": {"finalizers": ["x/a"]}, "spec": {"containers": [{"name": "a"}]}});
        let patch = json!({"metadata": {"finalizers": ["x/b"]}, "spec": {"containers": [{"name": "b"}]}});
        let got = pod(current, patch);
        assert_eq!(got["spec"]["containers"], json!([{"name": "b"}, {"name": "a"}]));
        assert_eq!(got["metadata"]["finalizers"], json!(["x/b", "x/a"]));
    }

    #[test]
    fn delete_and_replace_directives_act_on_lists_and_maps() {
        let current =
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let got = pod(current.clone(), json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}));
        assert_eq!(got["spec"]["containers"], json!([{"name": "b"}]));
        let got = pod(current.clone(), json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}));
        assert_eq!(got["spec"]["containers"], json!([{"name": "c"}]));
        let got = pod(current, json!({"metadata": {"labels": {"b": "2", "$patch": "replace"}}}));
        assert_eq!(got["metadata"]["labels"], json!({"b": "2"}));
    }

    #[test]
    fn lists_without_a_strategy_and_scalars_are_replaced_and_null_deletes() {
        let current =
            json!({"spec": {"containers": [{"name": "a", "command": ["x", "y"], "image": "i"}], "nodeName": "n"}});
        let patch = json!({"spec": {"containers": [{"name": "a", "command": ["z"], "image": null}], "nodeName": null}});
        assert_eq!(pod(current, patch), json!({"spec": {"containers": [{"name": "a", "command": ["z"]}]}}));
    }

    #[test]
    fn primitive_lists_are_sets_with_deletion() {
        let current = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["b", "c"]}});
        assert_eq!(pod(current, patch)["metadata"]["finalizers"], json!(["b", "c"]));
    }

    #[test]
    fn retain_keys_clears_the_other_members_of_a_union() {
        let current = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}});
        assert_eq!(pod(current, patch)["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
    }

    #[test]
    fn element_order_is_set_and_foreign_items_keep_their_place() {
        let current = json!({"spec": {"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c"}],
        }});
        let got = pod(current, patch);
        let names: Vec<_> = got["spec"]["containers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["x", "b", "c", "a"]);
    }

    #[test]
    fn a_merge_key_must_be_there() {
        let schema = definition("io.k8s.api.core.v1.Pod").unwrap();
        let error = strategic_merge(&mut json!({}), json!({"spec": {"containers": [{"image": "i"}]}}), schema);
        assert!(error.unwrap_err().to_string().contains("does not contain declared merge key: name"));
    }
}
