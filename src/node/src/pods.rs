//! The pods of this node: every change of a pod and every event of the runtime goes to the worker of that pod.
//!
//! One worker task per pod UID does everything for it in order (`worker`, `start`, `stop`); a pod that comes back
//! under the same name is another pod. What the runtime holds of pods the API does not know is cleared at the start.

pub(crate) mod admit;
pub(crate) mod cleanup;
mod handler;
mod hooks;
mod observe;
mod report;
mod resize;
mod sandbox;
mod start;
mod stop;
mod worker;
pub(crate) mod workers;

use std::sync::Arc;

use client::persist::persist;
use client::{Change, EventType};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use runtime::Event;
use tokio::sync::broadcast::error::RecvError;

use crate::context::Context;
use crate::status::phase;

/// Dispatches for ever.
pub(crate) fn task(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let context = context.clone();
    Box::pin(run(context))
}

async fn run(context: Arc<Context>) {
    let mut events = context.runtime.events();
    context.pods.synced().await;
    context.node.synced().await;
    context.services.synced().await;
    cleanup::orphans(&context).await;
    let mut changes = context.pods.subscribe();
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(change) => {
                    let more = std::iter::from_fn(|| changes.try_next());
                    let known = ends_first(std::iter::once(change).chain(more).collect());
                    known.iter().for_each(|change| dispatch(&context, change));
                }
                None => return,
            },
            event = events.recv() => match event {
                Ok(Event::ContainerStarted { pod, .. }) => context.workers.wake(pod.as_str()),
                Ok(Event::ContainerExited { pod, .. }) => context.workers.wake(pod.as_str()),
                Ok(Event::PodGone { pod, reason }) => {
                    tell_of_loss(&context, pod.as_str(), &reason);
                    context.workers.wake(pod.as_str());
                }
                Ok(Event::Resync) | Err(RecvError::Lagged(_)) => context.workers.wake_all(),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// What is known by now, deletions first: a pod may have been put here only because another one has gone.
fn ends_first(mut changes: Vec<Change<Pod>>) -> Vec<Change<Pod>> {
    changes.sort_by_key(|change| !matches!(change, Change::Deleted(_)));
    changes
}

fn dispatch(context: &Arc<Context>, change: &Change<Pod>) {
    let pod = change.object();
    if !context.is_mine(pod) {
        return;
    }
    let Some(uid) = pod.metadata.uid.as_deref() else { return };
    if matches!(change, Change::Deleted(_)) {
        // The scheduler has given its room away already, even while its containers still end.
        context.admission.release(uid);
        context.workers.gone(uid, pod);
    } else if needs_worker(context, pod, uid)
        && let Some((desired, wake)) = context.workers.update(uid, pod)
    {
        let (stop, context, uid) = (context.stop.clone(), context.clone(), uid.to_owned());
        let tasks = context.tasks.clone();
        let run = move || -> BoxFuture<'static, ()> {
            Box::pin(worker::Worker::new(context.clone(), desired.clone(), wake.clone()).run())
        };
        tasks.spawn(Box::pin(async move { stop.run_until_cancelled(persist(&uid, run)).await }));
    }
}

/// Nobody asked for the end of these containers: what the restart policy does next would look like a riddle.
fn tell_of_loss(context: &Context, uid: &str, reason: &str) {
    let pods = context.pods.list();
    let Some(pod) = pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid)) else { return };
    tracing::warn!(namespace = ?pod.metadata.namespace, name = ?pod.metadata.name, reason, "pod lost its sandbox");
    let message = format!("Pod sandbox was lost and its containers were ended: {reason}");
    context.pod_event(pod, EventType::Warning, "SandboxLost", message);
}

/// A finished pod of which nothing is left here needs nobody until it is deleted.
fn needs_worker(context: &Context, pod: &Pod, uid: &str) -> bool {
    let finished = pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(phase::is_final);
    let known = || context.runtime.pod_status(&uid.into()).is_ok() || context.config.pod_root(uid).exists();
    !finished || pod.metadata.deletion_timestamp.is_some() || context.workers.has(uid) || known()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_before_it_is_given_away() {
        let pod = |uid: &str| {
            let metadata = serde_json::json!({"metadata": {"uid": uid}});
            Arc::new(serde_json::from_value::<Pod>(metadata).unwrap())
        };
        let bound = Change::Modified { old: pod("new"), new: pod("new") };
        let changes = ends_first(vec![bound, Change::Deleted(pod("old")), Change::Added(pod("same-name"))]);
        let order: Vec<_> = changes.iter().map(|change| change.object().metadata.uid.as_deref().unwrap()).collect();
        assert_eq!(order, ["old", "new", "same-name"]);
    }
}
