//! What a stateful set's status says of its pods. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSetStatus;
use k8s_openapi::api::core::v1::Pod;

use super::identity::replicas;
use super::plan::{View, is_running_and_ready, min_ready, revision_of, strategy};
use crate::pods;

/// The status, and when the next ready pod becomes available.
pub(super) fn status(view: &View<'_>, collisions: Option<i32>) -> (StatefulSetStatus, Option<Duration>) {
    let set = view.set;
    let old = set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        replicas: 0,
        ready_replicas: Some(0),
        available_replicas: Some(0),
        current_replicas: Some(0),
        updated_replicas: Some(0),
        current_revision: Some(view.current.name.clone()),
        update_revision: Some(view.update.name.clone()),
        collision_count: Some(collisions.unwrap_or(0)),
        observed_generation: set.metadata.generation,
        conditions: old.conditions,
    };
    let condemned = view.condemned.iter().map(|(_, pod)| pod);
    let all: Vec<&Arc<Pod>> = view.wanted.iter().filter_map(|(_, pod)| pod.as_ref()).chain(condemned).collect();
    let mut next = None;
    for pod in all {
        status.replicas += 1;
        if is_running_and_ready(pod) {
            bump(&mut status.ready_replicas);
            match pods::available_in(pod, min_ready(set), view.now) {
                None => bump(&mut status.available_replicas),
                Some(left) => next = Some(next.map_or(left, |next: Duration| next.min(left))),
            }
        }
        if !pods::is_terminating(pod) {
            if revision_of(pod) == view.current.name {
                bump(&mut status.current_replicas);
            }
            if revision_of(pod) == view.update.name {
                bump(&mut status.updated_replicas);
            }
        }
    }
    complete(view, &mut status);
    (status, next)
}

fn bump(count: &mut Option<i32>) {
    *count.get_or_insert(0) += 1;
}

/// A rolling update that is through makes the new revision the current one.
fn complete(view: &View<'_>, status: &mut StatefulSetStatus) {
    let wanted = replicas(view.set);
    let through = status.replicas == wanted
        && status.ready_replicas == Some(wanted)
        && status.updated_replicas == Some(wanted)
        && strategy(view.set) == "RollingUpdate";
    if through {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;

    use super::super::fixture::{of_revision, set};
    use super::super::plan::Version;
    use super::*;
    use crate::pods::fixture::at;

    fn told(replicas: i32, pods: Vec<Pod>) -> StatefulSetStatus {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let version = |name: &str| Version { name: name.into(), template: PodTemplateSpec::default() };
        let (set, current, update) = (set(replicas), version("old"), version("new"));
        status(&View::new(&set, (&current, &update), &pods, at(100)), None).0
    }

    #[test]
    fn the_new_revision_becomes_the_current_one_when_every_pod_has_it() {
        let midway = told(2, vec![of_revision("db-0", "old", true), of_revision("db-1", "new", true)]);
        assert_eq!((midway.current_replicas, midway.updated_replicas), (Some(1), Some(1)));
        assert_eq!(midway.current_revision.as_deref(), Some("old"));
        let done = told(2, vec![of_revision("db-0", "new", true), of_revision("db-1", "new", true)]);
        assert_eq!((done.current_replicas, done.current_revision.as_deref()), (Some(2), Some("new")));
        let unready = told(2, vec![of_revision("db-0", "new", true), of_revision("db-1", "new", false)]);
        assert_eq!((unready.ready_replicas, unready.current_revision.as_deref()), (Some(1), Some("old")));
    }
}
