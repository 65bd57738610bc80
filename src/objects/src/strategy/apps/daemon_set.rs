//! Daemon sets.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::{self, fill, fill_value};
use crate::field::{Errors, Path};
use crate::strategy::Part;
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::validation::workloads::{
    at_most_100_percent, count_or_percent, int_or_string, lasting_template, number, required_selector, selector_matches,
};
use crate::validation::{immutable, non_negative};

pub struct DaemonSetRules;

impl Rules for DaemonSetRules {
    type Object = DaemonSet;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::workloads::DAEMON_SET;

    fn default(set: &mut DaemonSet) {
        let spec = set.spec.get_or_insert_default();
        defaults::pod::template(&mut spec.template);
        let strategy = spec.update_strategy.get_or_insert_default();
        fill(&mut strategy.type_, "RollingUpdate");
        if strategy.type_.as_deref() == Some("RollingUpdate") {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        fill_value(&mut spec.revision_history_limit, 10);
        set.status.get_or_insert_default();
    }

    fn validate(set: &DaemonSet, errors: &mut Errors) {
        let default = DaemonSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&default);
        let path = &Path::root("spec");
        required_selector(errors, &path.child("selector"), &spec.selector);
        selector_matches(errors, &path.child("template"), &spec.selector, &spec.template);
        lasting_template(errors, &path.child("template"), &spec.template, "DaemonSet");
        non_negative(errors, &path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
        if let Some(strategy) = &spec.update_strategy {
            update_strategy(errors, &path.child("updateStrategy"), strategy);
        }
        non_negative(errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0));
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet, errors: &mut Errors) {
        Self::validate(new, errors);
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            immutable(errors, &Path::root("spec").child("selector"), &new.selector, &old.selector);
        }
    }

    fn validate_part(_part: Part, new: &DaemonSet, _old: &DaemonSet, errors: &mut Errors) {
        let Some(status) = &new.status else { return };
        let path = &Path::root("status");
        let counts = [
            ("currentNumberScheduled", status.current_number_scheduled),
            ("numberMisscheduled", status.number_misscheduled),
            ("desiredNumberScheduled", status.desired_number_scheduled),
            ("numberReady", status.number_ready),
            ("updatedNumberScheduled", status.updated_number_scheduled.unwrap_or(0)),
            ("numberAvailable", status.number_available.unwrap_or(0)),
            ("numberUnavailable", status.number_unavailable.unwrap_or(0)),
            ("collisionCount", status.collision_count.unwrap_or(0)),
        ];
        for (field, count) in counts {
            non_negative(errors, &path.child(field), count);
        }
        non_negative(errors, &path.child("observedGeneration"), status.observed_generation.unwrap_or(0));
    }

    fn cells(set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        columns::workloads::daemon_set(set, now)
    }
}

fn update_strategy(errors: &mut Errors, path: &Path<'_>, strategy: &DaemonSetUpdateStrategy) {
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&path.child("rollingUpdate"), ""),
        ("RollingUpdate", Some(update)) => rolling_update(errors, &path.child("rollingUpdate"), update),
        (other, _) => errors.not_supported(&path.child("type"), other, &["RollingUpdate", "OnDelete"]),
    }
}

fn rolling_update(errors: &mut Errors, path: &Path<'_>, update: &RollingUpdateDaemonSet) {
    let (unavailable, surge) = (update.max_unavailable.as_ref(), update.max_surge.as_ref());
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        count_or_percent(errors, &path.child(field), value);
        at_most_100_percent(errors, &path.child(field), value);
    }
    match (number(unavailable), number(surge)) {
        (0, 0) => errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (unavailable, 1..) if unavailable != 0 => {
            if let Some(surge) = surge {
                let detail = "may not be set when maxUnavailable is non-zero";
                errors.invalid(&path.child("maxSurge"), int_or_string(surge), detail);
            }
        }
        _ => {}
    }
}
