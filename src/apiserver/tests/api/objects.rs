//! Writing and deleting objects.

use serde_json::{Value, json};

use crate::server::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test]
async fn an_object_is_created_read_updated_and_deleted() {
    let server = Server::start().await;
    let admin = server.admin();
    let made = admin.create(MAPS, map("a")).await;
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let (code, mut read) = admin.get(&format!("{MAPS}/a")).await;
    assert_eq!((code, &read), (200, &made));
    read["data"]["a"] = "2".into();
    let (code, updated) = admin.put(&format!("{MAPS}/a"), &read).await;
    assert_eq!(code, 200);
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let (code, stale) = admin.put(&format!("{MAPS}/a"), &made).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    let (code, gone) = admin.delete(&format!("{MAPS}/a")).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    let (code, missing) = admin.get(&format!("{MAPS}/a")).await;
    assert_eq!((code, &missing["message"]), (404, &json!("configmaps \"a\" not found")));
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start().await;
    let admin = server.admin();
    let made = admin.create(MAPS, map("same")).await;
    let (_, again) = admin.put(&format!("{MAPS}/same"), &made).await;
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_patch_needs_no_revision_where_an_update_does() {
    let server = Server::start().await;
    let admin = server.admin();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let mut made = admin.create(leases, json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})).await;
    let path = format!("{leases}/l");
    let change = json!({"spec": {"holderIdentity": "b"}});
    let (code, patched) = admin.patch(&path, "application/merge-patch+json", change).await;
    assert_eq!((code, &patched["spec"]["holderIdentity"]), (200, &json!("b")), "{patched}");
    let config = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
                        "spec": {"leaseDurationSeconds": 7}});
    let (code, applied) = admin.patch(&format!("{path}?fieldManager=me"), "application/apply-patch+yaml", config).await;
    assert_eq!((code, &applied["spec"]["leaseDurationSeconds"]), (200, &json!(7)), "{applied}");
    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}});
    let (code, _) = admin.patch(&path, "application/merge-patch+json", stale).await;
    assert_eq!(code, 409);
    made["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (code, refused) = admin.put(&path, &made).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
}

#[tokio::test]
async fn apply_takes_no_undeclared_field_however_lenient() {
    let server = Server::start().await;
    let admin = server.admin();
    let path = "/apis/apps/v1/namespaces/default/deployments/web?fieldManager=me&fieldValidation=Ignore";
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i", "foo": 1}]}}}});
    let (code, refused) = admin.patch(path, "application/apply-patch+yaml", config).await;
    let message = "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
                   .spec.template.spec.containers[name=\"c\"].foo: field not declared in schema";
    assert_eq!((code, &refused["message"]), (500, &json!(message)));
}

#[tokio::test]
async fn the_service_range_is_shown_as_an_object() {
    let server = Server::start().await;
    let (code, range) = server.admin().get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    assert_eq!((code, &range["status"]["conditions"][0]["type"]), (200, &json!("Ready")), "{range}");
}

#[tokio::test]
async fn events_are_selected_by_the_fields_of_either_api() {
    let server = Server::start().await;
    let admin = server.admin();
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "a",
        "reason": "r", "type": "Normal", "reportingController": "watcher", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    admin.create(events, event).await;
    let core = "/api/v1/namespaces/default/events";
    for (path, selector) in [(core, "source"), (core, "reportingComponent"), (events, "reportingController")] {
        let (_, list) = admin.get(&format!("{path}?fieldSelector={selector}%3Dwatcher")).await;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{selector}");
    }
    let (_, list) = admin.get(&format!("{events}?fieldSelector=regarding.name%3Dother")).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn all_patch_types_apply() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create(MAPS, map("p")).await;
    let path = format!("{MAPS}/p");
    let (_, merged) = admin.patch(&path, "application/merge-patch+json", json!({"data": {"b": "2"}})).await;
    assert_eq!(merged["data"], json!({"a": "1", "b": "2"}));
    let ops = json!([{"op": "remove", "path": "/data/a"}]);
    let (_, patched) = admin.patch(&path, "application/json-patch+json", ops).await;
    assert_eq!(patched["data"], json!({"b": "2"}));
    let strategic = json!({"data": {"b": null, "c": "3"}});
    let (_, patched) = admin.patch(&path, "application/strategic-merge-patch+json", strategic).await;
    assert_eq!(patched["data"], json!({"c": "3"}));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"d": "4"}});
    let apply = format!("{path}?fieldManager=me");
    let (code, applied) = admin.patch(&apply, "application/apply-patch+yaml", config).await;
    assert_eq!((code, &applied["data"]), (200, &json!({"c": "3", "d": "4"})));
    let (code, _) = admin.patch(&path, "text/plain", json!({})).await;
    assert_eq!(code, 415);
}

