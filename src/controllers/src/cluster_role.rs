//! Aggregated cluster roles: a role with an aggregation rule has the rules of all roles its selectors match.

use std::sync::Arc;

use client::{Informer, ObjectKey};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::claim;
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};

struct Controller {
    context: Context,
    roles: Informer<ClusterRole>,
}

pub(crate) fn start(context: &Context) {
    let roles = context.informers.of::<ClusterRole>();
    let queue = context.queue("clusterrole-aggregation");
    let all = roles.clone();
    // Any role may be a part of any aggregated one; there are few of these.
    context.feed(&roles, &queue, move |_| {
        all.list().iter().filter(|role| role.aggregation_rule.is_some()).map(|role| ObjectKey::of(&**role)).collect()
    });
    let ready = vec![synced(&roles)];
    context.run(queue, Controller { context: context.clone(), roles }, ready);
}

/// The rules of all matching roles, selector by selector and role by role in order of name, each rule once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Vec<PolicyRule>, ReconcileError> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    let selectors = role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    for selector in selectors {
        let selector = claim::selector(selector)?;
        let parts = all
            .iter()
            .filter(|part| part.metadata.name != role.metadata.name && claim::matches(&selector, &part.metadata));
        for rule in parts.flat_map(|part| part.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Ok(rules)
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(role) = self.roles.get_key(&key).filter(|role| role.aggregation_rule.is_some()) else {
            return Ok(Next::Done);
        };
        let rules = aggregate(&role, &self.roles.list())?;
        if rules == role.rules.clone().unwrap_or_default() {
            return Ok(Next::Done);
        }
        let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
        let api = self.context.cluster_api::<ClusterRole>();
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, verb: &str) -> Arc<ClusterRole> {
        let role = json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": [{"verbs": [verb]}]});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_of_matching_roles_are_joined_without_repetition() {
        let whole: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "view", "labels": {"to": "view"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}))
        .unwrap();
        let all = [
            role("a", "view", "get"),
            role("b", "view", "get"),
            role("c", "edit", "create"),
            role("d", "view", "list"),
        ];
        let verbs: Vec<_> = aggregate(&whole, &all).unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
    }
}
