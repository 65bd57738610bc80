//! Nobody gives away what they do not have: a role's rules, and the rules of a role being bound, must be covered by
//! the writer's own, unless the writer may `escalate` or `bind`.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use objects::status::Status;
use serde_json::Value;

use super::{Operation, Review};
use crate::{
    authn::user::MASTERS,
    authz::{Attributes, Decision, rbac::covers},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks writes of roles and bindings.
pub(super) fn validate(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    if review.operation == Operation::Delete || review.user.in_group(MASTERS) {
        return Ok(());
    }
    let name = crate::encoded::meta_str(object, "name");
    let namespace = review.place.namespace;
    if review.is(GROUP, "roles") || review.is(GROUP, "clusterroles") {
        if review.old.is_some_and(|old| old.get("rules") == object.get("rules")) {
            return Ok(());
        }
        let plural = &review.place.resource.kind.plural;
        let rules: Vec<PolicyRule> = read(object.get("rules"));
        return check(review, &rules, "escalate", plural, namespace, name, name);
    }
    if review.is(GROUP, "rolebindings") || review.is(GROUP, "clusterrolebindings") {
        if review.old.is_some_and(|old| old.get("subjects") == object.get("subjects")) {
            return Ok(());
        }
        let role = object.get("roleRef").cloned().unwrap_or_default();
        let role: RoleRef = objects::decode::decode(role).map_err(Status::internal)?;
        let rules = review.inner.authz.rbac.role_rules(namespace, &role)?;
        let rules = rules.ok_or_else(|| {
            let plural = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
            Status::not_found(objects::status::Qualified::new(GROUP, plural), &role.name)
        })?;
        let (plural, scope) = if role.kind == "ClusterRole" { ("clusterroles", "") } else { ("roles", namespace) };
        return check(review, &rules, "bind", plural, scope, &role.name, name);
    }
    Ok(())
}

fn read(rules: Option<&Value>) -> Vec<PolicyRule> {
    rules.and_then(|rules| objects::decode::decode(rules.clone()).ok()).unwrap_or_default()
}

fn check(
    review: &Review<'_>,
    rules: &[PolicyRule],
    verb: &str,
    plural: &str,
    scope: &str,
    role: &str,
    name: &str,
) -> Result<(), Status> {
    let wanted = Attributes {
        verb,
        group: GROUP,
        resource: plural,
        namespace: scope,
        name: role,
        ..Attributes::of(review.user)
    };
    if matches!(review.inner.authz.authorize(&wanted), Decision::Allow(_)) {
        return Ok(());
    }
    let own = review.inner.authz.rbac.rules(review.user, review.place.namespace)?;
    let missing: Vec<String> =
        rules.iter().filter(|rule| !covers(&own, rule)).filter_map(|rule| serde_json::to_string(rule).ok()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        review.user.name,
        review.user.groups,
        missing.join("\n")
    );
    Err(review.forbid(name, &why))
}
