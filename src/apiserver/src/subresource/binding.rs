//! `pods/binding` and the Binding kind: the scheduler puts a pod on a node.

use http::Response;
use objects::{
    status::Status,
    strategy::{Part, deletion::rfc3339},
};
use serde_json::{Value, json};

use crate::{
    body::Body,
    encoded::{child_mut, is_terminating, meta_str, metadata_mut},
    handler::Call,
    respond,
    rest::{
        Place, body,
        options::WriteOptions,
        update::{self, Change, Mode},
    },
};

/// Answers the POST of a Binding, on the pod's subresource or on `bindings`.
pub(crate) async fn create(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let options = WriteOptions::of(call)?;
    let Some(binding) = body::optional_value(call, "Binding").await? else {
        return Err(Status::bad_request("a Binding is required"));
    };
    let target = |name: &str| binding.pointer(&format!("/target/{name}")).and_then(Value::as_str).unwrap_or_default();
    let node = target("name").to_owned();
    if !matches!(target("kind"), "" | "Node") || node.is_empty() {
        return Err(Status::bad_request("the target of a Binding must be a Node with a name"));
    }
    let named = meta_str(&binding, "name").to_owned();
    let name = if place.subresource.is_empty() { named.as_str() } else { place.name };
    if !named.is_empty() && named != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({name})"
        )));
    }
    let pods = call.inner.registry.load().find("v1", "pods").cloned().ok_or_else(Status::unknown_path)?;
    let pod = Place { resource: pods, namespace: place.namespace, name, subresource: "binding" };
    let (inner, user) = (call.inner.clone(), call.user.clone());
    let change = Change { inner: &inner, user: &user, part: Part::Main, options: &options, mode: Mode::Direct };
    update::apply(&change, &pod, &mut call.warnings, |old| bind(&pod, old, &binding, &node)).await?;
    let status = serde_json::to_value(Status::success(201)).map_err(Status::internal)?;
    respond::value(call, 201, &status)
}

/// The pod on its node, with the annotations of the binding and the condition that says so.
fn bind(place: &Place<'_>, old: &Value, binding: &Value, node: &str) -> Result<Value, Status> {
    let conflict = |why: String| Status::conflict(place.resource.qualified(), place.name, &why);
    let uid = meta_str(binding, "uid");
    if !uid.is_empty() && uid != meta_str(old, "uid") {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta_str(old, "uid")
        )));
    }
    let bound = old.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if is_terminating(old) {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", place.name)));
    }
    if !bound.is_empty() {
        return Err(conflict(format!("pod {} is already assigned to node \"{bound}\"", place.name)));
    }
    if old.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", place.name)));
    }
    let mut pod = old.clone();
    child_mut(&mut pod, "spec").insert("nodeName".into(), node.into());
    if let Some(annotations) = binding.pointer("/metadata/annotations").and_then(Value::as_object) {
        let own = metadata_mut(&mut pod).entry("annotations").or_insert_with(|| json!({}));
        for (key, value) in annotations {
            own[key] = value.clone();
        }
    }
    let now = rfc3339(jiff::Timestamp::now());
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = child_mut(&mut pod, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|condition| condition["type"] != "PodScheduled");
        list.push(condition);
    }
    // The room that preemption made has been taken.
    child_mut(&mut pod, "status").remove("nominatedNodeName");
    metadata_mut(&mut pod).remove("resourceVersion");
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_waits_for_no_room_any_more() {
        let registry = crate::registry::Registry::built_in();
        let resource = registry.load().find("v1", "pods").cloned().unwrap();
        let place = Place { resource, namespace: "d", name: "p", subresource: "binding" };
        let old =
            json!({"metadata": {"name": "p", "uid": "u"}, "status": {"phase": "Pending", "nominatedNodeName": "n"}});
        let pod = bind(&place, &old, &json!({"metadata": {"uid": "u"}}), "n").unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n");
        assert!(pod["status"].get("nominatedNodeName").is_none());
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        assert!(bind(&place, &pod, &json!({}), "other").is_err());
    }
}
