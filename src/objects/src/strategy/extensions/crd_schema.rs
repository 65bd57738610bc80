//! Structural schemas: what a custom resource's schema has to state so that pruning and defaulting can work.
//!
//! The rules of upstream's `apiextensions-apiserver/pkg/apiserver/schema` that decide whether a definition is
//! accepted; the walkers that use the schema live in [`crate::schema`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use crate::field::{Errors, Path};
use crate::validation::{one_of, text};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

pub(super) fn root(errors: &mut Errors, path: &Path<'_>, schema: &JSONSchemaProps) {
    match text(schema.type_.as_ref()) {
        "object" => {}
        "" if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {
            errors.required(&path.child("type"), "must not be empty at the root");
        }
        "" => errors.required(&path.child("type"), "must not be empty at the root"),
        other => errors.invalid(&path.child("type"), other, "must be object at the root"),
    }
    node(errors, path, schema);
}

fn node(errors: &mut Errors, path: &Path<'_>, schema: &JSONSchemaProps) {
    let kind = text(schema.type_.as_ref());
    if !kind.is_empty() {
        one_of(errors, &path.child("type"), kind, TYPES);
    }
    forbidden(errors, path, schema);
    lists(errors, path, schema, kind);
    let properties = path.child("properties");
    for (name, property) in schema.properties.iter().flatten() {
        let path = properties.key(name);
        typed(errors, &path, property, "must not be empty for specified object fields");
        node(errors, &path, property);
    }
    if schema.properties.as_ref().is_some_and(|all| !all.is_empty())
        && let Some(JSONSchemaPropsOrBool::Schema(_)) = &schema.additional_properties
    {
        errors
            .forbidden(&path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive");
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        let path = path.child("additionalProperties");
        typed(errors, &path, values, "must not be empty for specified object fields");
        node(errors, &path, values);
    }
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => {
            let path = path.child("items");
            typed(errors, &path, items, "must not be empty for specified array items");
            node(errors, &path, items);
        }
        Some(JSONSchemaPropsOrArray::Schemas(_)) => {
            errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
        }
        None if kind == "array" => errors.required(&path.child("items"), "must be specified"),
        None => {}
    }
}

fn typed(errors: &mut Errors, path: &Path<'_>, schema: &JSONSchemaProps, detail: &str) {
    let free =
        schema.x_kubernetes_int_or_string == Some(true) || schema.x_kubernetes_preserve_unknown_fields == Some(true);
    if text(schema.type_.as_ref()).is_empty() && !free {
        errors.required(&path.child("type"), detail);
    }
}

fn forbidden(errors: &mut Errors, path: &Path<'_>, schema: &JSONSchemaProps) {
    let fields = [
        ("definitions", schema.definitions.is_some(), "definitions is not supported"),
        ("dependencies", schema.dependencies.is_some(), "dependencies is not supported"),
        ("id", schema.id.is_some(), "id is not supported"),
        ("patternProperties", schema.pattern_properties.is_some(), "patternProperties is not supported"),
        ("$ref", schema.ref_path.is_some(), "$ref is not supported"),
        (
            "uniqueItems",
            schema.unique_items == Some(true),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
    ];
    for (field, _, detail) in fields.into_iter().filter(|(_, set, _)| *set) {
        errors.forbidden(&path.child(field), detail);
    }
    if let Some(JSONSchemaPropsOrBool::Bool(false)) = &schema.additional_properties {
        errors.forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false");
    }
}

fn lists(errors: &mut Errors, path: &Path<'_>, schema: &JSONSchemaProps, kind: &str) {
    if let Some(list) = &schema.x_kubernetes_list_type {
        one_of(errors, &path.child("x-kubernetes-list-type"), list, &["atomic", "map", "set"]);
        if kind != "array" {
            errors.invalid(&path.child("type"), kind, "must be array if x-kubernetes-list-type is specified");
        }
        let keys = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
        if list == "map" && keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            errors.required(&path.child("x-kubernetes-list-map-keys"), detail);
        }
    }
    if let Some(map) = &schema.x_kubernetes_map_type {
        one_of(errors, &path.child("x-kubernetes-map-type"), map, &["atomic", "granular"]);
    }
    if schema.x_kubernetes_int_or_string == Some(true) && !kind.is_empty() {
        let detail = "must be empty if x-kubernetes-int-or-string is true";
        errors.invalid(&path.child("type"), kind, detail);
    }
}
