//! Node selectors, tolerations, gates and topology spread.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration, TopologySpreadConstraint,
};

use super::affinity::repeated_keys;
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, labels, one_of, text};

const NOT_POSITIVE: &str = "must be greater than 0";
const BAD_OPERATOR: &str = "not a valid selector operator";

/// `ValidateNodeSelector`.
pub fn node_selector(errors: &mut Errors, path: &Path<'_>, selector: &NodeSelector) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (n, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(errors, &path.index(n), term);
    }
}

/// A term whose label values have to be sound.
pub fn node_selector_term(errors: &mut Errors, path: &Path<'_>, term: &NodeSelectorTerm) {
    self::term(errors, path, term, true);
}

/// A preferred term may hold any label values: it only scores.
pub(super) fn preferred_term(errors: &mut Errors, path: &Path<'_>, term: &NodeSelectorTerm) {
    self::term(errors, path, term, false);
}

fn term(errors: &mut Errors, path: &Path<'_>, term: &NodeSelectorTerm, check_values: bool) {
    let expressions = path.child("matchExpressions");
    for (n, requirement) in term.match_expressions.iter().flatten().enumerate() {
        self::requirement(errors, &expressions.index(n), requirement, check_values);
    }
    let fields = path.child("matchFields");
    for (n, requirement) in term.match_fields.iter().flatten().enumerate() {
        field_requirement(errors, &fields.index(n), requirement);
    }
}

fn requirement(errors: &mut Errors, path: &Path<'_>, requirement: &NodeSelectorRequirement, check_values: bool) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, BAD_OPERATOR),
    }
    labels::name(errors, &path.child("key"), &requirement.key);
    for (n, value) in values.iter().enumerate().filter(|_| check_values) {
        check(errors, &values_path.index(n), value, names::label_value(value));
    }
}

fn field_requirement(errors: &mut Errors, path: &Path<'_>, requirement: &NodeSelectorRequirement) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&values_path, detail);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(&path.child("operator"), other, BAD_OPERATOR),
    }
    if requirement.key != "metadata.name" {
        return errors.invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
    }
    for (n, value) in values.iter().enumerate() {
        check(errors, &values_path.index(n), value, names::dns1123_subdomain(value));
    }
}

/// A taint's effect; a toleration's may be empty, which its caller checks.
pub fn taint_effect(errors: &mut Errors, path: &Path<'_>, effect: &str) {
    match effect {
        "" => errors.required(path, ""),
        effect => one_of(errors, path, effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    }
}

/// `ValidateTolerations`.
pub fn tolerations(errors: &mut Errors, path: &Path<'_>, tolerations: &[Toleration]) {
    for (n, toleration) in tolerations.iter().enumerate() {
        self::toleration(errors, &path.index(n), toleration);
    }
}

fn toleration(errors: &mut Errors, path: &Path<'_>, toleration: &Toleration) {
    let (key, operator) = (text(toleration.key.as_ref()), text(toleration.operator.as_ref()));
    let (value, effect) = (text(toleration.value.as_ref()), text(toleration.effect.as_ref()));
    let operator_path = path.child("operator");
    if !key.is_empty() {
        labels::name(errors, &path.child("key"), key);
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&operator_path, operator, detail);
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        errors.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator {
        "" | "Equal" => {
            let messages = names::label_value(value);
            if !messages.is_empty() {
                errors.invalid(&operator_path, value, &messages.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        "Lt" | "Gt" => {
            if value.parse::<i64>().is_err() {
                errors.invalid(&path.child("value"), value, "must be a valid integer");
            }
        }
        other => errors.not_supported(&operator_path, other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        taint_effect(errors, &path.child("effect"), effect);
    }
}

/// Readiness and scheduling gates.
pub(super) fn gates(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    let readiness = path.child("readinessGates");
    for (n, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let kind = gate.condition_type.as_str();
        check(errors, &readiness.index(n).child("conditionType"), kind, names::qualified_name(kind));
    }
    let scheduling = path.child("schedulingGates");
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    for (n, gate) in gates.iter().enumerate() {
        let path = scheduling.index(n);
        check(errors, &path, &gate.name, names::qualified_name(&gate.name));
        if gates[..n].iter().any(|earlier| earlier.name == gate.name) {
            errors.duplicate(&path, &gate.name);
        }
    }
}

pub(super) fn spread(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    for (n, constraint) in constraints.iter().enumerate() {
        let path = &path.index(n);
        self::constraint(errors, path, constraint);
        let same = |other: &&TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == constraint.when_unsatisfiable
        };
        if constraints[n + 1..].iter().any(|other| same(&other)) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), &pair);
        }
    }
}

fn constraint(errors: &mut Errors, path: &Path<'_>, constraint: &TopologySpreadConstraint) {
    if constraint.max_skew <= 0 {
        errors.invalid(&path.child("maxSkew"), constraint.max_skew, NOT_POSITIVE);
    }
    if constraint.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    let action = constraint.when_unsatisfiable.as_str();
    one_of(errors, &path.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
    if let Some(domains) = constraint.min_domains {
        let path = path.child("minDomains");
        if domains <= 0 {
            errors.invalid(&path, domains, NOT_POSITIVE);
        }
        if action != "DoNotSchedule" {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.invalid(&path, domains, &detail);
        }
    }
    let policies = [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ];
    for (field, policy) in policies {
        if let Some(policy) = policy {
            one_of(errors, &path.child(field), policy, &["Honor", "Ignore"]);
        }
    }
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let keys_path = path.child("matchLabelKeys");
    if !keys.is_empty() && constraint.label_selector.is_none() {
        errors.forbidden(&keys_path, "must not be specified when labelSelector is not set");
    }
    for (n, key) in keys.iter().enumerate() {
        labels::name(errors, &keys_path.index(n), key);
    }
    repeated_keys(errors, &keys_path, keys, constraint.label_selector.as_ref());
    labels::selector(errors, &path.child("labelSelector"), constraint.label_selector.as_ref());
}
