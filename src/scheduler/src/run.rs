//! The shell: one task owns cluster and queue, takes changes from informers, runs cycles, and hands the writes to
//! tasks of their own. A pod is counted on its node from the moment of the decision; a failed binding takes it back.

mod writes;

use crate::Config;
use crate::cycle::{Unfit, schedule};
use crate::plugins::waiting_claims;
use crate::preempt::{self, Budgets};
use crate::queue::Queue;
use crate::state::{Cluster, PodInfo};
use client::{Change, EventRecorder, Informer, Informers, Subscription};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Client, ResourceExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use writes::{Outcome, Writer};

/// Runs until `stop`. Waits for the caches first, so that no pod is placed over ones not yet seen.
pub async fn run(client: Client, informers: Informers, config: Config, stop: CancellationToken) {
    let (outcomes, results) = mpsc::unbounded_channel();
    let recorder = EventRecorder::new(client.clone(), &config.name, "");
    let scheduler = Scheduler {
        pods: informers.of(),
        budgets: informers.of(),
        writer: Writer::new(client, recorder, outcomes, &config.name),
        config,
        cluster: Cluster::default(),
        queue: Queue::default(),
        round: 0,
    };
    stop.run_until_cancelled(Box::pin(scheduler.run(informers, results))).await;
}

struct Scheduler {
    config: Config,
    cluster: Cluster,
    queue: Queue,
    pods: Informer<Pod>,
    budgets: Informer<PodDisruptionBudget>,
    writer: Writer,
    /// Settles ties: each pod starts elsewhere.
    round: usize,
}

/// Subscriptions to all that the cycle looks at.
struct Sources {
    pods: Subscription<Pod>,
    nodes: Subscription<Node>,
    namespaces: Subscription<Namespace>,
    volumes: Subscription<PersistentVolume>,
    claims: Subscription<PersistentVolumeClaim>,
    classes: Subscription<StorageClass>,
}

impl Sources {
    async fn synced(informers: &Informers) -> Self {
        let (pods, nodes, namespaces) = (informers.of(), informers.of(), informers.of());
        let (volumes, claims, classes) = (informers.of(), informers.of(), informers.of());
        tokio::join!(
            pods.synced(),
            nodes.synced(),
            namespaces.synced(),
            volumes.synced(),
            claims.synced(),
            classes.synced()
        );
        Self {
            pods: pods.subscribe(),
            nodes: nodes.subscribe(),
            namespaces: namespaces.subscribe(),
            volumes: volumes.subscribe(),
            claims: claims.subscribe(),
            classes: classes.subscribe(),
        }
    }
}

