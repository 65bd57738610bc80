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

fn pod() -> &'static Schema {
    definition("io.k8s.api.core.v1.Pod").expect("in the table")
}

#[test]
fn the_table_knows_merge_keys_list_types_and_presence() {
    let containers = pod().at("spec.containers").expect("a field");
    assert_eq!((containers.ty(), containers.list_type()), (Type::List, ListType::Map));
    assert_eq!(containers.map_keys(), ["name"]);
    assert_eq!(containers.merge_key(), Some("name"));
    assert!(containers.patch_strategy().merge);
    let ports = containers.items().and_then(|c| c.field("ports")).expect("a field");
    assert_eq!(ports.map_keys(), ["containerPort", "protocol"]);
    assert_eq!(ports.merge_key(), Some("containerPort"));
    assert_eq!(ports.items().and_then(|p| p.field("protocol")?.default_value()), Some(&json!("TCP")));
    assert_eq!(pod().at("spec").map(Schema::required), Some(&[Text::Borrowed("containers")][..]));
    let strategy = definition("io.k8s.api.apps.v1.DeploymentSpec").and_then(|d| d.field("strategy"));
    assert!(strategy.is_some_and(|s| s.patch_strategy().retain_keys));
}

#[test]
fn the_table_knows_atomic_and_granular_maps() {
    assert_eq!(pod().at("spec.nodeSelector").map(Schema::map_type), Some(MapType::Atomic));
    let reference = definition("io.k8s.api.core.v1.ObjectReference").expect("in the table");
    assert_eq!(reference.map_type(), MapType::Atomic);
    let claim = definition("io.k8s.api.core.v1.PersistentVolumeSpec").and_then(|d| d.field("claimRef"));
    assert_eq!(claim.map(Schema::map_type), Some(MapType::Granular));
}

#[test]
fn scalar_types_of_the_table_are_told_apart() {
    let ty = |path: &str| pod().at(path).map(Schema::ty);
    assert_eq!(ty("metadata.labels.x"), Some(Type::String));
    assert_eq!(ty("spec.containers.[].resources.limits.cpu"), Some(Type::Quantity));
    assert_eq!(ty("spec.containers.[].livenessProbe.httpGet.port"), Some(Type::IntOrString));
    assert_eq!(ty("spec.hostNetwork"), Some(Type::Boolean));
    assert_eq!(ty("metadata.managedFields.[].fieldsV1"), Some(Type::Object));
    assert_eq!(pod().at("metadata.creationTimestamp").map(Schema::format), Some(&Format::DateTime));
    assert_eq!(pod().at("spec.priority").map(Schema::format), Some(&Format::Int32));
}

#[test]
fn enumerations_keep_their_spaces() {
    let usages = definition("io.k8s.api.certificates.v1.CertificateSigningRequestSpec").and_then(|d| d.field("usages"));
    let values = usages.and_then(Schema::items).and_then(Schema::extra).map(|e| &e.enumeration);
    assert!(values.is_some_and(|v| v.contains(&json!("digital signature"))));
}

#[test]
fn strict_decoding_reaches_into_embedded_crd_schemas() {
    let crd = definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition");
    let value = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {
        "a": {"items": {"tipe": "x", "type": "string"}, "default": {"any": 1}},
        "b": {"additionalProperties": true, "items": [{"type": "string"}]}}}}}]}});
    let found = unknown_fields(&value, crd.expect("in the table"));
    assert_eq!(found, [r#"unknown field "spec.versions[0].schema.openAPIV3Schema.properties.a.items.tipe""#]);
}

#[test]
fn every_reference_in_the_table_resolves() {
    fn check(node: &Schema, at: &str) {
        if let Body::Definition(index) = node.body {
            assert!(definition(table::name_of(index)).is_some(), "{at}");
            return;
        }
        node.fields().iter().for_each(|(name, field)| check(field, name));
        node.values().into_iter().chain(node.items()).for_each(|child| check(child, at));
    }
    assert!(definition_names().len() > 500);
    assert!(definition_names().is_sorted());
    for name in definition_names() {
        let node = definition(name).expect("listed");
        assert!(node.fields().is_sorted_by_key(|(name, _)| name));
        check(node, name);
    }
}

#[test]
fn every_kind_and_subresource_body_has_a_schema() {
    for kind in crate::kinds::KINDS.iter() {
        assert!(of(kind).is_some(), "{}", kind.schema);
        if kind.has_verb(crate::kinds::Verb::List) {
            assert!(definition(&format!("{}List", kind.schema)).is_some(), "{}List", kind.schema);
        }
        if kind.subresource("status").is_some() {
            assert!(of(kind).and_then(|s| s.field("status")).is_some(), "{} has no status", kind.schema);
        }
    }
}
