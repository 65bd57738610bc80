//! SelfSubjectRulesReview: everything the user may do in a namespace, as far as RBAC says.

use objects::status::Status;
use serde_json::{Value, json};

use crate::{authn::user::MASTERS, handler::Call};

/// Answers the review.
pub(super) fn own(call: &Call, mut review: Value) -> Result<Value, Status> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if call.user.in_group(MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in call.inner.authz.rbac.rules(&call.user, &namespace)? {
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
        }
        if let Some(named) = rule.resources.as_ref().filter(|resources| !resources.is_empty()) {
            let mut entry = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": named});
            if let Some(names) = rule.resource_names.as_ref().filter(|names| !names.is_empty()) {
                entry["resourceNames"] = json!(names);
            }
            resources.push(entry);
        }
    }
    review["status"] = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    if call.user.node_name().is_some() {
        // What a node may do follows from its pods, not from rules.
        review["status"]["incomplete"] = true.into();
        review["status"]["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(review)
}
