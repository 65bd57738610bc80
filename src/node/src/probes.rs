//! Probes of a pod's running containers: one task per probe, whose results wake the pod's worker when they change.
//!
//! Liveness and readiness wait for the startup probe. An adopted container keeps the readiness the API knows of it
//! until its probe says otherwise, so that a restart of rk takes no pod out of its services.

pub(crate) mod action;
mod grpc;
mod http;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Probe};
use runtime::{ContainerId, ContainerState};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::context::Context;
use crate::plan::ProbeState;
use crate::plan::view::{PodView, State};
use crate::spec::{self, Role};
use crate::status::containers::container_id;
use action::Action;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    /// A result after which this instance is not probed again: it has started, or is to be killed.
    fn ends_with(self, settled: bool) -> bool {
        match self {
            Kind::Startup => true,
            Kind::Liveness => !settled,
            Kind::Readiness => false,
        }
    }
}

type States = Arc<Mutex<BTreeMap<String, ProbeState>>>;

/// The probes of one pod.
pub(crate) struct Probes {
    context: Weak<Context>,
    /// By container name, about the instance named in it.
    states: States,
    running: BTreeMap<String, Running>,
    /// What the API said when rk came back, by container id: whether it had started, whether it was ready.
    seeds: BTreeMap<String, (bool, bool)>,
    wake: Arc<Notify>,
}

/// The tasks of one instance.
struct Running {
    _all: DropGuard,
    /// Ends those that may restart the container.
    restarts: CancellationToken,
    started: watch::Sender<bool>,
}

impl Probes {
    pub(crate) fn new(context: &Arc<Context>, wake: Arc<Notify>) -> Probes {
        Probes {
            context: Arc::downgrade(context),
            states: States::default(),
            running: BTreeMap::new(),
            seeds: BTreeMap::new(),
            wake,
        }
    }

