use serde_json::json;

use super::*;

fn crd(schema: Value) -> Schema {
    Schema::from_crd(&schema).expect("a readable schema")
}

fn widget() -> Schema {
    crd(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "integer", "default": 3},
            "color": {"type": "string", "default": "red", "nullable": true},
            "note": {"type": "string"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "parts": {"type": "array", "items": {"type": "object", "properties": {
                "name": {"type": "string"}, "count": {"type": "integer", "default": 1}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }},
    }}))
}

#[test]
fn pruning_keeps_known_fields_the_envelope_and_what_is_preserved() {
    let mut value = json!({"apiVersion": "x/v1", "kind": "Widget", "metadata": {"name": "a", "bogus": 1}, "junk": 1,
        "spec": {"size": 1, "junk": 2, "free": {"any": {"thing": 1}}, "parts": [{"name": "p", "junk": 3}],
                 "labels": {"a": "b"}}});
    prune(&mut value, &widget());
    assert_eq!(
        value,
        json!({"apiVersion": "x/v1", "kind": "Widget", "metadata": {"name": "a"},
        "spec": {"size": 1, "free": {"any": {"thing": 1}}, "parts": [{"name": "p"}], "labels": {"a": "b"}}})
    );
}

#[test]
fn defaults_fill_absent_fields_and_nulls_but_no_absent_parents() {
    let mut value = json!({"spec": {"size": null, "color": null, "note": null, "parts": [{"name": "p"}]}});
    default(&mut value, &widget());
    assert_eq!(value, json!({"spec": {"size": 3, "color": null, "parts": [{"name": "p", "count": 1}]}}));
    let mut empty = json!({});
    default(&mut empty, &widget());
    assert_eq!(empty, json!({}));
}

#[test]
fn unknown_fields_are_named_by_path() {
    let value = json!({"kind": "Widget", "spec": {"parts": [{"nmae": "p"}], "siez": 1}});
    let found = unknown_fields(&value, &widget());
    assert_eq!(found, [r#"unknown field "spec.parts[0].nmae""#, r#"unknown field "spec.siez""#]);
    assert_eq!(
        strict_error(&found),
        r#"strict decoding error: unknown field "spec.parts[0].nmae", unknown field "spec.siez""#
    );
}

#[test]
fn duplicate_fields_are_found_in_raw_bytes() {
    let found = duplicate_fields(br#"{"a": 1, "b": [{"c": 1, "c": null}], "a": "x", "a": {"d": 1.5}}"#);
    assert_eq!(found, [r#"duplicate field "b[0].c""#, r#"duplicate field "a""#, r#"duplicate field "a""#]);
    assert!(duplicate_fields(b"{not json").is_empty());
}
