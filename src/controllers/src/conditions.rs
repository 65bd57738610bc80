//! Conditions of any kind of object: set one, keeping its transition time while its status stays.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSetCondition};
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::{NamespaceCondition, NodeCondition, PodCondition, ReplicationControllerCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A condition type of some kind.
pub(crate) trait Conditional: Sized {
    fn type_(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn message(&self) -> &str;
    fn transition(&self) -> Option<Timestamp>;
    fn set_transition(&mut self, at: Timestamp);
}

macro_rules! conditional {
    ($($kind:ty),*) => {$(
        impl Conditional for $kind {
            fn type_(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn reason(&self) -> &str { self.reason.as_deref().unwrap_or_default() }
            fn message(&self) -> &str { self.message.as_deref().unwrap_or_default() }
            fn transition(&self) -> Option<Timestamp> { self.last_transition_time.as_ref().map(|t| t.0) }
            fn set_transition(&mut self, at: Timestamp) { self.last_transition_time = Some(Time(at)); }
        }
    )*};
}

conditional!(
    DeploymentCondition,
    JobCondition,
    NamespaceCondition,
    NodeCondition,
    PodCondition,
    ReplicaSetCondition,
    ReplicationControllerCondition
);

impl Conditional for Condition {
    fn type_(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn reason(&self) -> &str {
        &self.reason
    }
    fn message(&self) -> &str {
        &self.message
    }
    fn transition(&self) -> Option<Timestamp> {
        Some(self.last_transition_time.0)
    }
    fn set_transition(&mut self, at: Timestamp) {
        self.last_transition_time = Time(at);
    }
}

pub(crate) fn find<'a, C: Conditional>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|condition| condition.type_() == type_)
}

pub(crate) fn is_true<C: Conditional>(conditions: &[C], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status() == "True")
}

/// Puts `condition` in, unless one of its type says the same with the same status, reason and message. Returns
/// whether anything changed.
pub(crate) fn set<C: Conditional>(conditions: &mut Vec<C>, mut condition: C, now: Timestamp) -> bool {
    condition.set_transition(now);
    let Some(old) = conditions.iter_mut().find(|old| old.type_() == condition.type_()) else {
        conditions.push(condition);
        return true;
    };
    let same_status = old.status() == condition.status();
    if same_status && old.reason() == condition.reason() && old.message() == condition.message() {
        return false;
    }
    if same_status && let Some(at) = old.transition() {
        condition.set_transition(at);
    }
    *old = condition;
    true
}

pub(crate) fn remove<C: Conditional>(conditions: &mut Vec<C>, type_: &str) {
    conditions.retain(|condition| condition.type_() != type_);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: &str, message: &str) -> PodCondition {
        PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            message: Some(message.into()),
            ..PodCondition::default()
        }
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let (early, late) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, condition("True", "a"), early));
        assert!(!set(&mut conditions, condition("True", "a"), late));
        assert!(set(&mut conditions, condition("True", "b"), late));
        assert_eq!(conditions[0].transition(), Some(early));
        assert!(set(&mut conditions, condition("False", "b"), late));
        assert_eq!(conditions[0].transition(), Some(late));
        assert!(!is_true(&conditions, "Ready"));
    }
}
