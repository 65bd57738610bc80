//! Ownership over applies and updates, on real schemas.

use super::*;
use crate::schema::definition;
use serde_json::json;

fn schema() -> &'static Schema {
    definition("io.k8s.api.apps.v1.Deployment").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: "2026-01-02T03:04:05.678Z".parse().unwrap(), resets: &["status"] }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, manager: &str, force: bool) -> Result<Value, Status> {
    apply(live, deployment(spec), schema(), &writer(manager), force)
}

fn fields_of<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    &entries.iter().find(|entry| entry["manager"] == manager).unwrap_or_else(|| panic!("{manager}: {object}"))["fieldsV1"]
}

fn container(name: &str, image: &str) -> Value {
    json!({"name": name, "image": image})
}

fn pods(containers: &[Value]) -> Value {
    json!({"template": {"spec": {"containers": containers}}})
}

#[test]
fn a_first_apply_owns_what_it_sets_in_the_wire_form() {
    let object = applied(None, pods(&[container("a", "i")]), "me", false).unwrap();
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["time"], "2026-01-02T03:04:05Z");
    let wanted = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}});
    assert_eq!(entry["fieldsV1"], wanted);
}

#[test]
fn another_managers_field_conflicts_unless_forced() {
    let live = applied(None, json!({"replicas": 1}), "one", false).unwrap();
    let refused = applied(Some(&live), json!({"replicas": 2}), "two", false).unwrap_err();
    assert_eq!(refused.message(), "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    assert_eq!(refused.code(), 409);
    let forced = applied(Some(&live), json!({"replicas": 2}), "two", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1, "the first lost its only field");
    let shared = applied(Some(&live), json!({"replicas": 1}), "two", false).unwrap();
    assert_eq!(fields_of(&shared, "one"), fields_of(&shared, "two"), "equal values are shared");
}

#[test]
fn an_updates_conflict_names_version_and_time() {
    let mut live = deployment(json!({"replicas": 1}));
    track(None, &mut live, schema(), &writer("kubectl-create"));
    let refused = applied(Some(&live), json!({"replicas": 2}), "me", false).unwrap_err();
    let wanted = "conflict with \"kubectl-create\" using apps/v1 at 2026-01-02T03:04:05Z: .spec.replicas";
    assert!(refused.message().ends_with(wanted), "{}", refused.message());
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let live = applied(None, pods(&[container("a", "i"), container("b", "i")]), "me", false).unwrap();
    let shared = applied(Some(&live), pods(&[container("b", "i")]), "other", false).unwrap();
    let object = applied(Some(&shared), pods(&[container("a", "i")]), "me", false).unwrap();
    assert_eq!(object["spec"], pods(&[container("a", "i"), container("b", "i")]), "b is the other's");
    let object = applied(Some(&live), pods(&[container("a", "i")]), "me", false).unwrap();
    assert_eq!(object["spec"], pods(&[container("a", "i")]));
}

#[test]
fn dropped_objects_go_with_their_defaults() {
    let live = applied(None, json!({"strategy": {"rollingUpdate": {"maxSurge": 2}}, "replicas": 1}), "me", false);
    let mut live = live.unwrap();
    live["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = json!("25%");
    let object = applied(Some(&live), json!({"replicas": 1}), "me", false).unwrap();
    assert_eq!(object["spec"], json!({"replicas": 1}));
}

#[test]
fn an_update_takes_over_what_it_changes_and_only_that() {
    let live = applied(None, json!({"replicas": 1, "paused": true}), "me", false).unwrap();
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(5);
    track(Some(&live), &mut new, schema(), &writer("scaler"));
    assert_eq!(fields_of(&new, "scaler"), &json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields_of(&new, "me"), &json!({"f:spec": {"f:paused": {}}}));
}

#[test]
fn an_update_that_changes_nothing_leaves_ownership_alone() {
    let live = applied(None, json!({"replicas": 1}), "me", false).unwrap();
    let mut new = live.clone();
    track(Some(&live), &mut new, schema(), &writer("idle"));
    assert_eq!(new, live);
}

#[test]
fn the_server_and_reset_fields_are_nobodys() {
    let mut new = deployment(json!({"replicas": 1}));
    new["status"] = json!({"replicas": 3});
    new["metadata"]["labels"] = json!({"a": "b"});
    track(None, &mut new, schema(), &writer("me"));
    let wanted = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:replicas": {}}});
    assert_eq!(fields_of(&new, "me"), &wanted);
}

#[test]
fn ownership_is_bounded_and_can_be_reset() {
    let mut live = deployment(json!({"replicas": 0}));
    for round in 0..30 {
        let mut new = live.clone();
        new["metadata"]["annotations"][format!("a{round}")] = json!("x");
        track(Some(&live), &mut new, schema(), &writer(&format!("writer-{round}")));
        live = new;
    }
    assert!(live["metadata"]["managedFields"].as_array().unwrap().len() <= 11);
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track(Some(&live), &mut new, schema(), &writer("me"));
    assert!(new["metadata"].get("managedFields").is_none());
}

#[test]
fn keyed_items_without_their_key_are_refused() {
    let error = applied(None, pods(&[json!({"image": "i"})]), "me", false).unwrap_err();
    assert!(error.message().contains("omits key field \"name\""), "{}", error.message());
}

#[test]
fn config_items_come_in_the_configs_order() {
    let live =
        applied(None, pods(&[container("x", "i"), container("a", "i"), container("b", "i")]), "me", false).unwrap();
    let object =
        applied(Some(&live), pods(&[container("b", "i"), container("c", "i"), container("a", "i")]), "you", false);
    let object = object.unwrap();
    let containers = object.pointer("/spec/template/spec/containers").unwrap().as_array().unwrap();
    let names: Vec<_> = containers.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["x", "b", "c", "a"]);
}
