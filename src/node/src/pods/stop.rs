//! Ends containers and pods: preStop, signal, grace, kill; then the final status and the clearing up. Part of the
//! worker.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::ContainerId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::worker::Worker;
use super::{cleanup, hooks};
use crate::context::Context;
use crate::network::chain;
use crate::plan::actions::{Kill, KillCause};
use crate::plan::view::ContainerView;
use crate::spec::{self, Role, container as container_spec};
use crate::status;

/// What a container gets after its preStop hook took all of the grace period.
const LAST_MOMENTS: Duration = Duration::from_secs(2);
const SIGKILL: i32 = 9;

/// One container to be ended.
struct Ending {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: ContainerId,
    pod_ip: Option<String>,
    /// For the event.
    message: String,
    reason: &'static str,
}

impl Ending {
    /// Ends it by `deadline`, which may be moved nearer meanwhile.
    async fn run(self, mut deadline: watch::Receiver<Instant>) {
        let Ending { context, pod, container, id, .. } = &self;
        context.container_event(pod, &container.name, EventType::Normal, self.reason, self.message.clone());
        self.pre_stop(&deadline).await;
        let grace = deadline.borrow_and_update().saturating_duration_since(Instant::now()).max(LAST_MOMENTS);
        let signal = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).and_then(signal_number);
        let stop = context.runtime.stop_container(id, signal, grace);
        tokio::pin!(stop);
        let result = tokio::select! {
            result = &mut stop => result,
            () = shortened(deadline) => {
                if let Err(error) = context.runtime.kill(id, SIGKILL).await {
                    tracing::debug!(container = %id, error = %chain(&error), "cannot kill a container early");
                }
                stop.await
            }
        };
        if let Err(error) = result {
            tracing::warn!(container = %id, error = %chain(&error), "container did not stop");
        }
    }
}

impl Ending {
    async fn pre_stop(&self, deadline: &watch::Receiver<Instant>) {
        let Ending { context, pod, container, id, .. } = self;
        let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        let Some(hook) = hook.filter(|_| *deadline.borrow() > Instant::now()) else { return };
        let ran = hooks::run(context, container, id, hook, self.pod_ip.as_deref());
        let result = tokio::select! {
            result = ran => result.map_err(|error| chain(&error)),
            () = passed(deadline.clone()) => Err("it took longer than the grace period".to_owned()),
        };
        if let Err(error) = result {
            let text = format!("PreStopHook failed: {error}");
            context.container_event(pod, &container.name, EventType::Warning, "FailedPreStopHook", text);
        }
    }
}

/// Resolves when the deadline, wherever it moves to, has passed.
async fn passed(mut deadline: watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = deadline.changed() => if changed.is_err() {
                tokio::time::sleep_until(at).await;
                return;
            },
        }
    }
}

/// Resolves when the deadline was moved and has passed.
async fn shortened(mut deadline: watch::Receiver<Instant>) {
    if deadline.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    passed(deadline).await;
}

