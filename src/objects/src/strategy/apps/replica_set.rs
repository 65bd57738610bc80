//! Replica sets and, with the same rules, replication controllers.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, ReplicationControllerSpec};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::{self, fill_value};
use crate::field::{Errors, Path};
use crate::selector::{Selector, format_label_selector};
use crate::strategy::scale::Scale;
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::strategy::{Absent, Part, Propagation, SelectableField};
use crate::validation::workloads::{lasting_template, required_selector, selector_matches};
use crate::validation::{immutable, non_negative, shown};

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: Absent::Text("") },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: Absent::Text("") },
    SelectableField { label: "status.replicas", path: &["status", "replicas"], absent: Absent::Text("0") },
];

pub struct ReplicaSetRules;

impl Rules for ReplicaSetRules {
    type Object = ReplicaSet;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::workloads::REPLICA_SET;

    fn default(set: &mut ReplicaSet) {
        let spec = set.spec.get_or_insert_default();
        fill_value(&mut spec.replicas, 1);
        defaults::pod::template(spec.template.get_or_insert_default());
        set.status.get_or_insert_default();
    }

    fn validate(set: &ReplicaSet, errors: &mut Errors) {
        let default = ReplicaSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&default);
        let path = &Path::root("spec");
        non_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
        non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        required_selector(errors, &path.child("selector"), &spec.selector);
        let template = PodTemplateSpec::default();
        let template = spec.template.as_ref().unwrap_or(&template);
        selector_matches(errors, &path.child("template"), &spec.selector, template);
        lasting_template(errors, &path.child("template"), template, "ReplicaSet");
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet, errors: &mut Errors) {
        Self::validate(new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            immutable(errors, &Path::root("spec").child("selector"), &new.selector, &old.selector);
        }
    }

    fn validate_part(_part: Part, new: &ReplicaSet, _old: &ReplicaSet, errors: &mut Errors) {
        let default = ReplicaSetStatus::default();
        let status = new.status.as_ref().unwrap_or(&default);
        let [labeled, ready, available] =
            [status.fully_labeled_replicas, status.ready_replicas, status.available_replicas]
                .map(Option::unwrap_or_default);
        counts(errors, status.replicas, labeled, ready, available, status.observed_generation);
    }

    fn cells(set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        columns::workloads::replica_set(set, now)
    }

    fn scale(set: &ReplicaSet) -> Option<Scale> {
        let spec = set.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or(1),
            status_replicas: set.status.as_ref().map_or(0, |status| status.replicas),
            selector: format_label_selector(Some(&spec.selector)),
        })
    }

    fn set_scale(set: &mut ReplicaSet, replicas: i32) -> bool {
        set.spec.get_or_insert_default().replicas = Some(replicas);
        true
    }
}

/// Counts of a status: none negative, none more than there are.
fn counts(errors: &mut Errors, total: i32, labeled: i32, ready: i32, available: i32, observed: Option<i64>) {
    let path = &Path::root("status");
    let all = [
        ("replicas", total),
        ("fullyLabeledReplicas", labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    for (field, count) in all {
        non_negative(errors, &path.child(field), count);
    }
    non_negative(errors, &path.child("observedGeneration"), observed.unwrap_or(0));
    for (field, count) in all.into_iter().skip(1).filter(|(_, count)| *count > total) {
        errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
    }
    if available > ready {
        errors.invalid(&path.child("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
}

pub struct ReplicationControllerRules;

impl Rules for ReplicationControllerRules {
    type Object = ReplicationController;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::workloads::REPLICATION_CONTROLLER;
    const PROPAGATION: Propagation = Propagation::Orphan;

    fn default(controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        fill_value(&mut spec.replicas, 1);
        if let Some(template) = &mut spec.template {
            defaults::pod::template(template);
            if let Some(labels) = template.metadata.as_ref().and_then(|meta| meta.labels.clone()) {
                if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                    spec.selector = Some(labels.clone());
                }
                if controller.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
                    controller.metadata.labels = Some(labels);
                }
            }
        }
        controller.status.get_or_insert_default();
    }

    fn validate(controller: &ReplicationController, errors: &mut Errors) {
        let default = ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&default);
        let path = &Path::root("spec");
        non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() {
            errors.required(&path.child("selector"), "");
        }
        non_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
        let path = &path.child("template");
        let Some(template) = &spec.template else { return errors.required(path, "") };
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        if !selector.is_empty() && !Selector::from_map(&selector).matches_labels(labels) {
            errors.invalid(
                &path.child("metadata.labels"),
                shown(&labels),
                "`selector` does not match template `labels`",
            );
        }
        lasting_template(errors, path, template, "ReplicationController");
    }

    fn validate_part(_part: Part, new: &ReplicationController, _old: &ReplicationController, errors: &mut Errors) {
        let Some(status) = &new.status else { return };
        let [labeled, ready, available] =
            [status.fully_labeled_replicas, status.ready_replicas, status.available_replicas]
                .map(Option::unwrap_or_default);
        counts(errors, status.replicas, labeled, ready, available, status.observed_generation);
    }

    fn cells(controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
        columns::workloads::replication_controller(controller, now)
    }

    fn scale(controller: &ReplicationController) -> Option<Scale> {
        let spec = controller.spec.as_ref()?;
        let selector = spec.selector.as_ref().map(Selector::from_map).unwrap_or_default();
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or(1),
            status_replicas: controller.status.as_ref().map_or(0, |status| status.replicas),
            selector: selector.to_string(),
        })
    }

    fn set_scale(controller: &mut ReplicationController, replicas: i32) -> bool {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
        true
    }
}
