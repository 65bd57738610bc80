//! Which pods of a stateful set to create, delete or repair next. Ordered sets take one step at a time and only from
//! a state in which every pod before is healthy; parallel sets take all steps at once; updates go from the highest
//! ordinal down. Pure: the time is a parameter.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::identity::{self, first_ordinal, replicas};
use crate::intstr::{Round, resolve};
use crate::{pods, revisions};

/// One revision: the name of its object and its template.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The claims first, then the pod.
    Create {
        ordinal: i32,
        pod: Box<Pod>,
    },
    /// The pod has ended; a new one follows when it is gone.
    Replace(Arc<Pod>),
    ScaleDown {
        ordinal: i32,
        pod: Arc<Pod>,
    },
    /// It is of another revision.
    Update(Arc<Pod>),
    /// The pod as it is to be: its labels were changed.
    Repair(Box<Pod>),
    /// The pod waits to be scheduled; it may be for want of claims that were deleted.
    Claims {
        ordinal: i32,
        pod: Arc<Pod>,
    },
}

pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) current: &'a Version,
    pub(super) update: &'a Version,
    /// Pods by ordinal, within the wanted range.
    pub(super) wanted: Vec<(i32, Option<Arc<Pod>>)>,
    /// Pods beyond it, the highest ordinal first.
    pub(super) condemned: Vec<(i32, Arc<Pod>)>,
    pub(super) now: Timestamp,
}

pub(super) fn revision_of(pod: &Pod) -> &str {
    pods::label(pod, revisions::HASH).unwrap_or_default()
}

pub(super) fn min_ready(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

pub(super) fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

pub(super) fn strategy(set: &StatefulSet) -> &str {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.type_.as_deref());
    strategy.filter(|type_| !type_.is_empty()).unwrap_or("RollingUpdate")
}

/// Pods below this position are not updated.
fn partition(set: &StatefulSet) -> i32 {
    let rolling = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.partition).unwrap_or(0)
}

fn max_unavailable(set: &StatefulSet) -> i32 {
    let rolling = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref());
    let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    most.map_or(1, |most| resolve(most, replicas(set), Round::Down)).max(1)
}

fn is_ordered(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) != Some("Parallel")
}

impl<'a> View<'a> {
    pub(super) fn new(
        set: &'a StatefulSet,
        (current, update): (&'a Version, &'a Version),
        all: &[Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let range = first_ordinal(set)..first_ordinal(set).saturating_add(replicas(set));
        let mut wanted: Vec<(i32, Option<Arc<Pod>>)> = range.clone().map(|ordinal| (ordinal, None)).collect();
        let mut condemned = Vec::new();
        for pod in all {
            let Some(ordinal) = identity::ordinal(set, pods::name(pod)) else { continue };
            let place = ordinal.checked_sub(range.start).and_then(|at| usize::try_from(at).ok());
            match place.and_then(|at| wanted.get_mut(at)) {
                Some(place) => place.1 = Some(pod.clone()),
                None => condemned.push((ordinal, pod.clone())),
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        Self { set, current, update, wanted, condemned, now }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && pods::is_available(pod, min_ready(self.set), self.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !pods::is_terminating(pod)
    }

    /// What comes next. Nothing for a set that is being deleted.
    pub(super) fn steps(&self) -> Vec<Step> {
        if self.set.metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        let ordered = is_ordered(self.set);
        let mut steps = Vec::new();
        for (ordinal, pod) in &self.wanted {
            if self.fill(*ordinal, pod.as_ref(), ordered, &mut steps) {
                return steps;
            }
        }
        if self.shrink(ordered, &mut steps) || strategy(self.set) == "OnDelete" {
            return steps;
        }
        self.update(&mut steps);
        steps
    }

    /// Brings one wanted pod about. True if nothing may follow yet.
    fn fill(&self, ordinal: i32, pod: Option<&Arc<Pod>>, ordered: bool, steps: &mut Vec<Step>) -> bool {
        let Some(pod) = pod else {
            let version = self.version_for(ordinal);
            let pod = identity::pod(self.set, &version.template, &version.name, ordinal);
            steps.push(Step::Create { ordinal, pod: Box::new(pod) });
            return ordered;
        };
        let terminating = pods::is_terminating(pod);
        if pods::is_terminal(pod) {
            if !terminating {
                steps.push(Step::Replace(pod.clone()));
            }
            return ordered;
        }
        if pods::phase(pod) == "Pending" && !terminating {
            steps.push(Step::Claims { ordinal, pod: pod.clone() });
        }
        if ordered && (terminating || !self.is_available(pod)) {
            return true;
        }
        let mut repaired = (**pod).clone();
        if !terminating && identity::give_identity(self.set, ordinal, &mut repaired) {
            steps.push(Step::Repair(Box::new(repaired)));
        }
        false
    }

    /// New pods below the partition are of the current revision, all others of the new one.
    fn version_for(&self, ordinal: i32) -> &Version {
        let old = strategy(self.set) == "RollingUpdate" && ordinal < first_ordinal(self.set) + partition(self.set);
        if old { self.current } else { self.update }
    }

    /// Deletes what is beyond the wanted number. True if nothing may follow yet.
    fn shrink(&self, ordered: bool, steps: &mut Vec<Step>) -> bool {
        let lowest_unhealthy = self.condemned.iter().rev().find(|(_, pod)| !self.is_healthy(pod)).map(|(o, _)| *o);
        for (ordinal, pod) in &self.condemned {
            if pods::is_terminating(pod) {
                if ordered {
                    return true;
                }
                continue;
            }
            if ordered && !self.is_available(pod) && lowest_unhealthy != Some(*ordinal) {
                return true;
            }
            steps.push(Step::ScaleDown { ordinal: *ordinal, pod: pod.clone() });
            if ordered {
                return true;
            }
        }
        false
    }

    fn update(&self, steps: &mut Vec<Step>) {
        let skip = usize::try_from(partition(self.set)).unwrap_or(0);
        let present = self.wanted.iter().filter_map(|(_, pod)| pod.as_ref());
        let is_old = |pod: &Pod| revision_of(pod) != self.update.name;
        let missing = self.wanted.iter().filter(|(_, pod)| pod.is_none()).count();
        let down = present.filter(|pod| !self.is_healthy(pod)).count() + missing;
        let most = usize::try_from(max_unavailable(self.set)).unwrap_or(1);
        let mut left = most.saturating_sub(down);
        for (_, pod) in self.wanted.iter().skip(skip).rev() {
            let Some(pod) = pod else {
                if most == 1 {
                    return;
                }
                continue;
            };
            let old = is_old(pod) && !pods::is_terminating(pod);
            if most == 1 {
                // One by one from the highest: each has to be healthy before the next goes.
                if old {
                    steps.push(Step::Update(pod.clone()));
                    return;
                }
                if !self.is_healthy(pod) {
                    return;
                }
            } else if old && !self.is_healthy(pod) {
                // It is down already: replacing it costs nothing.
                steps.push(Step::Update(pod.clone()));
            } else if old && left > 0 {
                left -= 1;
                steps.push(Step::Update(pod.clone()));
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
