//! Node and pod affinity.

use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::scheduling::{node_selector, preferred_term};
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, labels};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT_RANGE: &str = "must be in the range 1-100";

pub(super) fn affinity(errors: &mut Errors, path: &Path<'_>, affinity: Option<&Affinity>) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        self::node(errors, &path.child("nodeAffinity"), node);
    }
    if let Some(pod) = &affinity.pod_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        pods(errors, &path.child("podAffinity"), required, preferred);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        pods(errors, &path.child("podAntiAffinity"), required, preferred);
    }
}

fn node(errors: &mut Errors, path: &Path<'_>, affinity: &NodeAffinity) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        node_selector(errors, &path.child(REQUIRED), selector);
    }
    let path = path.child(PREFERRED);
    for (n, term) in affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
        let path = path.index(n);
        weight(errors, &path, term.weight);
        preferred_term(errors, &path.child("preference"), &term.preference);
    }
}

fn weight(errors: &mut Errors, path: &Path<'_>, weight: i32) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, WEIGHT_RANGE);
    }
}

fn pods(
    errors: &mut Errors,
    path: &Path<'_>,
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
) {
    let required_path = path.child(REQUIRED);
    for (n, term) in required.unwrap_or_default().iter().enumerate() {
        self::term(errors, &required_path.index(n), term);
    }
    let preferred_path = path.child(PREFERRED);
    for (n, weighted) in preferred.unwrap_or_default().iter().enumerate() {
        let path = preferred_path.index(n);
        weight(errors, &path, weighted.weight);
        term(errors, &path.child("podAffinityTerm"), &weighted.pod_affinity_term);
    }
}

fn term(errors: &mut Errors, path: &Path<'_>, term: &PodAffinityTerm) {
    labels::selector(errors, &path.child("labelSelector"), term.label_selector.as_ref());
    labels::selector(errors, &path.child("namespaceSelector"), term.namespace_selector.as_ref());
    for namespace in term.namespaces.iter().flatten() {
        check(errors, &path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    label_keys(errors, path, term);
    if term.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    labels::name(errors, &path.child("topologyKey"), &term.topology_key);
}

fn label_keys(errors: &mut Errors, path: &Path<'_>, term: &PodAffinityTerm) {
    let matching = term.match_label_keys.as_deref().unwrap_or_default();
    let mismatching = term.mismatch_label_keys.as_deref().unwrap_or_default();
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        let path = path.child(field);
        if !keys.is_empty() && term.label_selector.is_none() {
            errors.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (n, key) in keys.iter().enumerate() {
            labels::name(errors, &path.index(n), key);
        }
    }
    repeated_keys(errors, path, matching, term.label_selector.as_ref());
    let path = path.child("matchLabelKeys");
    for (n, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        errors.invalid(&path.index(n), key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// A key in `matchLabelKeys` has become one requirement of the selector; a second one was the user's.
pub(super) fn repeated_keys(errors: &mut Errors, path: &Path<'_>, keys: &[String], selector: Option<&LabelSelector>) {
    let Some(selector) = selector else { return };
    let mut seen: Vec<&String> = selector.match_labels.iter().flatten().map(|(key, _)| key).collect();
    for expression in selector.match_expressions.iter().flatten() {
        if let Some(n) = keys.iter().position(|key| *key == expression.key)
            && seen.contains(&&expression.key)
        {
            errors.invalid(&path.index(n), &expression.key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(&expression.key);
    }
}
