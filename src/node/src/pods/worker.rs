//! One pod's worker: brings what runs in line with the specification, event by event, until the pod is gone.
//!
//! ```text
//! admit ─► sync ⇄ wait ─► terminate: stop containers ─► final status ─► clear ─► (deletion) ─► delete in the API
//! ```
//! It waits for: a change of the pod, an event of the runtime, a probe's result, a change of an object the pod
//! refers to, or a point in time. Nothing is polled.

use std::sync::Arc;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use runtime::PodId;
use tokio::sync::{Notify, watch};

use super::observe::Messages;
use super::report::Reporter;
use super::resize::InForce;
use super::workers::Desired;
use crate::context::Context;
use crate::plan::actions::{self, Plan};
use crate::plan::view::{PodView, Sandbox};
use crate::plan::{Memory, Verdict};
use crate::probes::Probes;
use crate::spec::fields::{Addresses, Allocatable};
use crate::status::{self, phase};
use crate::volumes::{PodVolumes, Surroundings};

/// Rounds of deciding and acting without waiting. Real pods need a handful; more is a defect that must not spin.
const MAX_ROUNDS: usize = 32;

pub(super) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: String,
    pub(super) desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    pub(super) memory: Memory,
    pub(super) volumes: PodVolumes,
    pub(super) volumes_ready: bool,
    pub(super) probes: Probes,
    pub(super) messages: Messages,
    pub(super) reporter: Reporter,
    /// When the sandbox or the volumes may be tried again, and after how long the time after that.
    pub(super) sandbox_retry: Option<(Timestamp, SignedDuration)>,
    /// The sandbox waits for the node's pod range.
    pub(super) needs_network: bool,
    /// Tokens are due.
    pub(super) refresh_at: Option<Timestamp>,
    pub(super) in_force: InForce,
    /// The revision of the pod that the volumes show.
    shown: Option<String>,
}

/// What a round of syncing ended with.
enum Outcome {
    /// Wait for an event, or until then.
    Wait(Option<Timestamp>),
    Terminate,
}

impl Worker {
    pub(super) fn new(context: Arc<Context>, desired: watch::Receiver<Desired>, wake: Arc<Notify>) -> Worker {
        let pod = desired.borrow().pod.clone();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let memory = Memory { last_status: pod.status.clone().unwrap_or_default(), ..Memory::default() };
        Worker {
            reporter: Reporter::start(&context, &pod),
            probes: Probes::new(&context, wake.clone()),
            volumes: PodVolumes::new(wake.clone()),
            volumes_ready: false,
            messages: Messages::default(),
            sandbox_retry: None,
            needs_network: false,
            refresh_at: None,
            in_force: InForce::default(),
            shown: None,
            context,
            uid,
            desired,
            wake,
            memory,
        }
    }

    pub(super) fn pod_id(&self) -> PodId {
        PodId::new(self.uid.clone())
    }

    pub(super) fn pod(&self) -> Arc<Pod> {
        self.desired.borrow().pod.clone()
    }

    pub(super) fn host_ips(&self) -> Vec<String> {
        vec![self.context.config.ip.to_string()]
    }

    pub(super) async fn run(mut self) {
        let pod = self.pod();
        tracing::debug!(namespace = ?pod.metadata.namespace, name = ?pod.metadata.name, uid = %self.uid, "pod taken up");
        self.take_up(&pod);
        loop {
            match self.sync().await {
                Outcome::Terminate => break,
                Outcome::Wait(until) => self.wait(until).await,
            }
        }
        Box::pin(self.terminate()).await;
    }

