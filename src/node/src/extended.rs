//! Resources that somebody announced for this node by writing its `status.capacity`: the node makes them allocatable,
//! and takes back what is no longer announced. Pure; called by `node_status`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What `status.allocatable` lacks of the announced resources; `None`: to be removed.
pub(crate) fn missing(stored: &NodeStatus) -> BTreeMap<String, Option<Quantity>> {
    let announced = stored.capacity.iter().flatten().filter(|(name, _)| is_extended(name));
    let allocatable = |name: &String| stored.allocatable.as_ref().and_then(|all| all.get(name));
    let mut changes: BTreeMap<_, _> = announced
        .filter(|(name, amount)| allocatable(name) != Some(*amount))
        .map(|(name, amount)| (name.clone(), Some(amount.clone())))
        .collect();
    let capacity = |name: &String| stored.capacity.as_ref().is_some_and(|all| all.contains_key(name));
    let gone = stored.allocatable.iter().flatten().map(|(name, _)| name);
    changes.extend(gone.filter(|name| is_extended(name) && !capacity(name)).map(|name| (name.clone(), None)));
    changes
}

/// In a vendor's domain.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn changes(capacity: Value, allocatable: Value) -> Value {
        let stored = serde_json::from_value(json!({"capacity": capacity, "allocatable": allocatable})).unwrap();
        json!(missing(&stored))
    }

    #[test]
    fn announced_resources_become_allocatable_and_go_again() {
        assert_eq!(
            changes(json!({"cpu": "2", "example.com/a": "4"}), json!({"cpu": "1"})),
            json!({"example.com/a": "4"})
        );
        assert_eq!(changes(json!({"example.com/a": "4"}), json!({"example.com/a": "4"})), json!({}));
        assert_eq!(
            changes(json!({"example.com/a": "5"}), json!({"example.com/a": "4", "example.com/b": "1"})),
            json!({"example.com/a": "5", "example.com/b": null})
        );
        assert_eq!(changes(json!({}), json!({"cpu": "1", "x.kubernetes.io/y": "1"})), json!({}));
    }
}
