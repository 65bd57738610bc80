//! Nodes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::strategy::typed::{Rules, StatusPolicy};
use crate::strategy::{Absent, Part, SelectableField};
use crate::validation::{check, labels, pod, resources, shown, text};
use crate::{field, names};

const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: Absent::Text("") },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: Absent::Text("") },
    SelectableField { label: "spec.unschedulable", path: &["spec", "unschedulable"], absent: Absent::Text("false") },
];

pub struct NodeRules;

impl Rules for NodeRules {
    type Object = Node;
    const STATUS: StatusPolicy = StatusPolicy::SetOnCreate;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::core::NODE;

    fn default(node: &mut Node) {
        let spec = node.spec.get_or_insert_default();
        // The two spellings of the pod network are one.
        match (&spec.pod_cidr, spec.pod_cidrs.as_ref().and_then(|all| all.first())) {
            (Some(one), None) if !one.is_empty() => spec.pod_cidrs = Some(vec![one.clone()]),
            (None, Some(first)) => spec.pod_cidr = Some(first.clone()),
            _ => {}
        }
        let status = node.status.get_or_insert_default();
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn validate(node: &Node, errors: &mut Errors) {
        let default = NodeSpec::default();
        let spec = node.spec.as_ref().unwrap_or(&default);
        taints(errors, spec.taints.as_deref().unwrap_or_default());
        amounts(errors, node);
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        let path = Path::root("spec");
        let path = path.child("podCIDRs");
        for (n, cidr) in cidrs.iter().enumerate() {
            check(errors, &path.index(n), cidr, names::cidr(cidr));
            if cidrs[..n].contains(cidr) {
                errors.duplicate(&path.index(n), cidr);
            }
        }
        if cidrs.len() > 1 && (cidrs.len() > 2 || cidrs.iter().filter(|cidr| cidr.contains(':')).count() != 1) {
            errors.invalid(&path, shown(&cidrs), "may specify no more than one CIDR for each IP family");
        }
    }

    fn validate_update(new: &Node, old: &Node, errors: &mut Errors) {
        Self::validate(new, errors);
        let default = NodeSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&default), old.spec.as_ref().unwrap_or(&default));
        let path = Path::root("spec");
        if before.pod_cidrs.as_ref().is_some_and(|all| !all.is_empty()) && spec.pod_cidrs != before.pod_cidrs {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), detail);
        }
        let provider = text(before.provider_id.as_ref());
        if !provider.is_empty() && text(spec.provider_id.as_ref()) != provider {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&path.child("providerID"), detail);
        }
    }

    fn validate_part(_part: Part, new: &Node, _old: &Node, errors: &mut Errors) {
        amounts(errors, new);
        let path = Path::root("status");
        let path = path.child("addresses");
        let default = NodeStatus::default();
        let addresses = new.status.as_ref().unwrap_or(&default).addresses.as_deref().unwrap_or_default();
        for (n, address) in addresses.iter().enumerate().filter(|(n, address)| addresses[..*n].contains(address)) {
            errors.duplicate(&path.index(n), field::BadValue::json(address));
        }
    }

    fn cells(node: &Node, now: Timestamp) -> Vec<Value> {
        columns::core::node(node, now)
    }
}

fn taints(errors: &mut Errors, taints: &[Taint]) {
    let path = Path::root("metadata");
    let path = path.child("taints");
    for (n, taint) in taints.iter().enumerate() {
        let path = path.index(n);
        labels::name(errors, &path.child("key"), &taint.key);
        let value = text(taint.value.as_ref());
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&path.child("value"), value, &messages.join(";"));
        }
        pod::taint_effect(errors, &path.child("effect"), &taint.effect);
        if taints[..n].iter().any(|other| other.key == taint.key && other.effect == taint.effect) {
            errors.duplicate(&path, field::BadValue::json(taint));
        }
    }
}

fn amounts(errors: &mut Errors, node: &Node) {
    let Some(status) = &node.status else { return };
    let path = Path::root("status");
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = path.child(field);
        for (name, amount) in amounts.iter().flatten() {
            resources::amount(errors, &path.child(name), name, amount);
        }
    }
}
