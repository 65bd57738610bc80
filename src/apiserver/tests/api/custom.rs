//! CustomResourceDefinitions.

use serde_json::{Value, json};

use crate::server::{Client, Server};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CATS: &str = "/apis/example.com/v1/namespaces/default/cats";

fn definition() -> Value {
    json!({"metadata": {"name": "cats.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "cats", "singular": "cat", "kind": "Cat", "shortNames": ["ct"]},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.lives", "statusReplicasPath": ".status.lives"}},
            "additionalPrinterColumns": [{"name": "Lives", "type": "integer", "jsonPath": ".spec.lives"}],
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["color"], "properties": {
                    "color": {"type": "string", "enum": ["red", "black"]},
                    "lives": {"type": "integer", "default": 9, "maximum": 9}}},
                "status": {"type": "object", "properties": {"lives": {"type": "integer"}}}}}}}]}})
}

async fn define(admin: &Client) {
    admin.create(DEFINITIONS, definition()).await;
    admin
        .until(&format!("{DEFINITIONS}/cats.example.com"), |_, crd| {
            let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
        })
        .await;
    admin.until(CATS, |code, _| code == 200).await;
}

fn cat(name: &str, color: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Cat", "metadata": {"name": name}, "spec": {"color": color, "wings": 2}})
}

#[tokio::test]
async fn custom_objects_are_defaulted_pruned_validated_and_selected() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin).await;
    let made = admin.create(CATS, cat("tom", "black")).await;
    assert_eq!(made["spec"], json!({"color": "black", "lives": 9}));
    let (code, refused) = admin.post(CATS, cat("bad", "green")).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
    admin.create(CATS, cat("red", "red")).await;
    let (_, list) = admin.get(&format!("{CATS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("CatList"), &json!("example.com/v1")));
}

#[tokio::test]
async fn status_and_scale_are_parts_of_their_own() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin).await;
    let mut made = admin.create(CATS, cat("tom", "black")).await;
    made["status"] = json!({"lives": 3});
    made["spec"]["lives"] = 1.into();
    let (code, updated) = admin.put(&format!("{CATS}/tom/status"), &made).await;
    assert_eq!(code, 200, "{updated}");
    assert_eq!((&updated["status"]["lives"], &updated["spec"]["lives"]), (&json!(3), &json!(9)));
    assert_eq!(updated["metadata"]["generation"], 1);
    let change = json!({"spec": {"replicas": 5}});
    let (_, scale) = admin.patch(&format!("{CATS}/tom/scale"), "application/merge-patch+json", change).await;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(5), &json!(3)));
    let (_, scaled) = admin.get(&format!("{CATS}/tom")).await;
    assert_eq!((&scaled["spec"]["lives"], &scaled["metadata"]["generation"]), (&json!(5), &json!(2)));
}

#[tokio::test]
async fn a_definition_is_in_discovery_and_goes_with_its_objects_path() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin).await;
    let (code, resources) = admin.get("/apis/example.com/v1").await;
    assert_eq!(code, 200);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));
    let (code, _) = admin.get("/openapi/v3/apis/example.com/v1").await;
    assert_eq!(code, 200);
    admin.delete(&format!("{DEFINITIONS}/cats.example.com")).await;
    admin.until(CATS, |code, _| code == 404).await;
}

#[tokio::test]
async fn what_was_stored_before_a_default_shows_it() {
    let server = Server::start().await;
    let admin = server.admin();
    define(&admin).await;
    admin.create(CATS, cat("old", "black")).await;
    let mood = json!([{"op": "add", "value": {"type": "string", "default": "calm"},
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mood"}]);
    let (code, changed) =
        admin.patch(&format!("{DEFINITIONS}/cats.example.com"), "application/json-patch+json", mood).await;
    assert_eq!(code, 200, "{changed}");
    admin.until(&format!("{CATS}/old"), |_, cat| cat["spec"]["mood"] == "calm").await;
    admin.until(CATS, |_, list| list["items"][0]["spec"]["mood"] == "calm").await;
}
