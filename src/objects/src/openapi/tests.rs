//! Tests of `objects::openapi`.

use std::collections::HashSet;
use std::io::Write as _;

use super::*;
use crate::kinds::{KINDS, Kind};

fn descriptions() -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(b"@io.k8s.api.core.v1.PodSpec\tAbout pods.\ncontainers\tFirst line.\\nSecond \\\\ line.\n")
        .expect("in memory");
    out.finish().expect("in memory")
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

fn v3(group: &str, version: &str) -> Value {
    let catalog = Catalog::new([]);
    let descriptions = descriptions();
    let source = Source { catalog: &catalog, custom: &[], descriptions: &descriptions };
    parse(&source.v3(group, version).expect("served"))
}

/// All `$ref`s of a document.
fn references<'a>(value: &'a Value, out: &mut HashSet<&'a str>) {
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                match (key.as_str(), child) {
                    ("$ref", Value::String(target)) => drop(out.insert(target)),
                    _ => references(child, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, out)),
        _ => {}
    }
}

#[test]
fn every_group_versions_document_is_closed_under_references() {
    let catalog = Catalog::new([]);
    for version in catalog.groups().flat_map(|g| g.versions()) {
        let document = v3(version.group, version.version);
        let mut found = HashSet::new();
        references(&document, &mut found);
        for target in found {
            let name = target.strip_prefix("#/components/schemas/").expect("a component");
            assert!(document["components"]["schemas"].get(name).is_some(), "{target} of {}", version.api_version());
        }
    }
}

#[test]
fn the_swagger_document_is_closed_under_references_and_has_unique_operations() {
    let catalog = Catalog::new([]);
    let document = parse(&Source { catalog: &catalog, custom: &[], descriptions: &[] }.v2());
    let mut found = HashSet::new();
    references(&document, &mut found);
    for target in found {
        let name = target.strip_prefix("#/definitions/").expect("a definition");
        assert!(document["definitions"].get(name).is_some(), "{target}");
    }
    let mut ids = HashSet::new();
    for item in document["paths"].as_object().expect("paths").values() {
        for (method, operation) in item.as_object().expect("an item").iter().filter(|(m, _)| *m != "parameters") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id), "{method} {id} twice");
        }
    }
    assert!(ids.contains("readCoreV1NamespacedPodLog") && ids.contains("listCoreV1PodForAllNamespaces"));
}

#[test]
fn definitions_carry_types_descriptions_merge_keys_and_kinds() {
    let document = v3("", "v1");
    let schemas = &document["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(
        *containers,
        json!({"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}]},
            "description": "First line.\nSecond \\ line.", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"], "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": "name"})
    );
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["description"], "About pods.");
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    assert_eq!(schemas["io.k8s.api.core.v1.PodList"]["x-kubernetes-group-version-kind"][0]["kind"], "PodList");
    assert_eq!(schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"], "TCP");
}

#[test]
fn every_writable_kind_says_it_validates_fields() {
    for kind in KINDS.iter().filter(|k| k.has_verb(crate::kinds::Verb::Patch)) {
        let document = v3(&kind.group, &kind.version);
        let wanted = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let patches = document["paths"].as_object().expect("paths").values().filter_map(|item| item.get("patch"));
        let patch = patches.into_iter().find(|op| op["x-kubernetes-group-version-kind"] == wanted);
        let patch = patch.unwrap_or_else(|| panic!("no patch of {}", kind.plural));
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let parameters = patch["parameters"].as_array().expect("a list");
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"));
        assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    }
}

fn custom_row() -> Kind {
    Kind {
        group: "example.com".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        plural: "widgets".into(),
        schema: "com.example.v1.Widget".into(),
        custom: true,
        ..crate::kinds::find_resource("apps", "v1", "deployments").expect("built in").clone()
    }
}

#[test]
fn custom_kinds_publish_their_own_schema_with_the_envelope() {
    let rows = [custom_row()];
    let catalog = Catalog::new(&rows);
    let schema = json!({"type": "object", "description": "A widget.", "properties": {"spec": {"type": "object",
        "properties": {"port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}}});
    let custom = [CustomSchema { definition: "com.example.v1.Widget", schema: Some(&schema) }];
    let source = Source { catalog: &catalog, custom: &custom, descriptions: &[] };
    let document = parse(&source.v3("example.com", "v1").expect("served"));
    let widget = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(widget["description"], "A widget.");
    assert_eq!(
        widget["properties"]["metadata"]["allOf"][0]["$ref"],
        format!("#/components/schemas/{}.ObjectMeta", schemas::META)
    );
    assert!(widget["properties"]["spec"]["properties"]["port"].get("anyOf").is_some());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    let swagger = parse(&source.v2());
    let port = &swagger["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["port"];
    assert_eq!(*port, json!({"x-kubernetes-int-or-string": true}));
}

#[test]
fn a_custom_kind_of_any_fields_has_none_listed_in_swagger() {
    let rows = [custom_row()];
    let catalog = Catalog::new(&rows);
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"spec": {"type": "object"}}});
    for schema in [None, Some(&schema)] {
        let custom = [CustomSchema { definition: "com.example.v1.Widget", schema }];
        let source = Source { catalog: &catalog, custom: &custom, descriptions: &[] };
        let swagger = parse(&source.v2());
        let widget = swagger["definitions"]["com.example.v1.Widget"].as_object().expect("defined");
        assert_eq!(widget.keys().collect::<Vec<_>>(), ["type", "x-kubernetes-group-version-kind"]);
        let document = parse(&source.v3("example.com", "v1").expect("served"));
        let widget = &document["components"]["schemas"]["com.example.v1.Widget"];
        assert_eq!(widget["x-kubernetes-preserve-unknown-fields"], true);
        assert!(widget["properties"].get("metadata").is_some());
    }
}

#[test]
fn the_index_names_every_group_version_and_its_hash_follows_the_schema() {
    let rows = [custom_row()];
    let catalog = Catalog::new(&rows);
    let hash = |schema: &Value| {
        let custom = [CustomSchema { definition: "com.example.v1.Widget", schema: Some(schema) }];
        let source = Source { catalog: &catalog, custom: &custom, descriptions: &[] };
        let index = parse(&source.index());
        assert!(index["paths"].get("api/v1").is_some() && index["paths"].get("apis/apps/v1").is_some());
        let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().expect("a path").to_owned();
        let hash = source.hash("example.com", "v1").expect("served");
        assert_eq!(url, format!("/openapi/v3/apis/example.com/v1?hash={hash}"));
        hash
    };
    let first = hash(&json!({"type": "object"}));
    assert_eq!(first, hash(&json!({"type": "object"})));
    assert_ne!(first, hash(&json!({"type": "object", "properties": {}})));
}
