//! Priority classes, runtime classes and leases.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::typed::{Generation, Rules};
use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, immutable, labels, non_negative, one_of, pod, resources, text};

const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;

/// The built-in classes and their values.
pub const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub struct PriorityClassRules;

impl Rules for PriorityClassRules {
    type Object = PriorityClass;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::policy::PRIORITY_CLASS;

    fn default(class: &mut PriorityClass) {
        fill(&mut class.preemption_policy, "PreemptLowerPriority");
        class.value.get_or_insert(0);
    }

    fn validate(class: &PriorityClass, errors: &mut Errors) {
        let name = text(class.metadata.name.as_ref());
        let value = class.value.unwrap_or(0);
        let known = SYSTEM_CLASSES.contains(&(name, value));
        if name.starts_with("system-") && !known {
            let path = Path::root("metadata");
            let detail = "priority class names with 'system-' prefix are reserved for system use only";
            errors.forbidden(&path.child("name"), detail);
        } else if value > HIGHEST_USER_PRIORITY && !known {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            errors.forbidden(&Path::root("value"), &detail);
        }
        let policy = text(class.preemption_policy.as_ref());
        one_of(errors, &Path::root("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass, errors: &mut Errors) {
        if new.value != old.value {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        let policy = Path::root("preemptionPolicy");
        immutable(errors, &policy, &new.preemption_policy, &old.preemption_policy);
    }

    fn cells(class: &PriorityClass, now: Timestamp) -> Vec<Value> {
        columns::policy::priority_class(class, now)
    }
}

pub struct RuntimeClassRules;

impl Rules for RuntimeClassRules {
    type Object = RuntimeClass;
    const COLUMNS: &'static [Column] = columns::cluster::HANDLER;

    fn validate(class: &RuntimeClass, errors: &mut Errors) {
        check(errors, &Path::root("handler"), &class.handler, names::dns1123_label(&class.handler));
        if let Some(overhead) = &class.overhead {
            resources::list(errors, &Path::root("overhead").child("podFixed"), overhead.pod_fixed.as_ref());
        }
        if let Some(scheduling) = &class.scheduling {
            let path = &Path::root("scheduling");
            labels::labels(errors, &path.child("nodeSelector"), scheduling.node_selector.as_ref());
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            pod::tolerations(errors, &path.child("tolerations"), tolerations);
        }
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass, errors: &mut Errors) {
        immutable(errors, &Path::root("handler"), &new.handler, &old.handler);
        Self::validate(new, errors);
    }

    fn cells(class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        columns::core::name_text_age(&class.metadata, &class.handler, now)
    }
}

pub struct LeaseRules;

impl Rules for LeaseRules {
    type Object = Lease;
    const CREATE_ON_UPDATE: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    const COLUMNS: &'static [Column] = columns::core::LEASE;

    fn validate(lease: &Lease, errors: &mut Errors) {
        let Some(spec) = &lease.spec else { return };
        let path = &Path::root("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        non_negative(errors, &path.child("leaseTransitions"), spec.lease_transitions.unwrap_or(0));
        if spec.preferred_holder.is_some() && text(spec.strategy.as_ref()).is_empty() {
            let detail = "must be specified when `preferredHolder` is set";
            errors.required(&path.child("strategy"), detail);
        }
    }

    fn cells(lease: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = lease.spec.as_ref().map(|spec| text(spec.holder_identity.as_ref())).unwrap_or_default();
        columns::core::name_text_age(&lease.metadata, holder, now)
    }
}
