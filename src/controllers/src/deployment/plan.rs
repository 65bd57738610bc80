//! One step of a deployment: its replica sets in; sizes, annotations, creations, deletions and status out. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::rollout::{self, Sets};
use super::{revision, status, view};

pub(super) struct State<'a> {
    pub(super) deployment: &'a Deployment,
    /// The replica sets it owns.
    pub(super) sets: Vec<ReplicaSet>,
    /// Whether pods of other than the present template still run.
    pub(super) old_pods_running: bool,
    pub(super) now: Timestamp,
}

#[derive(Debug)]
pub(super) struct Plan {
    /// A replica set to be created. It is not among `sets`.
    pub(super) create: Option<ReplicaSet>,
    /// Existing replica sets as they are to be; most are as they were.
    pub(super) sets: Vec<ReplicaSet>,
    /// Names of replica sets beyond the history limit.
    pub(super) delete: Vec<String>,
    /// The revision annotation of the deployment itself.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    pub(super) again: Option<Duration>,
}

/// What becomes of the rollout in this step.
enum Mode {
    StatusOnly,
    /// Follow the size, do not move the rollout.
    Scale,
    Recreate,
    Roll,
}

fn mode(deployment: &Deployment, sets: &Sets) -> Mode {
    if deployment.metadata.deletion_timestamp.is_some() {
        Mode::StatusOnly
    } else if view::is_paused(deployment) || rollout::is_scaling(deployment, sets) {
        Mode::Scale
    } else if view::is_recreate(deployment) {
        Mode::Recreate
    } else {
        Mode::Roll
    }
}

pub(super) fn plan(state: State<'_>) -> Result<Plan, serde_json::Error> {
    let State { deployment, sets, old_pods_running, now } = state;
    let mut sets = split(deployment, sets);
    let highest_old = sets.old.iter().map(view::revision).max().unwrap_or(0);
    let mut conditions = deployment.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mode = mode(deployment, &sets);
    if !matches!(mode, Mode::StatusOnly) {
        status::note_pause(deployment, &mut conditions, now);
        if let Some(new) = &mut sets.new {
            revision::annotate(deployment, new, highest_old, true);
            new.spec.get_or_insert_default().min_ready_seconds =
                deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        }
    }
    let mut create = false;
    let moved = match mode {
        Mode::StatusOnly => false,
        Mode::Scale => {
            rollout::scale(deployment, &mut sets);
            true
        }
        Mode::Recreate => {
            let stopping = rollout::stop_old(deployment, &mut sets) || old_pods_running;
            if !stopping {
                create = ensure_new(deployment, &mut sets, highest_old)?;
            }
            stopping || rollout::grow(deployment, &mut sets)
        }
        Mode::Roll => {
            create = ensure_new(deployment, &mut sets, highest_old)?;
            if create {
                let size = rollout::new_size(deployment, &sets);
                if let Some(new) = &mut sets.new {
                    new.spec.get_or_insert_default().replicas = Some(size);
                }
            }
            create || rollout::roll(deployment, &mut sets)
        }
    };
    if let Some(new) = &sets.new
        && view::deadline(deployment).is_some()
        && matches!(mode, Mode::Roll | Mode::Recreate)
    {
        status::note_new_set(&mut conditions, view::name(new), create, now);
    }
    let mut status = status::calculate(deployment, &conditions, &sets, now);
    let again = match mode {
        Mode::Roll | Mode::Recreate => status::progress(deployment, &mut status, &sets, now),
        Mode::StatusOnly | Mode::Scale => None,
    };
    let tidy = match mode {
        Mode::StatusOnly => false,
        Mode::Scale => view::is_paused(deployment),
        Mode::Roll | Mode::Recreate => !moved && status::is_complete(deployment, &status),
    };
    let delete = if tidy { surplus(deployment, &sets) } else { Vec::new() };
    let revision = sets.new.as_ref().and_then(|set| view::annotation(set, view::REVISION)).map(str::to_owned);
    let (created, existing) = if create { (sets.new.take(), None) } else { (None, sets.new.take()) };
    let sets = existing.into_iter().chain(sets.old).collect();
    Ok(Plan { create: created, sets, delete, revision, status, again })
}

fn split(deployment: &Deployment, mut sets: Vec<ReplicaSet>) -> Sets {
    let new = revision::find_new(deployment, &sets).map(|position| sets.remove(position));
    Sets { new, old: sets }
}

/// Makes the present replica set if there is none. Whether it had to.
fn ensure_new(deployment: &Deployment, sets: &mut Sets, highest_old: i64) -> Result<bool, serde_json::Error> {
    if sets.new.is_some() {
        return Ok(false);
    }
    sets.new = Some(revision::new_set(deployment, highest_old)?);
    Ok(true)
}

/// The oldest idle replica sets beyond the history limit.
fn surplus(deployment: &Deployment, sets: &Sets) -> Vec<String> {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut old: Vec<&ReplicaSet> = sets.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|set| view::revision(set));
    let beyond = old.len().saturating_sub(limit);
    old.truncate(beyond);
    old.retain(|set| is_idle(set));
    old.into_iter().map(|set| view::name(set).to_owned()).collect()
}

fn is_idle(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    view::set_replicas(set) == 0
        && status.is_none_or(|s| s.replicas == 0)
        && set.metadata.generation.unwrap_or(0) <= status.and_then(|s| s.observed_generation).unwrap_or(0)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
