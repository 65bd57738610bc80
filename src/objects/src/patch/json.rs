//! JSON patch, RFC 6902, over JSON pointers, RFC 6901.

use super::PatchError;
use serde::Deserialize;
use serde_json::Value;

/// A bound on the work one request can ask for.
pub const MAX_OPERATIONS: usize = 10_000;
/// A `copy` may be repeated; this bounds what a patch can blow an object up to, in JSON bytes.
const MAX_COPIED: usize = 3 << 20;

/// One operation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    Add {
        path: String,
        value: Value,
    },
    Remove {
        path: String,
    },
    Replace {
        path: String,
        value: Value,
    },
    Move {
        from: String,
        path: String,
    },
    Copy {
        from: String,
        path: String,
    },
    Test {
        path: String,
        #[serde(default)]
        value: Value,
    },
}

/// Reads a patch document.
pub fn parse_json_patch(document: &[u8]) -> Result<Vec<Operation>, PatchError> {
    let malformed = |error: serde_json::Error| PatchError::Malformed(format!("error decoding patch: {error}"));
    let operations: Vec<Value> = serde_json::from_slice(document).map_err(malformed)?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooMany(operations.len()));
    }
    operations.into_iter().map(|operation| serde_json::from_value(operation).map_err(malformed)).collect()
}

/// Applies `operations` in order. On an error `target` is left half patched: the caller drops it.
pub fn json_patch(target: &mut Value, operations: Vec<Operation>) -> Result<(), PatchError> {
    let mut copied = 0;
    for operation in operations {
        match operation {
            Operation::Add { path, value } => add(target, &path, value)?,
            Operation::Remove { path } => drop(remove(target, &path)?),
            Operation::Replace { path, value } => {
                *find(target, &path).ok_or_else(|| missing("replace", &path))? = value;
            }
            Operation::Move { from, path } => {
                if path.strip_prefix(&from).is_some_and(|rest| rest.starts_with('/')) {
                    return Err(unprocessable(format!("cannot move {from:?} into itself")));
                }
                let value = remove(target, &from)?;
                add(target, &path, value)?;
            }
            Operation::Copy { from, path } => {
                let value = find(target, &from).ok_or_else(|| missing("copy", &from))?.clone();
                copied += value.to_string().len();
                if copied > MAX_COPIED {
                    return Err(unprocessable(format!("the copy operations exceed {MAX_COPIED} bytes")));
                }
                add(target, &path, value)?;
            }
            Operation::Test { path, value } => {
                // An absent member equals null, as with the library that upstream uses.
                let found = find(target, &path).map_or(&Value::Null, |found| found);
                if *found != value {
                    return Err(unprocessable(format!("testing value {path} failed: test failed")));
                }
            }
        }
    }
    Ok(())
}

fn unprocessable(text: String) -> PatchError {
    PatchError::Unprocessable(text)
}

fn missing(operation: &str, path: &str) -> PatchError {
    unprocessable(format!("{operation} operation does not apply: doc is missing path: {path:?}: missing value"))
}

/// Splits a pointer into its parent and its last token, unescaped.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, token) = path.rsplit_once('/')?;
    Some((parent, token.replace("~1", "/").replace("~0", "~")))
}

fn find<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    target.pointer_mut(path)
}

/// The index a token names in a list of `len` items; the canonical decimal form only.
fn index(token: &str, len: usize) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    token.parse().ok().filter(|index| plain && *index < len)
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let Some((parent, token)) = split(path) else {
        if path.is_empty() {
            *target = value;
            return Ok(());
        }
        return Err(missing("add", path));
    };
    match find(target, parent) {
        Some(Value::Object(members)) => {
            members.insert(token, value);
            Ok(())
        }
        Some(Value::Array(items)) if token == "-" => {
            items.push(value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let place = index(&token, items.len() + 1);
            let place = place.ok_or_else(|| {
                unprocessable(format!("add operation does not apply: doc is missing path: {path:?}: invalid index"))
            })?;
            items.insert(place, value);
            Ok(())
        }
        _ => Err(missing("add", path)),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, PatchError> {
    let (parent, token) = split(path).ok_or_else(|| missing("remove", path))?;
    let removed = match find(target, parent) {
        Some(Value::Object(members)) => members.remove(&token),
        Some(Value::Array(items)) => index(&token, items.len()).map(|place| items.remove(place)),
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(target: &Value, patch: &Value) -> Result<Value, PatchError> {
        let mut got = target.clone();
        json_patch(&mut got, parse_json_patch(patch.to_string().as_bytes())?)?;
        Ok(got)
    }

    #[test]
    fn every_operation_applies() {
        let object = json!({"a": {"b/c": [1, 2]}, "x": "y"});
        for (patch, result) in [
            (json!([{"op": "add", "path": "/a/b~1c/-", "value": 3}]), json!({"a": {"b/c": [1, 2, 3]}, "x": "y"})),
            (json!([{"op": "add", "path": "/a/b~1c/0", "value": 0}]), json!({"a": {"b/c": [0, 1, 2]}, "x": "y"})),
            (json!([{"op": "remove", "path": "/a/b~1c/1"}]), json!({"a": {"b/c": [1]}, "x": "y"})),
            (json!([{"op": "replace", "path": "/x", "value": null}]), json!({"a": {"b/c": [1, 2]}, "x": null})),
            (json!([{"op": "move", "from": "/x", "path": "/z"}]), json!({"a": {"b/c": [1, 2]}, "z": "y"})),
            (json!([{"op": "copy", "from": "/x", "path": "/z"}]), json!({"a": {"b/c": [1, 2]}, "x": "y", "z": "y"})),
            (json!([{"op": "test", "path": "/x", "value": "y"}]), object.clone()),
            (json!([{"op": "test", "path": "/none", "value": null}]), object.clone()),
        ] {
            assert_eq!(patched(&object, &patch).unwrap(), result, "{patch}");
        }
    }

    #[test]
    fn what_does_not_fit_the_object_is_unprocessable() {
        let object = json!({"a": [1], "x": {}});
        for patch in [
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "replace", "path": "/b", "value": 1}]),
            json!([{"op": "add", "path": "/b/c", "value": 1}]),
            json!([{"op": "add", "path": "/a/2", "value": 1}]),
            json!([{"op": "add", "path": "/a/00", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "move", "from": "/x", "path": "/x/y"}]),
        ] {
            assert!(matches!(patched(&object, &patch), Err(PatchError::Unprocessable(_))), "{patch}");
        }
    }

    #[test]
    fn a_malformed_or_endless_patch_is_refused() {
        assert!(matches!(parse_json_patch(b"{}"), Err(PatchError::Malformed(_))));
        assert!(matches!(parse_json_patch(br#"[{"op":"fly","path":"/"}]"#), Err(PatchError::Malformed(_))));
        let many = json!(vec![json!({"op": "remove", "path": "/a"}); MAX_OPERATIONS + 1]);
        assert_eq!(parse_json_patch(many.to_string().as_bytes()), Err(PatchError::TooMany(MAX_OPERATIONS + 1)));
    }

    #[test]
    fn repeated_copies_are_bounded() {
        let double = |round: usize| json!({"op": "copy", "from": "", "path": format!("/b{round}")});
        let patch: Vec<_> = (0..60).map(double).collect();
        assert!(matches!(patched(&json!({"seed": "x".repeat(100)}), &json!(patch)), Err(PatchError::Unprocessable(_))));
    }
}
