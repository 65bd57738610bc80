//! Aggregated cluster roles: the rules of a role with an aggregation rule are the sum of those it selects. Kept so
//! here, because authorization of the first user depends on it.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use objects::{selector::Selector, status::Status, strategy::Part};
use serde_json::Value;

use crate::{
    authn::{User, user::MASTERS},
    rest::{
        Place,
        options::WriteOptions,
        update::{self, Change, Mode},
    },
    server::Inner,
};

const PREFIX: &str = "rbac.authorization.k8s.io/clusterroles";

/// Sums again after each change of a cluster role.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut changes = match inner.hub.kind(PREFIX) {
        Ok(cache) => cache.changes(),
        Err(error) => return tracing::error!(%error, "cannot watch cluster roles"),
    };
    loop {
        if let Err(error) = once(&inner).await {
            tracing::warn!(%error, "cannot sum aggregated cluster roles");
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes every sum that is not what it should be.
pub(crate) async fn once(inner: &Arc<Inner>) -> Result<(), Status> {
    let roles: Vec<ClusterRole> =
        inner.hub.kind(PREFIX)?.list("", |_| true).entries.iter().filter_map(|entry| entry.typed().ok()).collect();
    for role in roles.iter().filter(|role| role.aggregation_rule.is_some()) {
        let rules = sum(role, &roles);
        if role.rules.as_deref().unwrap_or_default() != rules {
            write(inner, role, &rules).await?;
        }
    }
    Ok(())
}

/// The rules of all roles that `role` selects, in order of their names, each once.
fn sum(role: &ClusterRole, roles: &[ClusterRole]) -> Vec<PolicyRule> {
    let selectors: Vec<Selector> = role
        .aggregation_rule
        .iter()
        .flat_map(|rule| rule.cluster_role_selectors.iter().flatten())
        .filter_map(|selector| Selector::from_label_selector(Some(selector)).ok())
        .collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in &selectors {
        let selected = roles.iter().filter(|other| {
            other.metadata.name != role.metadata.name && selector.matches_labels(other.metadata.labels.as_ref())
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

async fn write(inner: &Arc<Inner>, role: &ClusterRole, rules: &[PolicyRule]) -> Result<(), Status> {
    let Some(resource) = inner.registry.load().find("rbac.authorization.k8s.io/v1", "clusterroles").cloned() else {
        return Ok(());
    };
    let name = role.metadata.name.clone().unwrap_or_default();
    let place = Place { resource, namespace: "", name: &name, subresource: "" };
    let rules = serde_json::to_value(rules).map_err(Status::internal)?;
    let user = User::new("system:serviceaccount:kube-system:clusterrole-aggregation-controller", [MASTERS]);
    let options =
        WriteOptions { field_manager: "clusterrole-aggregation-controller".into(), ..WriteOptions::default() };
    let change = Change { inner, user: &user, part: Part::Main, options: &options, mode: Mode::Plain };
    let next = |old: &Value| {
        let mut new = old.clone();
        new["rules"] = rules.clone();
        Ok(new)
    };
    match update::apply(&change, &place, &mut Vec::new(), next).await {
        Ok(_) => Ok(()),
        Err(status) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sum_has_each_selected_rule_once() {
        let roles: Vec<ClusterRole> = [
            json!({"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"v": "1"}}]}}),
            json!({"metadata": {"name": "a", "labels": {"v": "1"}}, "rules": [{"verbs": ["get"], "resources": ["x"], "apiGroups": [""]}]}),
            json!({"metadata": {"name": "b", "labels": {"v": "1"}}, "rules": [{"verbs": ["get"], "resources": ["x"], "apiGroups": [""]}]}),
            json!({"metadata": {"name": "c"}, "rules": [{"verbs": ["list"]}]}),
        ]
        .into_iter()
        .map(|value| serde_json::from_value(value).unwrap())
        .collect();
        assert_eq!(sum(&roles[0], &roles).len(), 1);
    }
}
