//! One of several candidates works, the others wait: by a Lease object, as upstream's leader election has it.
//!
//! Invariants:
//! - Clocks are not compared. A candidate takes over when it has not seen the Lease change for as long as the Lease says,
//!   by its own monotonic clock; the times in the Lease are for people.
//! - A holder stops before anybody else may begin: it counts from when it asked for its last renewal, not from when it
//!   was granted.
//! - Whoever has no rivals begins at once, takes the Lease meanwhile, whatever it says, and does not renew it: nothing
//!   wakes up until there is somebody who could look.
//!
//! Called by the executable, for the controllers and for the scheduler.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Resource;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::api::Api;
use crate::informer::{Endpoint, Informer, Subscription};
use crate::informers::Scope;
use crate::retry::{is_already_exists, is_conflict};

/// Longest wait for one try: a server that lost its leader may hold it for longer than another try takes.
const ONE_TRY: Duration = Duration::from_secs(6);
/// Longest wait for the Lease to be given up at a stop.
const FAREWELL: Duration = Duration::from_secs(2);

/// How patient candidates are with each other.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a Lease that nobody renews keeps others out.
    pub lease: Duration,
    /// How long a renewal is tried before the work is given up; less than `lease`.
    pub renew: Duration,
    /// Pause between renewals, and between tries.
    pub retry: Duration,
}

