//! May somebody do something: the access reviews.

use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};
use objects::{
    field::{Errors, Path},
    status::{Qualified, Status},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::{
    authn::User,
    authz::{Attributes, Decision},
    handler::Call,
};

/// The specs of all access reviews together.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    user: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
    resource_attributes: Option<ResourceAttributes>,
    non_resource_attributes: Option<NonResourceAttributes>,
}

fn read(review: &Value) -> Result<Spec, Status> {
    let spec: Spec = serde_json::from_value(review.get("spec").cloned().unwrap_or_default())
        .map_err(|error| Status::bad_request(format!("cannot read the review: {error}")))?;
    if spec.resource_attributes.is_some() == spec.non_resource_attributes.is_some() {
        let mut errors = Errors::default();
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid(&Path::root("spec.resourceAttributes"), "", detail);
        let kind = review.get("kind").and_then(Value::as_str).unwrap_or_default();
        return Err(Status::invalid(Qualified::new("authorization.k8s.io", kind), "", errors.as_slice()));
    }
    Ok(spec)
}

/// SelfSubjectAccessReview.
pub(super) fn own(call: &Call, mut review: Value) -> Result<Value, Status> {
    let spec = read(&review)?;
    review["status"] = decide(call, &call.user, &spec, "");
    Ok(review)
}

/// SubjectAccessReview, or with a namespace LocalSubjectAccessReview.
pub(super) fn any(call: &Call, mut review: Value, namespace: &str) -> Result<Value, Status> {
    let spec = read(&review)?;
    if spec.user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let mut errors = Errors::default();
        errors.invalid(&Path::root("spec.user"), "", "at least one of user or group must be specified");
        let kind = review.get("kind").and_then(Value::as_str).unwrap_or_default();
        return Err(Status::invalid(Qualified::new("authorization.k8s.io", kind), "", errors.as_slice()));
    }
    let asked = spec.resource_attributes.as_ref().and_then(|a| a.namespace.as_deref()).unwrap_or_default();
    if !namespace.is_empty() && asked != namespace {
        return Err(Status::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    let user = User {
        name: spec.user.clone(),
        uid: spec.uid.clone(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    review["status"] = decide(call, &user, &spec, namespace);
    Ok(review)
}

fn decide(call: &Call, user: &User, spec: &Spec, namespace: &str) -> Value {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let decision = if let Some(wanted) = &spec.resource_attributes {
        let (verb, group) = (text(&wanted.verb), text(&wanted.group));
        let (resource, subresource) = (text(&wanted.resource), text(&wanted.subresource));
        let asked = text(&wanted.namespace);
        let name = text(&wanted.name);
        let selected_node = selected_node(wanted);
        call.inner.authz.authorize(&Attributes {
            user,
            verb: &verb,
            group: &group,
            resource: &resource,
            subresource: &subresource,
            namespace: if asked.is_empty() { namespace } else { &asked },
            name: &name,
            selected_node: &selected_node,
            path: "",
        })
    } else {
        let wanted = spec.non_resource_attributes.clone().unwrap_or_default();
        let (verb, path) = (text(&wanted.verb), text(&wanted.path));
        let path = if path.is_empty() { "/".to_owned() } else { path };
        call.inner.authz.authorize(&Attributes { verb: &verb, path: &path, ..Attributes::of(user) })
    };
    let (allowed, reason) = match decision {
        Decision::Allow(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    let mut status = json!({ "allowed": allowed });
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

fn selected_node(wanted: &ResourceAttributes) -> String {
    let requirements = wanted.field_selector.iter().flat_map(|selector| selector.requirements.iter().flatten());
    requirements
        .filter(|requirement| requirement.key == "spec.nodeName" && requirement.operator == "In")
        .find_map(|requirement| requirement.values.as_ref()?.first().cloned())
        .unwrap_or_default()
}
