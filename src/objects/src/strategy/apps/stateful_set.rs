//! Stateful sets.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::{self, fill, fill_value};
use crate::field::{BadValue, Errors, Path};
use crate::names::{self, NameRule};
use crate::selector::format_label_selector;
use crate::strategy::Part;
use crate::strategy::scale::Scale;
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::validation::workloads::{
    at_most_100_percent, count_or_percent, int_or_string, lasting_template, number, required_selector, selector_matches,
};
use crate::validation::{check, non_negative, one_of, shown, text};

const FROZEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub struct StatefulSetRules;

impl Rules for StatefulSetRules {
    type Object = StatefulSet;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const NAMES: NameRule = names::label;
    const COLUMNS: &'static [Column] = columns::workloads::STATEFUL_SET;

    fn default(set: &mut StatefulSet) {
        let spec = set.spec.get_or_insert_default();
        defaults::pod::template(&mut spec.template);
        fill(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        fill(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            fill_value(&mut strategy.rolling_update.get_or_insert_default().partition, 0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        fill(&mut retention.when_deleted, "Retain");
        fill(&mut retention.when_scaled, "Retain");
        fill_value(&mut spec.replicas, 1);
        fill_value(&mut spec.revision_history_limit, 10);
        spec.volume_claim_templates.iter_mut().flatten().for_each(claim);
        set.status.get_or_insert_default();
    }

    fn validate(set: &StatefulSet, errors: &mut Errors) {
        let default = StatefulSetSpec::default();
        spec(errors, &Path::root("spec"), set.spec.as_ref().unwrap_or(&default));
    }

    fn validate_update(new: &StatefulSet, old: &StatefulSet, errors: &mut Errors) {
        Self::validate(new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            let munged = StatefulSetSpec {
                replicas: old.replicas,
                ordinals: old.ordinals.clone(),
                template: old.template.clone(),
                update_strategy: old.update_strategy.clone(),
                min_ready_seconds: old.min_ready_seconds,
                revision_history_limit: old.revision_history_limit,
                persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
                ..new.clone()
            };
            if munged != *old {
                errors.forbidden(&Path::root("spec"), FROZEN);
            }
        }
    }

    fn validate_part(_part: Part, new: &StatefulSet, _old: &StatefulSet, errors: &mut Errors) {
        let Some(status) = &new.status else { return };
        let path = &Path::root("status");
        let total = status.replicas;
        let parts = [
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        non_negative(errors, &path.child("replicas"), total);
        for (field, count) in parts.map(|(field, count)| (field, count.unwrap_or(0))) {
            non_negative(errors, &path.child(field), count);
            if count > total {
                errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
            }
        }
        non_negative(errors, &path.child("observedGeneration"), status.observed_generation.unwrap_or(0));
    }

    fn cells(set: &StatefulSet, now: Timestamp) -> Vec<Value> {
        columns::workloads::stateful_set(set, now)
    }

    fn scale(set: &StatefulSet) -> Option<Scale> {
        let spec = set.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or(1),
            status_replicas: set.status.as_ref().map_or(0, |status| status.replicas),
            selector: format_label_selector(Some(&spec.selector)),
        })
    }

    fn set_scale(set: &mut StatefulSet, replicas: i32) -> bool {
        set.spec.get_or_insert_default().replicas = Some(replicas);
        true
    }
}

fn claim(claim: &mut PersistentVolumeClaim) {
    fill(&mut claim.spec.get_or_insert_default().volume_mode, "Filesystem");
    fill(&mut claim.status.get_or_insert_default().phase, "Pending");
}

fn spec(errors: &mut Errors, path: &Path<'_>, spec: &StatefulSetSpec) {
    let policy_path = path.child("podManagementPolicy");
    match text(spec.pod_management_policy.as_ref()) {
        "" => errors.required(&policy_path, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&policy_path, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    if let Some(strategy) = &spec.update_strategy {
        update_strategy(errors, &path.child("updateStrategy"), strategy);
    }
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, value) in [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)] {
            one_of(errors, &path.child(field), text(value.as_ref()), &["Delete", "Retain"]);
        }
    }
    non_negative(errors, &path.child("replicas"), spec.replicas.unwrap_or(0));
    non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    non_negative(errors, &path.child("ordinals.start"), start);
    non_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0));
    let service = text(spec.service_name.as_ref());
    if !service.is_empty() {
        check(errors, &path.child("serviceName"), service, names::dns1123_subdomain(service));
    }
    required_selector(errors, &path.child("selector"), &spec.selector);
    selector_matches(errors, &path.child("template"), &spec.selector, &spec.template);
    let mut template = spec.template.clone();
    // Pods get a volume for each claim template, which their mounts refer to.
    let pod = template.spec.get_or_insert_default();
    for claim in spec.volume_claim_templates.iter().flatten() {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let volumes = pod.volumes.get_or_insert_default();
        volumes.retain(|volume| volume.name != name);
        volumes.push(k8s_openapi::api::core::v1::Volume {
            name: name.clone(),
            persistent_volume_claim: Some(k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource {
                claim_name: name,
                read_only: None,
            }),
            ..Default::default()
        });
    }
    lasting_template(errors, &path.child("template"), &template, "StatefulSet");
}

fn update_strategy(errors: &mut Errors, path: &Path<'_>, strategy: &StatefulSetUpdateStrategy) {
    let rolling = &path.child("rollingUpdate");
    match (text(strategy.type_.as_ref()), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(update)) => {
            errors.invalid(rolling, BadValue::json(update), "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("RollingUpdate", Some(update)) => {
            non_negative(errors, &rolling.child("partition"), update.partition.unwrap_or(0));
            if let Some(unavailable) = &update.max_unavailable {
                let path = rolling.child("maxUnavailable");
                count_or_percent(errors, &path, Some(unavailable));
                if number(Some(unavailable)) == 0 {
                    errors.invalid(&path, int_or_string(unavailable), "cannot be 0");
                }
                at_most_100_percent(errors, &path, Some(unavailable));
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => errors.invalid(path, shown(strategy), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}