    /// Remembers what the API knows of containers that are about to be adopted.
    pub(crate) fn seed(&mut self, status: Option<&PodStatus>) {
        let Some(status) = status else { return };
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        for status in lists.into_iter().flat_map(|l| l.iter().flatten()) {
            if let Some(id) = &status.container_id {
                self.seeds.insert(id.clone(), (status.started == Some(true), status.ready));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ProbeState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts probes of containers that run, ends those of others, and tells the results so far.
    pub(crate) fn sync(&mut self, pod: &Arc<Pod>, view: &PodView, ip: Option<&str>) -> BTreeMap<String, ProbeState> {
        let alive: Vec<_> = view.containers.iter().filter(|c| c.is_running()).collect();
        self.running.retain(|id, _| alive.iter().any(|c| c.id == *id));
        self.lock().retain(|_, state| alive.iter().any(|c| c.id == state.container_id));
        for container in alive {
            let Some((role, spec)) = spec::find(pod, &container.name) else { continue };
            let State::Running { started_at } = container.state else { continue };
            if !self.running.contains_key(&container.id) {
                self.begin(pod, role, &spec, &container.id, started_at, ip);
            }
        }
        let states = self.lock().clone();
        for state in states.values().filter(|s| s.startup == Some(true)) {
            if let Some(running) = self.running.get(&state.container_id) {
                running.started.send_replace(true);
            }
        }
        states
    }

    fn begin(
        &mut self,
        pod: &Arc<Pod>,
        role: Role,
        container: &Container,
        id: &str,
        began: Timestamp,
        ip: Option<&str>,
    ) {
        let Some(context) = self.context.upgrade() else { return };
        let seed = self.seeds.remove(&container_id(id));
        let no_hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()).is_none();
        let has_started = container.startup_probe.is_none() || seed.is_some_and(|(started, _)| started);
        let state = ProbeState {
            container_id: id.to_owned(),
            startup: has_started.then_some(true),
            liveness: None,
            readiness: seed.map(|(_, ready)| ready),
            // rk was away while an adopted container's hook ran or did not: it is not run twice.
            post_start_done: no_hook || seed.is_some(),
        };
        {
            let mut states = self.lock();
            let ran = states.get(&container.name).is_some_and(|s| s.container_id == id && s.post_start_done);
            let state = ProbeState { post_start_done: state.post_start_done || ran, ..state };
            states.insert(container.name.clone(), state);
        }
        let all = context.stop.child_token();
        let restarts = all.child_token();
        let (started, waiting) = watch::channel(has_started);
        if role != Role::Init {
            let table = [
                (Kind::Startup, container.startup_probe.as_ref().filter(|_| !has_started), &restarts),
                (Kind::Liveness, container.liveness_probe.as_ref(), &restarts),
                (Kind::Readiness, container.readiness_probe.as_ref(), &all),
            ];
            for (kind, probe, stop) in table {
                let Some(probe) = probe else { continue };
                let prober = Prober {
                    context: context.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    id: ContainerId::new(id),
                    ip: ip.map(str::to_owned),
                    kind,
                    probe: probe.clone(),
                    states: self.states.clone(),
                    wake: self.wake.clone(),
                };
                let (stop, waiting) = (stop.clone(), waiting.clone());
                context
                    .tasks
                    .spawn(async move { stop.run_until_cancelled(Box::pin(prober.run(waiting, began))).await });
            }
        }
        self.running.insert(id.to_owned(), Running { _all: all.drop_guard(), restarts, started });
    }

    /// The postStart hook of this instance has run.
    pub(crate) fn post_start_done(&self, name: &str, id: &str) {
        if let Some(state) = self.lock().get_mut(name).filter(|s| s.container_id == id) {
            state.post_start_done = true;
        } else {
            // The worker has not looked yet; it will find this entry.
            let state = ProbeState { container_id: id.to_owned(), post_start_done: true, ..ProbeState::default() };
            self.lock().insert(name.to_owned(), state);
        }
    }

    /// The pod is ending: nothing is to be restarted any more.
    pub(crate) fn end_restarts(&self) {
        self.running.values().for_each(|running| running.restarts.cancel());
    }
}

struct Prober {
    context: Arc<Context>,
    pod: Arc<Pod>,
    container: Container,
    id: ContainerId,
    ip: Option<String>,
    kind: Kind,
    probe: Probe,
    states: States,
    wake: Arc<Notify>,
}

impl Prober {
    /// Probes until it is stopped, or has a result after which there is nothing to ask.
    async fn run(self, mut started: watch::Receiver<bool>, began: Timestamp) {
        if self.kind != Kind::Startup && started.wait_for(|s| *s).await.is_err() {
            return;
        }
        let seconds = |value: Option<i32>, default: i32| {
            Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or(0))
        };
        let age = Duration::try_from(Timestamp::now().duration_since(began)).unwrap_or_default();
        tokio::time::sleep(seconds(self.probe.initial_delay_seconds, 0).saturating_sub(age)).await;
        let mut ticks = tokio::time::interval(seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut tally = Tally::default();
        loop {
            ticks.tick().await;
            let outcome = match Action::of_probe(&self.probe, &self.container, self.ip.as_deref()) {
                Ok(action) => Box::pin(action::perform(&self.context.runtime, &self.id, &action, timeout)).await,
                Err(error) => action::Outcome { success: false, output: error.to_string() },
            };
            if !outcome.success {
                // That a container has ended is for the worker to notice, and no word about its health.
                if !self.is_running() {
                    return;
                }
                let text = format!("{} probe failed: {}", self.kind.name(), outcome.output);
                self.context.container_event(&self.pod, &self.container.name, EventType::Warning, "Unhealthy", text);
            }
            let Some(settled) = tally.add(outcome.success, &self.probe) else { continue };
            self.tell(settled);
            if self.kind.ends_with(settled) {
                return;
            }
        }
    }

    fn is_running(&self) -> bool {
        self.context.runtime.container_status(&self.id).is_ok_and(|status| status.state == ContainerState::Running)
    }

    fn tell(&self, result: bool) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = states.get_mut(&self.container.name).filter(|s| s.container_id == self.id.as_str()) else {
            return;
        };
        let slot = match self.kind {
            Kind::Startup => &mut state.startup,
            Kind::Liveness => &mut state.liveness,
            Kind::Readiness => &mut state.readiness,
        };
        if *slot != Some(result) {
            *slot = Some(result);
            drop(states);
            self.wake.notify_one();
        }
    }
}

/// Counts equal results in a row.
#[derive(Default)]
struct Tally {
    last: Option<bool>,
    count: i32,
}

impl Tally {
    /// The result, once it has come often enough to count.
    fn add(&mut self, success: bool, probe: &Probe) -> Option<bool> {
        self.count = if self.last == Some(success) { self.count.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let needed = if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.count >= needed.max(1)).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_is_to_be_killed_is_not_probed_on() {
        assert!(Kind::Liveness.ends_with(false) && !Kind::Liveness.ends_with(true));
        assert!(Kind::Startup.ends_with(false) && Kind::Startup.ends_with(true));
        assert!(!Kind::Readiness.ends_with(false) && !Kind::Readiness.ends_with(true));
    }

    #[test]
    fn results_count_from_their_threshold_on() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut tally = Tally::default();
        let got: Vec<_> = [true, true, false, false, true, false, false, false, false]
            .into_iter()
            .map(|success| tally.add(success, &probe))
            .collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(got, [None, yes, None, None, None, None, None, no, no]);
    }
}
