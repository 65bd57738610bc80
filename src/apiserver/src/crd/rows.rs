//! The rows of one CustomResourceDefinition: one for each served version.

use std::sync::Arc;

use objects::{
    columns::Column,
    kinds::{Kind, Scope, Subresource, Text, Verb, verbs},
    schema::{CrdSchemaError, Schema},
    strategy::{Absent, SelectableField},
};
use serde_json::Value;

use super::{
    CustomResource,
    strategy::{CustomStrategy, PrintedColumn, ScalePaths, facts, intern, intern_path},
};
use crate::{
    cache::Projector,
    encoded::meta_str,
    registry::{Resource, SchemaRef, Table},
    strategies::StrategyRef,
};

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, pointer: &str) -> Vec<Text> {
    let list = value.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(|text| Text::Owned(text.to_owned())).collect()
}

/// The rows of a definition. Those that an unchanged definition had before are kept as they are.
pub(super) fn of(definition: &Value, before: &Table) -> Result<Vec<Arc<Resource>>, CrdSchemaError> {
    let mark = format!(
        "{}/{}",
        meta_str(definition, "uid"),
        definition.pointer("/metadata/generation").unwrap_or(&Value::Null)
    );
    let name = meta_str(definition, "name");
    let known: Vec<_> = before
        .rows()
        .iter()
        .filter(|row| row.custom.as_ref().is_some_and(|custom| custom.mark == mark && custom.definition == name))
        .cloned()
        .collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let versions =
        definition.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let stored = versions.iter().find(|version| version["storage"] == true).map(|version| text(version, "/name"));
    let served = versions.iter().filter(|version| version["served"] == true);
    served.map(|version| row(definition, version, stored.unwrap_or_default(), &mark).map(Arc::new)).collect()
}

fn row(definition: &Value, version: &Value, stored: &str, mark: &str) -> Result<Resource, CrdSchemaError> {
    let open_api = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let schema = Arc::new(if open_api.is_null() { Schema::preserve_all() } else { Schema::from_crd(&open_api)? });
    let kind = kind(definition, version, stored);
    let strategy = Arc::new(strategy(&kind, version, schema.clone()));
    let custom =
        CustomResource { definition: meta_str(definition, "name").to_owned(), mark: mark.to_owned(), open_api };
    Ok(Resource {
        api_version: kind.api_version(),
        storage_api_version: kind.storage_api_version(),
        projector: Projector::new(&strategy.fields),
        // Without a conversion webhook versions differ in their apiVersion alone, and in what is filled in on reading.
        same_shape: !has_defaults(&custom.open_api),
        strategy: StrategyRef::Custom(strategy),
        schema: SchemaRef::Custom(schema),
        custom: Some(Arc::new(custom)),
        kind,
    })
}

/// Whether a schema may give a default: what was stored before it did then lacks it.
fn has_defaults(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("default") || map.values().any(has_defaults),
        Value::Array(items) => items.iter().any(has_defaults),
        _ => false,
    }
}

fn kind(definition: &Value, version: &Value, stored: &str) -> Kind {
    let spec = |pointer: &str| text(definition, &format!("/spec/{pointer}")).to_owned();
    let (group, plural, kind) = (spec("group"), spec("names/plural"), spec("names/kind"));
    let own = |text: &str| Text::Owned(text.to_owned());
    let or = |given: String, default: String| Text::Owned(if given.is_empty() { default } else { given });
    let name = text(version, "/name");
    let mut subresources = Vec::new();
    if version.pointer("/subresources/scale").is_some_and(Value::is_object) {
        subresources.push(Subresource {
            name: "scale",
            group: own("autoscaling"),
            version: own("v1"),
            kind: own("Scale"),
            verbs: verbs::READ_WRITE,
        });
    }
    if version.pointer("/subresources/status").is_some() {
        subresources.push(Subresource {
            name: "status",
            group: own(&group),
            version: own(name),
            kind: own(&kind),
            verbs: verbs::READ_WRITE,
        });
    }
    let reversed: Vec<&str> = group.split('.').rev().collect();
    Kind {
        list_kind: or(spec("names/listKind"), format!("{kind}List")),
        singular: or(spec("names/singular"), kind.to_ascii_lowercase()),
        short_names: texts(definition, "/spec/names/shortNames"),
        categories: texts(definition, "/spec/names/categories"),
        scope: if text(definition, "/spec/scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        verbs: VERBS,
        subresources,
        storage_prefix: Text::Owned(format!("{group}/{plural}")),
        storage_group: own(&group),
        storage_version: own(if stored.is_empty() { name } else { stored }),
        schema: Text::Owned(format!("{}.{name}.{kind}", reversed.join("."))),
        custom: true,
        version: own(name),
        group: Text::Owned(group),
        plural: Text::Owned(plural),
        kind: Text::Owned(kind),
    }
}

const VERBS: &[Verb] = verbs::ALL;

fn strategy(kind: &Kind, version: &Value, schema: Arc<Schema>) -> CustomStrategy {
    let (columns, printed) = columns(version);
    CustomStrategy {
        facts: facts(kind),
        schema: SchemaRef::Custom(schema),
        has_status: kind.subresource("status").is_some(),
        scale: scale(version),
        fields: fields(version),
        columns,
        printed,
    }
}

/// `.spec.replicas` as steps.
fn steps(path: &str) -> Vec<String> {
    path.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect()
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version.pointer("/subresources/scale").filter(|scale| scale.is_object())?;
    let selector = text(scale, "/labelSelectorPath");
    Some(ScalePaths {
        spec: steps(text(scale, "/specReplicasPath")),
        status: steps(text(scale, "/statusReplicasPath")),
        selector: (!selector.is_empty()).then(|| steps(selector)),
    })
}

fn fields(version: &Value) -> Vec<SelectableField> {
    let field = |label: &str, path: &[String]| SelectableField {
        label: intern(label),
        path: intern_path(path),
        absent: Absent::Text(""),
    };
    let own = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    let own = own.filter_map(|entry| entry["jsonPath"].as_str());
    ["metadata.name", "metadata.namespace"]
        .into_iter()
        .chain(own)
        .map(|path| field(path.trim_start_matches('.'), &steps(path)))
        .collect()
}

fn columns(version: &Value) -> (Vec<Column>, Vec<PrintedColumn>) {
    let mut columns = vec![Column::NAME];
    let mut printed = Vec::new();
    let own = version.get("additionalPrinterColumns").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for column in own {
        columns.push(Column {
            name: intern(text(column, "/name")),
            kind: intern(text(column, "/type")),
            format: intern(text(column, "/format")),
            description: intern(text(column, "/description")),
            priority: column["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        });
        printed.push(PrintedColumn { path: text(column, "/jsonPath").into(), kind: text(column, "/type").into() });
    }
    if own.is_empty() {
        columns.push(Column { kind: "date", ..Column::AGE });
        printed.push(PrintedColumn { path: ".metadata.creationTimestamp".into(), kind: "date".into() });
    }
    (columns, printed)
}