/// `SIGTERM` → 15, and the real-time ones as `SIGRTMIN+3`.
fn signal_number(name: &str) -> Option<i32> {
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        let offset = if offset.is_empty() { Some(0) } else { offset.trim_start_matches('+').parse().ok() };
        return offset.filter(|offset| (0..=30).contains(offset)).map(|offset: i32| 34 + offset);
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

impl Worker {
    fn ending_of(
        &self,
        pod: &Arc<Pod>,
        container: Container,
        id: &str,
        reason: &'static str,
        message: String,
    ) -> Ending {
        Ending {
            context: self.context.clone(),
            pod: pod.clone(),
            container,
            id: ContainerId::new(id),
            pod_ip: self.memory.pod_ips.first().cloned(),
            message,
            reason,
        }
    }

    /// Ends one container of a pod that goes on.
    pub(super) async fn kill(&mut self, pod: &Arc<Pod>, kill: &Kill) {
        let Some((_, container)) = spec::find(pod, &kill.name) else { return };
        let container = container.into_owned();
        let probe = match kill.cause {
            KillCause::Startup => container.startup_probe.as_ref(),
            KillCause::Liveness => container.liveness_probe.as_ref(),
            KillCause::Changed => None,
        };
        let own = probe.and_then(|p| p.termination_grace_period_seconds);
        let grace = own.unwrap_or_else(|| container_spec::grace_seconds(pod));
        let grace = grace.clamp(1, container_spec::LONGEST_GRACE).unsigned_abs();
        let ending = self.ending_of(pod, container, &kill.id, "Killing", kill.message.clone());
        let (sender, deadline) = watch::channel(Instant::now() + Duration::from_secs(grace));
        // The pod's own end may come while this container takes its time.
        let mut desired = self.desired.clone();
        let run = ending.run(deadline);
        tokio::pin!(run);
        loop {
            tokio::select! {
                () = &mut run => return,
                Ok(()) = desired.changed() => {
                    let now = desired.borrow_and_update().clone();
                    if now.pod.metadata.deletion_timestamp.is_some() {
                        shorten(&sender, Instant::now() + pod_grace(&now.pod, now.gone));
                    }
                }
            }
        }
    }

    /// Ends the pod: its containers, its surroundings, and, when it was deleted, its object.
    pub(super) async fn terminate(mut self) {
        let pod = self.pod();
        self.probes.end_restarts();
        self.stop_all(&pod).await;
        let pod = self.pod();
        self.finish_status(&pod);
        self.context.admission.release(&self.uid);
        self.dismantle().await;
        let mut known = tokio::select! {
            known = self.reporter.flush() => known,
            () = gone(self.desired.clone()) => false,
        };
        if known {
            known = self.await_deletion().await;
        }
        cleanup::remove(&self.context, &self.uid, Some(&pod)).await;
        if known {
            cleanup::delete_object(&self.context, &pod).await;
        }
        self.context.puller.forget(&self.uid);
        self.context.workers.remove(&self.uid);
        tracing::debug!(uid = %self.uid, "pod is gone");
    }

    async fn stop_all(&mut self, pod: &Arc<Pod>) {
        let view = self.view();
        let started = Instant::now();
        let grace = self.total_grace(pod);
        let (sender, deadline) = watch::channel(started + grace);
        let alive = |c: &&ContainerView| c.is_running() || c.state == crate::plan::view::State::Created;
        let (mut together, mut in_turn) = (Vec::new(), Vec::new());
        for running in view.containers.iter().filter(alive) {
            let found = spec::find(pod, &running.name);
            let sidecar = matches!(found, Some((Role::Sidecar, _)));
            let container = found.map(|(_, c)| c.into_owned()).unwrap_or_default();
            let message = format!("Stopping container {}", running.name);
            let ending = self.ending_of(pod, container, &running.id, "Killing", message);
            if sidecar { in_turn.push((running.name.clone(), ending)) } else { together.push(ending) }
        }
        // Sidecars outlive what they serve, and end in the reverse of the order they came in.
        let order: Vec<String> = spec::containers(pod).iter().map(|(_, c)| c.name.clone()).collect();
        in_turn.sort_by_key(|(name, _)| std::cmp::Reverse(order.iter().position(|o| o == name)));
        let work = async {
            join_all(together.into_iter().map(|ending| ending.run(deadline.clone()))).await;
            for (_, ending) in in_turn {
                ending.run(deadline.clone()).await;
            }
        };
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                Ok(()) = self.desired.changed() => {
                    let now = self.desired.borrow_and_update().clone();
                    shorten(&sender, started + pod_grace(&now.pod, now.gone));
                }
            }
        }
    }

    fn total_grace(&self, pod: &Pod) -> Duration {
        let evicted = self.memory.verdict.as_ref().is_some_and(|v| v.reason == "Evicted");
        if evicted { Duration::from_secs(1) } else { pod_grace(pod, self.desired.borrow().gone) }
    }

    fn finish_status(&mut self, pod: &Arc<Pod>) {
        let view = self.view();
        self.memory.probes.clear();
        let status = status::compute(pod, &view, &self.memory, &self.host_ips(), true, Timestamp::now());
        self.publish(pod, status);
    }

    /// Gives back namespaces, address, volumes and what containers wrote; their records and logs stay.
    async fn dismantle(&mut self) {
        let id = self.pod_id();
        let view = self.view();
        if Self::has_sandbox(&view)
            && let Err(error) = self.context.runtime.stop_pod(&id).await
        {
            tracing::warn!(uid = %self.uid, error = %chain(&error), "pod did not stop cleanly");
        }
        if let Err(error) = self.context.net.detach(&self.uid).await {
            tracing::warn!(uid = %self.uid, error = %chain(&error), "pod did not leave the network");
        }
        self.volumes_ready = false;
        cleanup::clear_volumes(&self.context, &self.uid);
        cleanup::shed_files(&self.context, &id).await;
    }

    /// A finished pod stays until somebody deletes it; false when the API has forgotten it.
    async fn await_deletion(&mut self) -> bool {
        let waited = self.desired.wait_for(|d| d.gone || d.pod.metadata.deletion_timestamp.is_some()).await;
        let known = waited.map(|desired| !desired.gone);
        match known {
            Ok(known) => known,
            Err(_) => std::future::pending().await,
        }
    }
}

async fn gone(mut desired: watch::Receiver<super::workers::Desired>) {
    if desired.wait_for(|d| d.gone).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn shorten(deadline: &watch::Sender<Instant>, to: Instant) {
    deadline.send_if_modified(|at| {
        let nearer = to < *at;
        if nearer {
            *at = to;
        }
        nearer
    });
}

/// The pod's grace period, a second at the least: every process may see its signal.
fn pod_grace(pod: &Pod, gone: bool) -> Duration {
    let seconds = container_spec::grace_seconds(pod).max(1).unsigned_abs();
    let forced = gone && pod.metadata.deletion_grace_period_seconds == Some(0);
    Duration::from_secs(if forced { 1 } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers() {
        assert_eq!(signal_number("SIGTERM"), Some(15));
        assert_eq!(signal_number("SIGUSR1"), Some(10));
        assert_eq!(signal_number("SIGRTMIN+3"), Some(37));
        assert_eq!(signal_number("SIGRTMIN"), Some(34));
        for nonsense in ["NONSENSE", "SIGRTMIN+2147483647", "SIGRTMIN-40", "SIGRTMINX"] {
            assert_eq!(signal_number(nonsense), None, "{nonsense}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortened_deadline_is_met_at_its_new_time() {
        let began = Instant::now();
        let (sender, receiver) = watch::channel(began + Duration::from_secs(30));
        let waiting = tokio::spawn(shortened(receiver));
        tokio::task::yield_now().await;
        shorten(&sender, began + Duration::from_secs(5));
        shorten(&sender, began + Duration::from_secs(20));
        waiting.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 5);
    }
}