impl Default for Timing {
    /// Upstream's.
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// One candidate.
#[derive(Clone)]
pub struct Election {
    client: kube::Client,
    namespace: String,
    name: String,
    identity: String,
    alone: watch::Receiver<bool>,
    timing: Timing,
}

/// The Lease as this candidate wrote it last.
struct Held {
    lease: Lease,
    /// When that write was begun.
    since: Instant,
}

/// The Lease as this candidate saw it last.
#[derive(Default)]
struct Seen {
    /// With the time when it was first seen so.
    spec: Option<(LeaseSpec, Instant)>,
}

/// A watch on the Lease.
struct Watching {
    changes: Subscription<Lease>,
    _stop: DropGuard,
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the lease is {0:?}'s now")]
    Lost(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Seen {
    /// Takes note of the Lease; the time counts from its last change.
    fn note(&mut self, lease: &Lease, now: Instant) {
        let spec = lease.spec.clone().unwrap_or_default();
        if self.spec.as_ref().is_none_or(|(known, _)| *known != spec) {
            self.spec = Some((spec, now));
        }
    }

    /// From when on others may take the Lease; nothing when nobody holds it.
    fn ends(&self) -> Option<Instant> {
        let (spec, at) = self.spec.as_ref()?;
        holder(spec)?;
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
        Some(*at + Duration::from_secs(seconds))
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

impl Election {
    /// A candidate for the Lease `namespace/name`. `identity` must be no other candidate's, and should be the same after
    /// a restart. `alone` is true while nobody else could stand.
    pub fn new(
        client: kube::Client,
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
        alone: watch::Receiver<bool>,
    ) -> Self {
        let (namespace, name, identity) = (namespace.into(), name.into(), identity.into());
        Self { client, namespace, name, identity, alone, timing: Timing::default() }
    }

    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Stands for election until `stop`. Whenever it is won, runs what `work` makes; its token is cancelled when the Lease
    /// is lost, or on `stop`, and the next round begins when the work has ended. At `stop` the Lease is given up after
    /// the work.
    pub async fn run<W, F>(mut self, stop: CancellationToken, mut work: W)
    where
        W: FnMut(CancellationToken) -> F,
        F: Future<Output = ()>,
    {
        while !stop.is_cancelled() {
            let mut held = None;
            if !self.is_alone() {
                held = stop.run_until_cancelled(self.acquire()).await;
                if held.is_none() {
                    return;
                }
            }
            let leading = stop.child_token();
            let mut working = pin!(work(leading.clone()));
            let ended = tokio::select! {
                () = &mut working => true,
                () = self.hold(&mut held) => false,
            };
            if !ended {
                tracing::warn!(lease = %self.name, "the lease could not be renewed in time; stopping what it is for");
                leading.cancel();
                working.await;
            } else if let Some(held) = held {
                self.release(held).await;
            }
            // Work that ends by itself is not begun again at once.
            stop.run_until_cancelled(sleep(self.timing.retry)).await;
        }
    }

    /// Keeps the Lease; takes it first where the work could begin without it. Returns when it is lost.
    async fn hold(&mut self, held: &mut Option<Held>) {
        if held.is_none() {
            let mut alone = self.alone.clone();
            tokio::select! {
                biased;
                taken = self.acquire() => *held = Some(taken),
                Ok(_) = alone.wait_for(|alone| !alone) => return,
            }
        }
        if let Some(held) = held {
            self.keep(held).await;
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn is_alone(&self) -> bool {
        *self.alone.borrow()
    }

    /// Returns once this candidate holds the Lease.
    async fn acquire(&mut self) -> Held {
        let mut seen = Seen::default();
        let mut watching = None;
        loop {
            let failed = match timeout(ONE_TRY, self.attempt(&mut seen)).await {
                Ok(Ok(Some(held))) => {
                    tracing::info!(lease = %self.name, identity = %self.identity, "elected");
                    return held;
                }
                Ok(Ok(None)) => false,
                Ok(Err(error)) => {
                    tracing::debug!(lease = %self.name, %error, "cannot ask for the lease");
                    true
                }
                // If it was written all the same, the next try finds it to be this candidate's.
                Err(_) => true,
            };
            let watching = watching.get_or_insert_with(|| self.watch());
            if failed {
                sleep(self.timing.retry.mul_f64(rand::random_range(1.0..1.2))).await;
            } else {
                self.wait(&mut seen, watching).await;
            }
        }
    }

    fn watch(&self) -> Watching {
        let stop = CancellationToken::new();
        let scope = Scope::fields(format!("metadata.name={}", self.name));
        let endpoint = Endpoint::new(Lease::url_path(&(), Some(&self.namespace))).scoped(&scope);
        let informer = Informer::start(&self.client, endpoint, &TaskTracker::new(), stop.clone());
        Watching { changes: informer.subscribe(), _stop: stop.drop_guard() }
    }

    /// Waits until the Lease may be had.
    async fn wait(&mut self, seen: &mut Seen, watching: &mut Watching) {
        // Read afresh when somebody else was quicker to take it.
        let mut ends = seen.ends().unwrap_or_else(|| Instant::now() + self.timing.retry);
        loop {
            tokio::select! {
                () = sleep_until(ends) => return,
                change = watching.changes.next() => match change {
                    Some(crate::Change::Deleted(_)) => return,
                    Some(change) => {
                        seen.note(change.object(), Instant::now());
                        match seen.ends() {
                            Some(later) => ends = later,
                            None => return,
                        }
                    }
                    // Stopped with the process.
                    None => std::future::pending().await,
                },
                changed = self.alone.changed() => match changed {
                    Ok(()) if !self.is_alone() => {}
                    Ok(()) => return,
                    Err(_) => std::future::pending().await,
                },
            }
        }
    }

    /// Takes the Lease if it is free. Nothing when it is somebody else's.
    async fn attempt(&self, seen: &mut Seen) -> kube::Result<Option<Held>> {
        let api = self.api();
        let since = Instant::now();
        let written = match api.get_opt(&self.name).await? {
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                };
                let lease = Lease { metadata, spec: Some(self.taken(None)) };
                api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                seen.note(&lease, Instant::now());
                let mine = lease.spec.as_ref().and_then(holder) == Some(self.identity.as_str());
                if !mine && !self.is_alone() && seen.ends().is_some_and(|ends| ends > Instant::now()) {
                    return Ok(None);
                }
                lease.spec = Some(self.taken(lease.spec.as_ref()));
                api.replace(&self.name, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(lease) => Ok(Some(Held { lease, since })),
            Err(error) if is_conflict(&error) || is_already_exists(&error) => {
                // Whoever was quicker has the time that it asks for.
                if let Some(lease) = api.get_opt(&self.name).await? {
                    seen.note(&lease, Instant::now());
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What to write in order to take the Lease from how it is.
    fn taken(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let same = before.filter(|before| holder(before) == Some(self.identity.as_str()));
        let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or(0));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs()).ok(),
            acquire_time: same.map_or_else(|| now.clone(), |same| same.acquire_time.clone()),
            renew_time: now,
            lease_transitions: Some(if before.is_none() || same.is_some() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    /// Renews for as long as that works and is of any use. Returns when the Lease is lost.
    async fn keep(&mut self, held: &mut Held) {
        loop {
            if self.is_alone() {
                // A rival begins to count after it has come, so there is time.
                if self.alone.wait_for(|alone| !alone).await.is_err() {
                    return std::future::pending().await;
                }
                held.since = Instant::now();
            } else {
                tokio::select! {
                    () = sleep(self.timing.retry) => {}
                    changed = self.alone.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => sleep(self.timing.retry).await,
                    },
                }
            }
            let patience = self.timing.lease.saturating_sub(self.timing.retry);
            let give_up = (Instant::now() + self.timing.renew).min(held.since + patience);
            if !timeout_at(give_up, self.renew_until_done(held)).await.unwrap_or(false) {
                return;
            }
        }
    }

    /// Tries until the Lease is renewed; false when it is somebody else's.
    async fn renew_until_done(&self, held: &mut Held) -> bool {
        loop {
            let since = Instant::now();
            match timeout(ONE_TRY, self.renew(&mut held.lease)).await {
                Ok(Ok(())) => {
                    held.since = since;
                    return true;
                }
                Ok(Err(error @ RenewError::Lost(_))) => {
                    tracing::warn!(lease = %self.name, %error, "lost");
                    return false;
                }
                Ok(Err(error)) => tracing::debug!(lease = %self.name, %error, "not renewed"),
                Err(_) => tracing::debug!(lease = %self.name, "not renewed in time"),
            }
            sleep((self.timing.retry / 4).mul_f64(rand::random_range(0.8..1.2))).await;
        }
    }

    async fn renew(&self, lease: &mut Lease) -> Result<(), RenewError> {
        let api = self.api();
        let mut wanted = lease.clone();
        wanted.spec = Some(self.taken(lease.spec.as_ref()));
        match api.replace(&self.name, &PostParams::default(), &wanted).await {
            Ok(written) => *lease = written,
            // Perhaps by an earlier try of this very candidate.
            Err(error) if is_conflict(&error) => {
                let found = api.get(&self.name).await?;
                let holder = found.spec.as_ref().and_then(holder).unwrap_or_default();
                if holder != self.identity {
                    return Err(RenewError::Lost(holder.to_owned()));
                }
                wanted = found.clone();
                wanted.spec = Some(self.taken(found.spec.as_ref()));
                *lease = api.replace(&self.name, &PostParams::default(), &wanted).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives the Lease up, so that the next one need not wait.
    async fn release(&self, mut held: Held) {
        let now = Some(MicroTime(Timestamp::now()));
        let release = |lease: &mut Lease| {
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            (spec.acquire_time, spec.renew_time) = (now.clone(), now.clone());
        };
        let api = self.api();
        let give_up = async {
            release(&mut held.lease);
            match api.replace(&self.name, &PostParams::default(), &held.lease).await {
                // A renewal was under way.
                Err(error) if is_conflict(&error) => {
                    let mut found = api.get(&self.name).await?;
                    if found.spec.as_ref().and_then(holder) == Some(self.identity.as_str()) {
                        release(&mut found);
                        api.replace(&self.name, &PostParams::default(), &found).await?;
                    }
                    Ok(())
                }
                outcome => outcome.map(drop),
            }
        };
        match timeout(FAREWELL, give_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(lease = %self.name, %error, "the lease was not given up; it ends by itself")
            }
            Err(_) => tracing::debug!(lease = %self.name, "the lease was not given up in time; it ends by itself"),
        }
    }
}

#[cfg(test)]
mod tests;
