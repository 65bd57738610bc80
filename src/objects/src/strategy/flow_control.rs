//! Flow schemas, priority levels, storage versions, component statuses: kinds that mostly just are.

use jiff::Timestamp;
use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use k8s_openapi::api::core::v1::ComponentStatus;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use serde_json::Value;

use super::typed::{Generation, Rules, StatusPolicy};
use crate::columns::{self, Column};
use crate::defaults::{fill_number, fill_value};
use crate::field::{Errors, Path};
use crate::names::{self, NameRule};
use crate::validation::{one_of, required_one_of};

pub struct FlowSchemaRules;

impl Rules for FlowSchemaRules {
    type Object = FlowSchema;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::policy::FLOW_SCHEMA;

    fn default(schema: &mut FlowSchema) {
        fill_number(&mut schema.spec.get_or_insert_default().matching_precedence, 1000);
    }

    fn validate(schema: &FlowSchema, errors: &mut Errors) {
        let spec = schema.spec.clone().unwrap_or_default();
        let path = &Path::root("spec");
        let precedence = spec.matching_precedence.unwrap_or(0);
        if precedence <= 0 {
            errors.invalid(&path.child("matchingPrecedence"), precedence, "must be a positive value");
        } else if precedence > 10_000 {
            errors.invalid(&path.child("matchingPrecedence"), precedence, "must not be greater than 10000");
        }
        if let Some(method) = &spec.distinguisher_method {
            required_one_of(
                errors,
                &path.child("distinguisherMethod.type"),
                Some(&method.type_),
                &["ByNamespace", "ByUser"],
            );
        }
        if spec.priority_level_configuration.name.is_empty() {
            let detail = "must reference a priority level";
            errors.required(&path.child("priorityLevelConfiguration.name"), detail);
        }
        let rules = path.child("rules");
        for (n, rule) in spec.rules.iter().flatten().enumerate() {
            let path = rules.index(n);
            if rule.subjects.is_empty() {
                errors.required(&path.child("subjects"), "subjects must contain at least one value");
            }
            let nothing = rule.resource_rules.as_ref().is_none_or(Vec::is_empty)
                && rule.non_resource_rules.as_ref().is_none_or(Vec::is_empty);
            if nothing {
                errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
            }
        }
    }

    fn cells(schema: &FlowSchema, now: Timestamp) -> Vec<Value> {
        columns::policy::flow_schema(schema, now)
    }
}

pub struct PriorityLevelRules;

impl Rules for PriorityLevelRules {
    type Object = PriorityLevelConfiguration;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::policy::PRIORITY_LEVEL;

    fn default(level: &mut PriorityLevelConfiguration) {
        let spec = level.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            fill_value(&mut exempt.nominal_concurrency_shares, 0);
            fill_value(&mut exempt.lendable_percent, 0);
        }
        if let Some(limited) = &mut spec.limited {
            fill_value(&mut limited.nominal_concurrency_shares, 30);
            fill_value(&mut limited.lendable_percent, 0);
            let queuing = limited.limit_response.as_mut().and_then(|response| response.queuing.as_mut());
            if let Some(queuing) = queuing {
                fill_number(&mut queuing.hand_size, 8);
                fill_number(&mut queuing.queues, 64);
                fill_number(&mut queuing.queue_length_limit, 50);
            }
        }
    }

    fn validate(level: &PriorityLevelConfiguration, errors: &mut Errors) {
        let spec = level.spec.clone().unwrap_or_default();
        let path = &Path::root("spec");
        one_of(errors, &path.child("type"), &spec.type_, &["Exempt", "Limited"]);
        match (spec.type_.as_str(), &spec.limited) {
            ("Exempt", Some(_)) => {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            ("Limited", None) => errors.required(&path.child("limited"), "must not be empty when type is Limited"),
            ("Limited", Some(limited)) => {
                let response = limited.limit_response.clone().unwrap_or_default();
                let path = path.child("limited.limitResponse");
                one_of(errors, &path.child("type"), &response.type_, &["Queue", "Reject"]);
                if response.type_ == "Queue" && response.queuing.is_none() {
                    errors.required(&path.child("queuing"), "must not be empty if limited type is Queue");
                }
            }
            _ => {}
        }
    }

    fn cells(level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        columns::policy::priority_level(level, now)
    }
}

pub struct StorageVersionRules;

impl Rules for StorageVersionRules {
    type Object = StorageVersion;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const NAMES: NameRule = names::path_segment;
    const COLUMNS: &'static [Column] = columns::cluster::STORAGE_VERSION;

    fn cells(version: &StorageVersion, now: Timestamp) -> Vec<Value> {
        columns::cluster::storage_version(version, now)
    }
}

/// Not stored, but listed as a table.
pub struct ComponentStatusRules;

impl Rules for ComponentStatusRules {
    type Object = ComponentStatus;
    const COLUMNS: &'static [Column] = columns::core::COMPONENT_STATUS;

    fn cells(component: &ComponentStatus, _now: Timestamp) -> Vec<Value> {
        columns::core::component_status(component)
    }
}