impl Scheduler {
    async fn run(mut self, informers: Informers, mut results: mpsc::UnboundedReceiver<Outcome>) {
        let mut sources = Sources::synced(&informers).await;
        loop {
            // All that is known counts before the next decision.
            self.drain(&mut sources);
            self.place_waiting().await;
            let wake = self
                .queue
                .next_wake()
                .map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO));
            let timer = async {
                match wake {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(change) = sources.pods.next() => self.pod_changed(&change),
                Some(change) = sources.nodes.next() => self.node_changed(change),
                Some(change) = sources.namespaces.next() => self.namespace_changed(change),
                Some(change) = sources.volumes.next() => self.volume_changed(change),
                Some(change) = sources.claims.next() => self.claim_changed(change),
                Some(change) = sources.classes.next() => self.class_changed(change),
                Some(outcome) = results.recv() => self.finished(outcome),
                () = timer => {}
                // Every informer was shut down.
                else => return,
            }
            self.queue.wake(Timestamp::now());
        }
    }

    fn drain(&mut self, sources: &mut Sources) {
        while let Some(change) = sources.nodes.try_next() {
            self.node_changed(change);
        }
        while let Some(change) = sources.namespaces.try_next() {
            self.namespace_changed(change);
        }
        while let Some(change) = sources.volumes.try_next() {
            self.volume_changed(change);
        }
        while let Some(change) = sources.claims.try_next() {
            self.claim_changed(change);
        }
        while let Some(change) = sources.classes.try_next() {
            self.class_changed(change);
        }
        while let Some(change) = sources.pods.try_next() {
            self.pod_changed(&change);
        }
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        let pod = change.object();
        let uid = pod.uid().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed")) || matches!(change, Change::Deleted(_));
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty());
        let now = Timestamp::now();
        if ended {
            let freed = self.cluster.is_placed(&uid);
            self.cluster.forget(&uid);
            self.queue.remove(&uid);
            // What was kept for it is free as well.
            if self.cluster.withdraw(&uid) || freed {
                self.queue.changed(now, |_| true);
            }
            return;
        }
        if let Some(node) = node {
            let relabelled = change.old().is_none_or(|old| old.metadata.labels != pod.metadata.labels);
            self.cluster.place(Arc::new(PodInfo::new(pod.clone())), node);
            self.queue.remove(&uid);
            if relabelled {
                self.queue.changed(now, has_pod_affinity);
            }
            return;
        }
        let ours =
            spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler") == self.config.name;
        let gated = spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        let terminating = pod.metadata.deletion_timestamp.is_some();
        if !ours || gated || terminating {
            self.queue.remove(&uid);
            if self.cluster.withdraw(&uid) {
                self.queue.changed(now, |_| true);
            }
        } else if !self.cluster.is_placed(&uid) {
            let info = Arc::new(PodInfo::new(pod.clone()));
            self.take_nomination(change, &info);
            self.queue.put(info);
        }
    }

    /// Follows what the API says of the node that preemption chose for a pod. One decided here and not yet written
    /// stays.
    fn take_nomination(&mut self, change: &Change<Pod>, pod: &Arc<PodInfo>) {
        let before = change.old().and_then(|old| old.status.as_ref()?.nominated_node_name.as_deref());
        match pod.nominated_node() {
            Some(node) => self.cluster.nominate(pod.clone(), node),
            None if before.is_some_and(|node| !node.is_empty()) => drop(self.cluster.withdraw(pod.uid())),
            None => {}
        }
    }

    fn node_changed(&mut self, change: Change<Node>) {
        let worth_a_try = match (&change, change.old()) {
            (Change::Deleted(_), _) => false,
            (_, Some(old)) => differs(old, change.object()),
            (_, None) => true,
        };
        match change {
            Change::Deleted(node) => self.cluster.remove_node(&node.name_any()),
            Change::Added(node) | Change::Modified { new: node, .. } => self.cluster.set_node(node),
        }
        if worth_a_try {
            self.queue.changed(Timestamp::now(), |_| true);
        }
    }

    fn namespace_changed(&mut self, change: Change<Namespace>) {
        let name = change.object().name_any();
        match change {
            Change::Deleted(_) => drop(self.cluster.namespaces.remove(&name)),
            Change::Added(new) | Change::Modified { new, .. } => drop(self.cluster.namespaces.insert(name, new)),
        }
        self.queue.changed(Timestamp::now(), has_pod_affinity);
    }

    fn volume_changed(&mut self, change: Change<PersistentVolume>) {
        let name = change.object().name_any();
        match change {
            Change::Deleted(_) => drop(self.cluster.volumes.remove(&name)),
            Change::Added(new) | Change::Modified { new, .. } => drop(self.cluster.volumes.insert(name, new)),
        }
        self.queue.changed(Timestamp::now(), has_volumes);
    }

    fn claim_changed(&mut self, change: Change<PersistentVolumeClaim>) {
        let key = (change.object().namespace().unwrap_or_default(), change.object().name_any());
        match change {
            Change::Deleted(_) => drop(self.cluster.claims.remove(&key)),
            Change::Added(new) | Change::Modified { new, .. } => drop(self.cluster.claims.insert(key, new)),
        }
        self.queue.changed(Timestamp::now(), has_volumes);
    }

    fn class_changed(&mut self, change: Change<StorageClass>) {
        let name = change.object().name_any();
        match change {
            Change::Deleted(_) => drop(self.cluster.classes.remove(&name)),
            Change::Added(new) | Change::Modified { new, .. } => drop(self.cluster.classes.insert(name, new)),
        }
        self.queue.changed(Timestamp::now(), has_volumes);
    }

    async fn place_waiting(&mut self) {
        while let Some(pod) = self.queue.pop() {
            self.place(&pod);
            // The API server may share this process: leave it its turn.
            tokio::task::yield_now().await;
        }
    }

    fn place(&mut self, pod: &Arc<PodInfo>) {
        self.round = self.round.wrapping_add(1);
        match schedule(pod, &self.cluster, self.round) {
            Ok(node) => {
                let claims = waiting_claims(pod, &self.cluster);
                if claims.is_empty() {
                    // The queue knows it until it is seen bound: a refused binding is not its first attempt.
                    self.cluster.place(pod.clone(), &node);
                    self.writer.bind(pod.clone(), node);
                } else {
                    // The claims' provisioner needs the node; their binding brings the pod back.
                    self.queue.unfit(pod.uid(), Timestamp::now());
                    self.writer.select_node(pod.clone(), node, claims);
                }
            }
            Err(unfit) => self.no_place(pod, &unfit),
        }
    }

    fn no_place(&mut self, pod: &Arc<PodInfo>, unfit: &Unfit) {
        self.queue.unfit(pod.uid(), Timestamp::now());
        if self.makes_room(pod) {
            return;
        }
        let budgets = self.budgets.list();
        let plan = preempt::plan(pod, &self.cluster, unfit, &Budgets::new(budgets.iter().map(AsRef::as_ref)));
        // What holds for every node at once, no preemption can help.
        let looked_at_nodes = unfit.for_all.is_none();
        let (message, plan) = match plan {
            Ok(plan) => (unfit.message(None), Some(plan)),
            Err(why) => (unfit.message(Some(&why).filter(|_| looked_at_nodes).map(String::as_str)), None),
        };
        match &plan {
            Some(plan) => self.keep_room(pod, &plan.node),
            None => drop(self.cluster.withdraw(pod.uid())),
        }
        self.writer.report_unfit(pod.clone(), message, plan);
    }

    /// From now on the node's room is this pod's; less important ones for which it was kept look elsewhere.
    fn keep_room(&mut self, pod: &Arc<PodInfo>, node: &str) {
        let others = self.cluster.nominated_on(node, pod.uid());
        let lesser: Vec<_> = others.filter(|other| other.priority() < pod.priority()).cloned().collect();
        for other in lesser {
            self.cluster.withdraw(other.uid());
            self.writer.clear_nomination(other);
        }
        self.cluster.nominate(pod.clone(), node);
    }

    /// Whether pods are still leaving the node that preemption chose for this one.
    fn makes_room(&self, pod: &PodInfo) -> bool {
        let nominated = self.cluster.nomination(pod.uid());
        let node = nominated.and_then(|name| self.cluster.node(name));
        node.is_some_and(|node| {
            node.pods.iter().any(|other| other.is_terminating() && other.priority() < pod.priority())
        })
    }

    fn finished(&mut self, outcome: Outcome) {
        let Outcome::NotBound { uid, key } = outcome;
        let current = self.pods.get_key(&key).filter(|pod| pod.uid().as_deref() == Some(uid.as_str()));
        let bound = current.as_ref().is_some_and(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
        if bound {
            return;
        }
        self.cluster.forget(&uid);
        match current.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            Some(pod) => {
                self.queue.put(Arc::new(PodInfo::new(pod)));
                self.queue.retry(&uid, Timestamp::now());
            }
            None => self.queue.remove(&uid),
        }
    }
}

fn has_pod_affinity(pod: &PodInfo) -> bool {
    let Some(spec) = pod.spec() else { return false };
    let affinity = spec.affinity.as_ref();
    affinity.is_some_and(|affinity| affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some())
        || spec.topology_spread_constraints.is_some()
}

fn has_volumes(pod: &PodInfo) -> bool {
    let volumes = pod.spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
}

/// Whether a node changed in what filters look at; heartbeats do not count.
fn differs(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}