#[tokio::test]
async fn applying_something_missing_creates_it() {
    let server = Server::start().await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}, "data": {"d": "4"}});
    let path = format!("{MAPS}/n?fieldManager=me");
    let (code, made) = server.admin().patch(&path, "application/apply-patch+yaml", config).await;
    assert_eq!(code, 201);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
}

#[tokio::test]
async fn a_finalizer_holds_a_deleted_object_until_it_is_taken_off() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut object = map("held");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.create(MAPS, object).await;
    let path = format!("{MAPS}/held");
    let (code, marked) = admin.delete(&path).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(admin.get(&path).await.0, 200);
    let (code, _) = admin.patch(&path, "application/merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(admin.get(&path).await.0, 404);
}

#[tokio::test]
async fn dry_run_and_strict_validation() {
    let server = Server::start().await;
    let admin = server.admin();
    let (code, _) = admin.post(&format!("{MAPS}?dryRun=All"), map("dry")).await;
    assert_eq!(code, 201);
    assert_eq!(admin.get(&format!("{MAPS}/dry")).await.0, 404);
    let mut odd = map("odd");
    odd["foo"] = 1.into();
    let (code, refused) = admin.post(&format!("{MAPS}?fieldValidation=Strict"), odd).await;
    assert_eq!(code, 400);
    assert_eq!(
        refused["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\""
    );
}

#[tokio::test]
async fn names_are_generated_and_taken_names_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    let made = admin.create(MAPS, json!({"metadata": {"generateName": "g-"}})).await;
    assert!(made["metadata"]["name"].as_str().is_some_and(|name| name.len() == 7 && name.starts_with("g-")));
    admin.create(MAPS, map("twice")).await;
    let (code, refused) = admin.post(MAPS, map("twice")).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("AlreadyExists")));
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_is_not_there_or_goes() {
    let server = Server::start().await;
    let admin = server.admin();
    let (code, refused) = admin.post("/api/v1/namespaces/nope/configmaps", map("x")).await;
    assert_eq!((code, &refused["message"]), (404, &json!("namespaces \"nope\" not found")));
    admin.create("/api/v1/namespaces", json!({"metadata": {"name": "going"}})).await;
    let (_, going) = admin.delete("/api/v1/namespaces/going").await;
    assert_eq!(going["status"]["phase"], "Terminating");
    admin.until("/api/v1/namespaces/going", |_, ns| ns["status"]["phase"] == "Terminating").await;
    let (code, refused) = admin.post("/api/v1/namespaces/going/configmaps", map("x")).await;
    assert_eq!(code, 403, "{refused}");
    let (_, mut ns) = admin.get("/api/v1/namespaces/going").await;
    ns["spec"]["finalizers"] = json!([]);
    let (code, _) = admin.put("/api/v1/namespaces/going/finalize", &ns).await;
    assert_eq!(code, 200);
    assert_eq!(admin.get("/api/v1/namespaces/going").await.0, 404);
}

#[tokio::test]
async fn a_pod_runs_as_a_service_account_and_is_bound_once() {
    let server = Server::start().await;
    let admin = server.admin();
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, refused) = admin.post(pods, pod.clone()).await;
    assert_eq!(code, 403, "{refused}");
    admin.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let made = admin.create(pods, pod).await;
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert!(made["spec"]["volumes"][0]["projected"].is_object());
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(admin.post(&format!("{pods}/p/binding"), binding.clone()).await.0, 201);
    let (code, refused) = admin.post(&format!("{pods}/p/binding"), binding).await;
    assert_eq!(code, 409, "{refused}");
    let (_, bound) = admin.get(&format!("{pods}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let (code, gone) = admin.delete(&format!("{pods}/p?gracePeriodSeconds=5")).await;
    assert_eq!((code, &gone["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(5)));
    let (_, _) = admin.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await;
    assert_eq!(admin.get(&format!("{pods}/p")).await.0, 404);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let server = Server::start().await;
    let made = server.admin().create(MAPS, map("kept")).await;
    let server = server.restart().await;
    let (code, read) = server.admin().get(&format!("{MAPS}/kept")).await;
    assert_eq!((code, read), (200, made));
}

/// These kinds take no update without a resourceVersion, but a patch is made from the stored state.
#[tokio::test]
async fn patches_need_no_resource_version_where_updates_do() {
    let server = Server::start().await;
    let admin = server.admin();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}});
    let mut budget = admin.create(budgets, json!({"metadata": {"name": "b"}, "spec": spec})).await;
    let path = format!("{budgets}/b");
    for kind in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        let (code, patched) = admin.patch(&path, kind, json!({"spec": {"minAvailable": kind.len()}})).await;
        assert_eq!((code, &patched["spec"]["minAvailable"]), (200, &json!(kind.len())), "{patched}");
    }
    let applied = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"minAvailable": 3}});
    let apply = format!("{path}?fieldManager=me&force=true");
    let (code, patched) = admin.patch(&apply, "application/apply-patch+yaml", applied).await;
    assert_eq!((code, &patched["spec"]["minAvailable"]), (200, &json!(3)), "{patched}");
    let stale = json!({"metadata": {"resourceVersion": budget["metadata"]["resourceVersion"]}, "spec": {}});
    let (code, _) = admin.patch(&path, "application/merge-patch+json", stale).await;
    assert_eq!(code, 409);
    if let Some(metadata) = budget["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    for path in [path.clone(), format!("{path}/status")] {
        let (code, refused) = admin.put(&path, &budget).await;
        assert_eq!(code, 422);
        assert!(refused["message"].as_str().unwrap().contains("must be specified for an update"), "{refused}");
    }
}

