//! Tests of `objects::schema`.

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
    let selector = definition("io.k8s.api.policy.v1.PodDisruptionBudgetSpec").and_then(|d| d.field("selector"));
    assert!(selector.is_some_and(|s| s.patch_strategy().replace));
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

fn messages(errors: crate::field::Errors) -> Vec<String> {
    errors.into_vec().iter().map(ToString::to_string).collect()
}

fn refusals(schema: Value, value: &Value) -> Vec<String> {
    messages(validate(value, &crd(schema)))
}

fn spec(fields: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}})
}

#[test]
fn validation_words_type_errors_as_upstream() {
    let schema = spec(json!({"x": {"type": "integer"}, "y": {"x-kubernetes-int-or-string": true},
        "t": {"type": "string", "format": "date-time"}}));
    let found = refusals(schema, &json!({"spec": {"x": "three", "y": true, "t": "noon"}}));
    assert_eq!(
        found,
        [
            r#"spec.t: Invalid value: "noon": spec.t in body must be of type date-time: "noon""#,
            r#"spec.x: Invalid value: "string": spec.x in body must be of type integer: "string""#,
            r#"spec.y: Invalid value: "boolean": spec.y in body must be of type integer,string: "boolean""#,
        ]
    );
}

#[test]
fn validation_checks_presence_choice_and_bounds() {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object",
        "required": ["name"], "properties": {
            "name": {"type": "string"},
            "color": {"type": "string", "enum": ["red", "blue"]},
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "id": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3, "minLength": 1},
            "tags": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
    }}}});
    assert_eq!(refusals(schema.clone(), &json!({})), ["spec: Required value"]);
    let value = json!({"spec": {"color": "green", "size": 9, "id": "ABCD", "tags": ["a", "b"]}});
    assert_eq!(
        refusals(schema, &value),
        [
            r#"spec.color: Unsupported value: "green": supported values: "red", "blue""#,
            "spec.id: Too long: may not be more than 3 bytes",
            r#"spec.id: Invalid value: "ABCD": spec.id in body should match '^[a-z]+$'"#,
            "spec.size: Invalid value: 9: spec.size in body should be less than or equal to 5",
            "spec.tags: Too many: 2: must have at most 1 item",
            "spec.name: Required value",
        ]
    );
}

#[test]
fn validation_reports_junctions_at_no_path() {
    let schema = spec(json!({"x": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}));
    assert!(refusals(schema.clone(), &json!({"spec": {"x": {"a": "1"}}})).is_empty());
    let both = refusals(schema, &json!({"spec": {"x": {"a": "1", "b": "2"}}}));
    assert_eq!(
        both,
        [
            r#"<nil>: Invalid value: "": "spec.x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
}

#[test]
fn list_sets_and_maps_refuse_duplicates() {
    let schema = spec(json!({
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}}));
    let value = json!({"spec": {"set": ["a", "b", "a"], "map": [{"name": "x"}, {"name": "x"}]}});
    assert_eq!(
        refusals(schema, &value),
        [r#"spec.map[1]: Duplicate value: {"name":"x"}"#, r#"spec.set[2]: Duplicate value: "a""#,]
    );
}

#[test]
fn metadata_is_validated_only_by_the_constraints_the_crd_puts_on_it() {
    let schema = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 3}}}}});
    assert!(refusals(schema.clone(), &json!({"metadata": {"name": "abc", "labels": {"a": "b"}}})).is_empty());
    let found = refusals(schema, &json!({"metadata": {"name": "abcd"}}));
    assert!(found.contains(&"metadata.name: Too long: may not be more than 3 bytes".to_owned()), "{found:?}");
}

#[test]
fn embedded_resources_need_a_type_and_keep_their_envelope() {
    let schema = spec(json!({"template": {"type": "object", "x-kubernetes-embedded-resource": true,
        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}));
    let mut value = json!({"spec": {"template": {"kind": "Pod", "metadata": {"labels": {"a": "b"}}, "junk": 1}}});
    let found = refusals(schema.clone(), &value);
    assert_eq!(found, ["spec.template.apiVersion: Required value: must not be empty"]);
    prune(&mut value, &crd(schema));
    assert_eq!(value, json!({"spec": {"template": {"kind": "Pod", "metadata": {"labels": {"a": "b"}}}}}));
}

fn structural(schema: &Value) -> Vec<String> {
    let root = crate::field::Path::root("schema");
    messages(check_structural(schema, &root))
}

#[test]
fn structural_schemas_are_accepted() {
    let port = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    let schema = spec(json!({"port": port, "list": {"type": "array", "items": {"type": "string"}},
        "size": {"type": "integer", "default": 1, "minimum": 0}, "free": {"x-kubernetes-preserve-unknown-fields": true}}));
    assert_eq!(structural(&schema), Vec::<String>::new());
}

#[test]
fn schemas_that_are_not_structural_are_refused_with_the_path() {
    let schema = json!({"type": "object", "properties": {
        "spec": {"properties": {"a": {"type": "array"}, "b": {"type": "array", "items": {}}}},
        "metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
        "anyOf": [{"properties": {"c": {"type": "string"}}}]});
    let found = structural(&schema);
    for wanted in [
        "schema.properties[spec].type: Required value: must not be empty for specified object fields",
        "schema.properties[spec].properties[a].items: Required value: must be specified",
        "schema.properties[spec].properties[b].items.type: Required value: must not be empty for specified array items",
        "schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but \
         metadata is implicitly specified",
        "schema.anyOf[0].properties[c].type: Forbidden: must be empty to be structural",
        "schema.properties[c]: Required value: because it is defined in schema.anyOf[0].properties[c]",
    ] {
        assert!(found.iter().any(|f| f == wanted), "{wanted} not in {found:#?}");
    }
}

#[test]
fn unsupported_keywords_and_wrong_defaults_are_refused() {
    let found = structural(&spec(json!({"a": {"type": "string", "$ref": "#/x"}, "b": {"type": "text"},
        "c": {"type": "array", "uniqueItems": true, "items": {"type": "string"}},
        "d": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}})));
    assert_eq!(found.len(), 4, "{found:#?}");
    let found = structural(&spec(json!({"a": {"type": "integer", "default": "x"}})));
    assert_eq!(found.len(), 1, "{found:#?}");
}