    /// Adopts what runs already, or admits the pod.
    fn take_up(&mut self, pod: &Arc<Pod>) {
        self.memory.pod_ips = match self.context.net.address(&self.uid) {
            Some(address) => vec![address.ip.to_string()],
            None => pod.status.iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|p| p.ip.clone()).collect(),
        };
        let deleted = self.desired.borrow().gone || pod.metadata.deletion_timestamp.is_some();
        let ended = is_final(&self.memory.last_status) || deleted;
        if self.context.runtime.pod_status(&self.pod_id()).is_ok() {
            self.probes.seed(pod.status.as_ref());
            self.context.admission.adopt(pod);
        } else if !ended {
            let node = self.context.own_node();
            if let Err(verdict) = self.context.admission.admit(&self.context.config, node.as_deref(), pod) {
                self.context.pod_event(pod, EventType::Warning, &verdict.reason, verdict.message.clone());
                let message = format!("Pod was rejected: {}", verdict.message);
                self.memory.verdict = Some(Verdict { message, ..verdict });
            }
        }
    }

    /// Whether the pod's life is to end, for whatever reason.
    fn must_end(&mut self, pod: &Pod, now: Timestamp) -> bool {
        let desired = self.desired.borrow();
        if let Some(verdict) = &desired.verdict {
            self.memory.verdict.get_or_insert_with(|| verdict.clone());
        }
        let deleted = desired.gone || desired.pod.metadata.deletion_timestamp.is_some();
        drop(desired);
        if deadline(pod, &self.memory.last_status).is_some_and(|at| at <= now) {
            self.memory.verdict.get_or_insert_with(|| Verdict {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            });
            let text = "Pod was active on the node longer than the specified deadline";
            self.context.pod_event(pod, EventType::Normal, "DeadlineExceeded", text);
        }
        deleted || self.memory.verdict.is_some() || is_final(&self.memory.last_status)
    }

    /// Decides and acts until there is nothing left to do now.
    async fn sync(&mut self) -> Outcome {
        for _ in 0..MAX_ROUNDS {
            let now = Timestamp::now();
            let pod = self.desired.borrow_and_update().pod.clone();
            if self.must_end(&pod, now) {
                return Outcome::Terminate;
            }
            let view = self.observe(&pod, now);
            Box::pin(self.keep_volumes(&pod, &view)).await;
            Box::pin(self.resize(&pod)).await;
            if phase::is_final(phase::of(&pod, &self.memory.last_status, &self.memory, false)) {
                return Outcome::Terminate;
            }
            if self.needs_network && self.context.net.gateway().is_some() {
                (self.needs_network, self.sandbox_retry) = (false, None);
            }
            if let Some((at, _)) = self.sandbox_retry.filter(|(at, _)| *at > now) {
                return Outcome::Wait(self.next_wake(&pod, Some(at)));
            }
            let plan = actions::decide(&pod, &view, &self.memory, now);
            self.note_waiting(&pod, &plan);
            if plan.sandbox.is_none() && plan.kill.is_empty() && plan.start.is_empty() {
                self.observe(&pod, now);
                return Outcome::Wait(self.next_wake(&pod, plan.wake_at));
            }
            self.act(&pod, plan).await;
        }
        tracing::error!(uid = %self.uid, "pod does not come to rest");
        let soon = Timestamp::now().checked_add(SignedDuration::from_secs(5)).ok();
        Outcome::Wait(soon)
    }

    async fn act(&mut self, pod: &Arc<Pod>, plan: Plan) {
        if let Some(new) = plan.sandbox {
            Box::pin(self.make_sandbox(pod, new)).await;
            return;
        }
        for kill in plan.kill {
            Box::pin(self.kill(pod, &kill)).await;
        }
        for start in plan.start {
            if self.is_ending() {
                return;
            }
            Box::pin(self.start(pod, &start)).await;
            self.observe(pod, Timestamp::now());
        }
    }

    /// The pod's end has been asked for in the meantime.
    pub(super) fn is_ending(&self) -> bool {
        let desired = self.desired.borrow();
        desired.gone || desired.verdict.is_some() || desired.pod.metadata.deletion_timestamp.is_some()
    }

    /// Resolves once the pod's end is asked for.
    pub(super) fn ending(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut desired = self.desired.clone();
        async move {
            let ended = |d: &Desired| d.gone || d.verdict.is_some() || d.pod.metadata.deletion_timestamp.is_some();
            if desired.wait_for(ended).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Looks at what runs, computes the status and reports it.
    pub(super) fn observe(&mut self, pod: &Arc<Pod>, now: Timestamp) -> PodView {
        let mut view = self.messages.view(&self.context, &self.uid);
        // Namespaces without an address are half a sandbox: making it again is how it is completed.
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        if view.sandbox == Sandbox::Ready && !host_network && self.context.net.address(&self.uid).is_none() {
            view.sandbox = Sandbox::Absent;
        }
        self.memory.probes = self.probes.sync(pod, &view, self.memory.pod_ips.first().map(String::as_str));
        let status = status::compute(pod, &view, &self.memory, &self.host_ips(), false, now);
        self.publish(pod, status);
        view
    }

    pub(super) fn publish(&mut self, pod: &Pod, mut status: PodStatus) {
        // Conditions that others wrote are as the API has them now.
        let others = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        status::conditions::pass_through(&mut status, others);
        self.reporter.report(pod, &status);
        self.memory.last_status = status;
    }

    /// Keeps the data volumes current while the pod runs, and takes note of changes of what the pod refers to.
    async fn keep_volumes(&mut self, pod: &Arc<Pod>, view: &PodView) {
        if view.sandbox == Sandbox::Ready && !self.volumes_ready && !self.reclaim_volumes(pod).await {
            return;
        }
        let references = self.volumes.held.fingerprint();
        let changed = self.memory.references != references;
        if changed {
            self.memory.references = references;
            // What failed for want of an object may work now.
            self.sandbox_retry = None;
            let waiting = &self.memory.waiting;
            self.memory
                .retry_at
                .retain(|name, _| waiting.get(name).is_none_or(|w| w.reason != "CreateContainerConfigError"));
        }
        let due = self.refresh_at.is_some_and(|at| at <= Timestamp::now());
        if !self.volumes_ready || !(changed || due || self.shown != pod.metadata.resource_version) {
            return;
        }
        let around = self.surroundings();
        let (refresh_at, result) = self.volumes.refresh(&self.context, pod, &around).await;
        self.refresh_at = refresh_at;
        self.shown.clone_from(&pod.metadata.resource_version);
        if let Err((name, error)) = result {
            tracing::debug!(volume = %name, error = %crate::network::chain(&error), "volume keeps its former content");
        }
    }

    /// Finds the volumes of an adopted pod again, without holding it up; false: not yet.
    async fn reclaim_volumes(&mut self, pod: &Arc<Pod>) -> bool {
        if !self.volumes.hold_now(&self.context, pod) {
            return false;
        }
        let ready = tokio::time::timeout(std::time::Duration::from_secs(10), self.ready_volumes(pod)).await;
        match ready {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(uid = %self.uid, error = %error.message(), "an adopted pod's volumes are not complete");
                false
            }
            Err(_) => false,
        }
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let node = self.context.own_node();
        let allocatable = node.and_then(|n| n.status.as_ref().and_then(|s| s.allocatable.clone())).unwrap_or_default();
        Surroundings {
            addresses: Addresses { pod_ips: self.memory.pod_ips.clone(), host_ips: self.host_ips() },
            allocatable: Allocatable(allocatable),
        }
    }

    fn note_waiting(&mut self, pod: &Pod, plan: &Plan) {
        for (name, waiting) in &plan.waiting {
            let known = self.memory.waiting.insert(name.clone(), waiting.clone());
            if waiting.reason == "CrashLoopBackOff" && known.as_ref() != Some(waiting) {
                let text = format!("Back-off restarting failed container {name} in pod {}", crate::spec::describe(pod));
                self.context.container_event(pod, name, EventType::Warning, "BackOff", text);
            }
        }
    }

    fn next_wake(&self, pod: &Pod, other: Option<Timestamp>) -> Option<Timestamp> {
        let deadline = deadline(pod, &self.memory.last_status);
        [other, self.refresh_at.filter(|_| self.volumes_ready), deadline].into_iter().flatten().min()
    }

    async fn wait(&mut self, until: Option<Timestamp>) {
        let sleep = async {
            match until {
                Some(at) => {
                    let left = at.duration_since(Timestamp::now());
                    // A little late rather than early: a round too soon finds nothing to do.
                    tokio::time::sleep(
                        left.max(SignedDuration::ZERO).unsigned_abs() + std::time::Duration::from_millis(2),
                    )
                    .await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = self.wake.notified() => {}
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The registry is gone with the whole node; the task is about to be stopped.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Whether any of the pod can be running.
    pub(super) fn view(&mut self) -> PodView {
        self.messages.view(&self.context, &self.uid)
    }

    pub(super) fn has_sandbox(view: &PodView) -> bool {
        view.sandbox != Sandbox::Absent
    }
}

fn is_final(status: &PodStatus) -> bool {
    status.phase.as_deref().is_some_and(phase::is_final)
}

/// When `activeDeadlineSeconds` is over.
fn deadline(pod: &Pod, status: &PodStatus) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    status.start_time.as_ref()?.0.checked_add(SignedDuration::from_secs(seconds)).ok()
}
