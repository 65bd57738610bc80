//! What a deployment's status says: counts, and the conditions Available, Progressing and ReplicaFailure. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rollout::Sets;
use super::view;
use crate::conditions;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

pub(super) fn condition(type_: &str, status: &str, reason: &str, message: impl Into<String>) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_transition_time: None,
        last_update_time: None,
    }
}

/// Puts a condition in unless one with the same status and reason is there.
pub(super) fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition, now: Timestamp) {
    let old = conditions::find(conditions, &new.type_);
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return;
    }
    let kept = old.filter(|old| old.status == new.status).and_then(|old| old.last_transition_time.clone());
    new.last_transition_time = Some(kept.unwrap_or(Time(now)));
    new.last_update_time = Some(Time(now));
    conditions::remove(conditions, &new.type_);
    conditions.push(new);
}

fn sum<'a>(sets: impl Iterator<Item = &'a ReplicaSet>, field: impl Fn(&ReplicaSetStatus) -> i32) -> i32 {
    sets.filter_map(|set| set.status.as_ref()).map(field).sum()
}

/// Counts and availability. Progress is added by [`progress`].
pub(super) fn calculate(
    deployment: &Deployment,
    conditions: &[DeploymentCondition],
    sets: &Sets,
    now: Timestamp,
) -> DeploymentStatus {
    let available = sets.all().map(view::available).sum::<i32>();
    let unavailable = (view::total_replicas(sets.all()) - available).max(0);
    let mut conditions = conditions.to_vec();
    let enough = available >= view::replicas(deployment) - view::max_unavailable(deployment);
    let verdict = if enough {
        condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        condition(AVAILABLE, "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut conditions, verdict, now);
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    let old = deployment.status.as_ref();
    DeploymentStatus {
        replicas: some(sum(sets.all(), |s| s.replicas)),
        updated_replicas: some(sum(sets.new.iter(), |s| s.replicas)),
        ready_replicas: some(sum(sets.all(), |s| s.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        terminating_replicas: Some(sum(sets.all(), |s| s.terminating_replicas.unwrap_or(0))),
        observed_generation: deployment.metadata.generation,
        collision_count: old.and_then(|s| s.collision_count),
        conditions: Some(conditions),
    }
}

pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = view::replicas(deployment);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
}

fn has_moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn time_left(current: &DeploymentCondition, deadline: i32, now: Timestamp) -> SignedDuration {
    let from = current.last_update_time.as_ref().or(current.last_transition_time.as_ref()).map_or(now, |t| t.0);
    SignedDuration::from_secs(i64::from(deadline)) - now.duration_since(from)
}

fn subject(deployment: &Deployment, sets: &Sets) -> String {
    match &sets.new {
        Some(set) => format!("ReplicaSet \"{}\"", view::name(set)),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    }
}

/// Judges the rollout's progress, and returns when to judge again.
pub(super) fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    sets: &Sets,
    now: Timestamp,
) -> Option<Duration> {
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    let complete = is_complete(deployment, status);
    let deadline = view::deadline(deployment);
    let current = conditions::find(&conditions, PROGRESSING).cloned();
    let was_complete = current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(COMPLETE))
        && status.replicas == status.updated_replicas;
    if let Some(deadline) = deadline
        && !was_complete
    {
        let name = subject(deployment, sets);
        if complete {
            let message = format!("{name} has successfully progressed.");
            set(&mut conditions, condition(PROGRESSING, "True", COMPLETE, message), now);
        } else if has_moved(&old, status) {
            let message = format!("{name} is progressing.");
            let mut moved = condition(PROGRESSING, "True", "ReplicaSetUpdated", message);
            let kept = current.as_ref().filter(|c| c.status == "True").and_then(|c| c.last_transition_time.clone());
            moved.last_transition_time = Some(kept.unwrap_or(Time(now)));
            moved.last_update_time = Some(Time(now));
            conditions::remove(&mut conditions, PROGRESSING);
            conditions.push(moved);
        } else if current.as_ref().is_some_and(|c| is_timed_out(c, deadline, now)) {
            let message = format!("{name} has timed out progressing.");
            set(&mut conditions, condition(PROGRESSING, "False", TIMED_OUT, message), now);
        }
    } else if deadline.is_none() {
        conditions::remove(&mut conditions, PROGRESSING);
    }
    copy_failure(&mut conditions, sets, now);
    let again = deadline.and_then(|deadline| {
        let current = conditions::find(&conditions, PROGRESSING)?;
        let over = complete || matches!(current.reason.as_deref(), Some(COMPLETE | TIMED_OUT));
        let left = time_left(current, deadline, now) + SignedDuration::from_secs(1);
        (!over).then(|| Duration::try_from(left).unwrap_or(Duration::from_secs(1)))
    });
    status.conditions = Some(conditions);
    again
}

fn is_timed_out(current: &DeploymentCondition, deadline: i32, now: Timestamp) -> bool {
    match current.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => time_left(current, deadline, now).is_negative(),
    }
}

/// A replica set that cannot make its pods shows in the deployment.
fn copy_failure(conditions: &mut Vec<DeploymentCondition>, sets: &Sets, now: Timestamp) {
    let failure =
        sets.all().find_map(|set| conditions::find(set.status.as_ref()?.conditions.as_deref()?, FAILURE).cloned());
    conditions::remove(conditions, FAILURE);
    if let Some(failure) = failure {
        let (reason, message) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
        let mut copied = condition(FAILURE, &failure.status, &reason, message);
        copied.last_transition_time = failure.last_transition_time.clone();
        copied.last_update_time = Some(failure.last_transition_time.unwrap_or(Time(now)));
        conditions.push(copied);
    }
}

/// Notes that a rollout was paused or resumed, so that the deadline does not run meanwhile.
pub(super) fn note_pause(deployment: &Deployment, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let reason = conditions::find(conditions, PROGRESSING).and_then(|c| c.reason.clone());
    if view::deadline(deployment).is_none() || reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let noted = reason.as_deref() == Some("DeploymentPaused");
    match (view::is_paused(deployment), noted) {
        (true, false) => {
            set(conditions, condition(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused"), now);
        }
        (false, true) => {
            set(conditions, condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed"), now);
        }
        _ => {}
    }
}

/// Notes that the deployment's present replica set was made, or was found.
pub(super) fn note_new_set(conditions: &mut Vec<DeploymentCondition>, set_name: &str, created: bool, now: Timestamp) {
    if created {
        let message = format!("Created new replica set \"{set_name}\"");
        set(conditions, condition(PROGRESSING, "True", "NewReplicaSetCreated", message), now);
    } else if conditions::find(conditions, PROGRESSING).is_none() {
        let message = format!("Found new replica set \"{set_name}\"");
        set(conditions, condition(PROGRESSING, "True", "FoundNewReplicaSet", message), now);
    }
}