#[tokio::test]
async fn a_scale_is_shown_as_a_table_of_its_numbers() {
    let server = Server::start().await;
    let admin = server.admin();
    let labels = json!({"app": "a"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": labels}, "template": template});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    admin.create(deployments, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let table = admin.table(&format!("{deployments}/web/scale")).await;
    let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(json!(names), json!(["Name", "Desired", "Available", "Age"]));
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(3), json!(0)]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn an_evicted_pod_says_so_before_it_goes() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    // A finalizer keeps the pod in sight.
    let metadata = json!({"name": "p", "finalizers": ["example.com/seen"]});
    let pod = admin.create(pods, json!({"metadata": metadata, "spec": spec})).await;
    let eviction = |version: &str| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
            "deleteOptions": {"preconditions": {"resourceVersion": version}}})
    };
    let evict = format!("{pods}/p/eviction");
    let (code, refused) = admin.post(&evict, eviction("1")).await;
    assert_eq!((code, &refused["reason"]), (409, &json!("Conflict")));
    let conditions = |pod: &Value| pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (_, untouched) = admin.get(&format!("{pods}/p")).await;
    assert!(conditions(&untouched).iter().all(|condition| condition["type"] != "DisruptionTarget"));
    // The condition's own write does not put the pod out of the state that the client meant.
    let (code, done) = admin.post(&evict, eviction(pod["metadata"]["resourceVersion"].as_str().unwrap())).await;
    assert_eq!(code, 201, "{done}");
    let (_, going) = admin.get(&format!("{pods}/p")).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    let condition = conditions(&going).into_iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
}

#[tokio::test]
async fn events_are_checked_by_the_rules_of_the_api_they_come_by() {
    let server = Server::start().await;
    let admin = server.admin();
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "reason": "R", "type": "Normal", "note": "n", "action": "A",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let (code, refused) = admin.post(new, event.clone()).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("eventTime: Required value"), "{refused}");
    let mut whole = event;
    whole["eventTime"] = json!("2026-01-01T00:00:00.000001Z");
    whole["reportingController"] = json!("example.com/c");
    whole["reportingInstance"] = json!("i");
    let stored = admin.create(new, whole.clone()).await;
    let mut changed = stored.clone();
    changed["note"] = json!("other");
    let (code, refused) = admin.put(&format!("{new}/e"), &changed).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("message: Invalid value: \"other\": field is immutable"));
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let (code, patched) = admin.patch(&format!("{new}/e"), "application/merge-patch+json", series).await;
    assert_eq!((code, &patched["series"]["count"]), (200, &json!(2)), "{patched}");
    // By the older API what is old stays right.
    let old = json!({"metadata": {"name": "o"}, "involvedObject": {"namespace": "default"}, "message": "m"});
    admin.create("/api/v1/namespaces/default/events", old).await;
    let (_, one) = admin.get(&format!("{new}?fieldSelector=regarding.kind%3DPod")).await;
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_time_limit_that_is_no_number_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    for verb in ["", "watch=true&"] {
        let (code, refused) = admin.get(&format!("/api/v1/namespaces?{verb}timeoutSeconds=soon")).await;
        let told = (code, refused["message"].as_str().unwrap_or_default());
        assert_eq!(told, (400, "strconv.ParseInt: parsing \"soon\": invalid syntax"));
    }
}
