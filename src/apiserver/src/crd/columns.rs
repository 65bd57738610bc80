//! Cells of a custom resource's extra printer columns. The paths are simple JSONPaths: names, quoted names, indexes,
//! `[*]` and `[?(@.name=="value")]`.

use jiff::Timestamp;
use objects::duration::age;
use serde_json::Value;

use super::strategy::PrintedColumn;

/// The cell of one column.
pub(crate) fn cell(column: &PrintedColumn, object: &Value, now: Timestamp) -> Value {
    let found = select(object, &column.path);
    let Some(first) = found.first() else { return Value::Null };
    match (column.kind.as_str(), first) {
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(at) => age(at, now).into(),
            Err(_) => "<invalid>".into(),
        },
        ("integer", Value::Number(_)) | ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        (_, Value::Null) => Value::Null,
        _ if found.len() > 1 => {
            let texts: Vec<String> = found.iter().map(|value| text(value)).collect();
            texts.join(",").into()
        }
        ("string", other) => text(other).into(),
        (_, other) => text(other).into(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// All values a path leads to.
pub(crate) fn select<'v>(object: &'v Value, path: &str) -> Vec<&'v Value> {
    let mut at = vec![object];
    for step in steps(path) {
        at = at.into_iter().flat_map(|value| step.follow(value)).collect();
    }
    at
}

enum Step {
    Name(String),
    Index(i64),
    All,
    Filter { path: String, equals: String },
}

impl Step {
    fn follow<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Step::Name(name), _) => value.get(name).into_iter().collect(),
            (Step::Index(index), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let index = if *index < 0 { length + index } else { *index };
                usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
            }
            (Step::All, Value::Array(items)) => items.iter().collect(),
            (Step::All, Value::Object(map)) => map.values().collect(),
            (Step::Filter { path, equals }, Value::Array(items)) => items
                .iter()
                .filter(|item| select(item, path).first().is_some_and(|found| text(found) == *equals))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Splits a path into steps; what cannot be read ends it.
fn steps(path: &str) -> Vec<Step> {
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let Some(end) = closing(after) else { break };
            let inner = after[..end].trim();
            rest = &after[end + 1..];
            steps.push(match inner {
                "*" => Step::All,
                _ if inner.starts_with("?(") => match filter(inner) {
                    Some(step) => step,
                    None => break,
                },
                _ if inner.starts_with(['\'', '"']) => Step::Name(inner.trim_matches(['\'', '"']).to_owned()),
                _ => match inner.parse() {
                    Ok(index) => Step::Index(index),
                    Err(_) => break,
                },
            });
            continue;
        }
        rest = rest.trim_start_matches('.');
        let mut name = String::new();
        let mut characters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                other => name.push(other),
            }
        }
        rest = &rest[end..];
        match name.as_str() {
            "" => {}
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Name(name)),
        }
    }
    steps
}

/// Position of the bracket that ends what follows an opening one; brackets in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
    }
    None
}

fn filter(inner: &str) -> Option<Step> {
    let condition = inner.strip_prefix("?(")?.strip_suffix(')')?.trim();
    let (path, value) = condition.split_once("==")?;
    let path = path.trim().strip_prefix('@')?.to_owned();
    Some(Step::Filter { path, equals: value.trim().trim_matches(['\'', '"']).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_reach_names_indexes_and_conditions() {
        let object = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "status": {
            "conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}], "n": [1, 2]}});
        let one = |path: &str| select(&object, path).first().map(|v| text(v));
        assert_eq!(one(".status.conditions[?(@.type==\"Ready\")].status").as_deref(), Some("True"));
        assert_eq!(one(".status.n[-1]").as_deref(), Some("2"));
        assert_eq!(one(".metadata.annotations['a.b/c']").as_deref(), Some("x"));
        assert_eq!(one(".metadata.annotations.a\\.b/c").as_deref(), Some("x"));
        assert_eq!(select(&object, ".status.n[*]").len(), 2);
        assert_eq!(one(".status.missing"), None);
    }
}
