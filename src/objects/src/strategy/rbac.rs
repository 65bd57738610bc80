//! Roles and bindings.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use serde_json::Value;

use super::typed::Rules;
use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::names::{self, NameRule};
use crate::validation::{check, labels, shown, text};

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct RoleRules;

impl Rules for RoleRules {
    type Object = Role;
    const NAMES: NameRule = names::path_segment;
    const CREATE_ON_UPDATE: bool = true;

    fn validate(role: &Role, errors: &mut Errors) {
        rules(errors, role.rules.as_deref().unwrap_or_default(), true);
    }
}

pub struct ClusterRoleRules;

impl Rules for ClusterRoleRules {
    type Object = ClusterRole;
    const NAMES: NameRule = names::path_segment;
    const CREATE_ON_UPDATE: bool = true;

    fn validate(role: &ClusterRole, errors: &mut Errors) {
        rules(errors, role.rules.as_deref().unwrap_or_default(), false);
        let Some(aggregation) = &role.aggregation_rule else { return };
        let path = Path::root("aggregationRule");
        let path = path.child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (n, selector) in selectors.iter().enumerate() {
            labels::selector(errors, &path.index(n), Some(selector));
        }
    }
}

fn rules(errors: &mut Errors, rules: &[PolicyRule], namespaced: bool) {
    let path = Path::root("rules");
    for (n, item) in rules.iter().enumerate() {
        rule(errors, &path.index(n), item, namespaced);
    }
}

fn rule(errors: &mut Errors, path: &Path<'_>, rule: &PolicyRule, namespaced: bool) {
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !empty(&rule.non_resource_urls) {
        let path = path.child("nonResourceURLs");
        let urls = shown(&rule.non_resource_urls);
        if namespaced {
            errors.invalid(&path, shown(&rule.non_resource_urls), "namespaced rules cannot apply to non-resource URLs");
        }
        if !(empty(&rule.api_groups) && empty(&rule.resources) && empty(&rule.resource_names)) {
            errors.invalid(&path, urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if empty(&rule.api_groups) {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if empty(&rule.resources) {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}

fn binding_defaults(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    fill(&mut role.api_group, GROUP);
    for subject in subjects.into_iter().flatten() {
        if matches!(subject.kind.as_str(), "User" | "Group") {
            fill(&mut subject.api_group, GROUP);
        }
    }
}

fn binding(errors: &mut Errors, role: &RoleRef, subjects: Option<&Vec<Subject>>, namespaced: bool) {
    let path = Path::root("roleRef");
    let group = text(role.api_group.as_ref());
    if group != GROUP {
        errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&path.child("kind"), &role.kind, kinds);
    }
    match role.name.as_str() {
        "" => errors.required(&path.child("name"), ""),
        name => check(errors, &path.child("name"), name, names::path_segment(name, false)),
    }
    let path = Path::root("subjects");
    for (n, item) in subjects.into_iter().flatten().enumerate() {
        subject(errors, &path.index(n), item, namespaced);
    }
}

fn subject(errors: &mut Errors, path: &Path<'_>, subject: &Subject, namespaced: bool) {
    if subject.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    let group = text(subject.api_group.as_ref());
    match subject.kind.as_str() {
        "ServiceAccount" => {
            let name = subject.name.as_str();
            if !name.is_empty() {
                check(errors, &path.child("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject.namespace.as_ref()).is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.not_supported(&path.child("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        kind => errors.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

fn same_role(errors: &mut Errors, new: &RoleRef, old: &RoleRef) {
    if new != old {
        errors.invalid(&Path::root("roleRef"), shown(new), "cannot change roleRef");
    }
}

pub struct RoleBindingRules;

impl Rules for RoleBindingRules {
    type Object = RoleBinding;
    const NAMES: NameRule = names::path_segment;
    const CREATE_ON_UPDATE: bool = true;
    const COLUMNS: &'static [Column] = columns::policy::ROLE_BINDING;

    fn default(binding: &mut RoleBinding) {
        binding_defaults(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(binding: &RoleBinding, errors: &mut Errors) {
        self::binding(errors, &binding.role_ref, binding.subjects.as_ref(), true);
    }

    fn validate_update(new: &RoleBinding, old: &RoleBinding, errors: &mut Errors) {
        Self::validate(new, errors);
        same_role(errors, &new.role_ref, &old.role_ref);
    }

    fn cells(binding: &RoleBinding, now: Timestamp) -> Vec<Value> {
        columns::policy::role_binding(&binding.metadata, &binding.role_ref, binding.subjects.as_ref(), now)
    }
}

pub struct ClusterRoleBindingRules;

impl Rules for ClusterRoleBindingRules {
    type Object = ClusterRoleBinding;
    const NAMES: NameRule = names::path_segment;
    const CREATE_ON_UPDATE: bool = true;
    const COLUMNS: &'static [Column] = columns::policy::ROLE_BINDING;

    fn default(binding: &mut ClusterRoleBinding) {
        binding_defaults(&mut binding.role_ref, binding.subjects.as_mut());
    }

    fn validate(binding: &ClusterRoleBinding, errors: &mut Errors) {
        self::binding(errors, &binding.role_ref, binding.subjects.as_ref(), false);
    }

    fn validate_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding, errors: &mut Errors) {
        Self::validate(new, errors);
        same_role(errors, &new.role_ref, &old.role_ref);
    }

    fn cells(binding: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        columns::policy::role_binding(&binding.metadata, &binding.role_ref, binding.subjects.as_ref(), now)
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, strategy_for};
    use serde_json::json;

    fn context() -> Context<'static> {
        Context::sample(Some("default"))
    }

    #[test]
    fn bindings_default_their_groups_and_keep_their_role() {
        let strategy = strategy_for("rbac.authorization.k8s.io", "v1", "RoleBinding").unwrap();
        let object = json!({"metadata": {"name": "b:c"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]});
        let mut old = strategy.create(object, &context()).unwrap();
        assert_eq!(old["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
        assert_eq!(old["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
        old["metadata"]["resourceVersion"] = json!("1");
        let mut new = old.clone();
        new["roleRef"]["name"] = json!("other");
        let message = strategy.update(Part::Main, new, &old, &context()).unwrap_err().to_string();
        assert!(message.ends_with(": cannot change roleRef"), "{message}");
    }

    #[test]
    fn rules_need_verbs_groups_and_resources() {
        let strategy = strategy_for("rbac.authorization.k8s.io", "v1", "Role").unwrap();
        let object = json!({"metadata": {"name": "r"}, "rules": [{"verbs": []}]});
        assert_eq!(
            strategy.create(object, &context()).unwrap_err().message(),
            "Role.rbac.authorization.k8s.io \"r\" is invalid: [rules[0].verbs: Required value: verbs must contain at least one value, rules[0].apiGroups: Required value: resource rules must supply at least one api group, rules[0].resources: Required value: resource rules must supply at least one resource]"
        );
    }
}
