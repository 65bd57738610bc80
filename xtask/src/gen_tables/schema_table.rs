//! `schema.txt`: the definitions in the grammar of `objects::schema`'s table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::definitions::Node;
use super::go::Go;

const HEADER: &str = "\
# Types of the Kubernetes API v1.36: facts only. Written by `cargo xtask gen-tables`; do not edit.
# From: kubernetes-validate 1.36.0 (definitions); k8s.io/api, apimachinery, apiextensions-apiserver and
# kube-aggregator v0.36.0 (defaults, enumerations). Grammar: src/objects/src/schema/table.rs.
";

/// Definitions whose JSON form is not what their entry says.
fn special(name: &str) -> Option<&'static str> {
    Some(match name.strip_prefix("io.k8s.")? {
        "apimachinery.pkg.api.resource.Quantity" => "q",
        "apimachinery.pkg.util.intstr.IntOrString" => "ios",
        "apimachinery.pkg.runtime.RawExtension" | "apimachinery.pkg.apis.meta.v1.FieldsV1" => "x",
        "apimachinery.pkg.apis.meta.v1.Patch" => "x",
        // a schema, or something that has no fields of its own
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => {
            "*io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
        }
        _ => return None,
    })
}

pub(super) fn render(definitions: &BTreeMap<String, Node>, go: &Go) -> String {
    let mut out = HEADER.to_owned();
    for (name, node) in definitions {
        definition(&mut out, name, node, go);
    }
    out
}

fn definition(out: &mut String, name: &str, node: &Node, go: &Go) {
    let ty = special(name).map_or_else(|| type_of(node), str::to_owned);
    line(out, &format!("@{name} {ty}{}", attributes(node)));
    for (field, property) in &node.properties {
        let mark = if node.required.contains(field) { "!" } else { "" };
        let mut text = format!("{field}{mark} {}{}", type_of(property), attributes(property));
        if let Some(found) = go.field(name, field) {
            if let Some(values) = go.enumeration(found) {
                append(&mut text, &format!(" e={}", values.join("|").replace(' ', "~")));
            }
            if let Some(value) = go.default_of(found) {
                append(&mut text, &format!(" d={value}"));
            }
        }
        line(out, &text);
    }
}

fn append(text: &mut String, more: &str) {
    text.push_str(more);
}

fn line(out: &mut String, text: &str) {
    // writing to a String cannot fail
    writeln!(out, "{text}").unwrap_or_default();
}

fn type_of(node: &Node) -> String {
    if let Some(target) = node.reference() {
        return format!("*{target}");
    }
    match (node.json_type(), node.format.as_deref()) {
        (Some("string"), Some("byte")) => "byte".into(),
        (Some("string"), Some("date-time")) => "time".into(),
        (Some("string"), _) => "s".into(),
        (Some("integer"), Some("int32")) => "i32".into(),
        (Some("integer"), Some("int64")) => "i64".into(),
        (Some("integer"), _) => "i".into(),
        (Some("number"), Some("double")) => "f64".into(),
        (Some("number"), _) => "n".into(),
        (Some("boolean"), _) => "b".into(),
        (Some("array"), _) => format!("[]{}", node.items.as_deref().map_or_else(|| "any".into(), type_of)),
        (Some("object"), _) => match &node.values {
            Some(values) => format!("{{}}{}", type_of(values)),
            None => "o".into(),
        },
        _ => "any".into(),
    }
}

fn attributes(node: &Node) -> String {
    let mut out = String::new();
    if !node.map_keys.is_empty() {
        append(&mut out, &format!(" k={}", node.map_keys.join(",")));
    }
    if let Some(kind @ ("set" | "map")) = node.list_type.as_deref() {
        append(&mut out, &format!(" l={kind}"));
    }
    if let Some(key) = &node.merge_key {
        append(&mut out, &format!(" m={key}"));
    }
    if let Some(strategy) = &node.patch_strategy {
        append(&mut out, &format!(" p={strategy}"));
    }
    match node.map_type.as_deref() {
        Some("atomic") => append(&mut out, " a"),
        Some("granular") => append(&mut out, " g"),
        _ => {}
    }
    out
}
