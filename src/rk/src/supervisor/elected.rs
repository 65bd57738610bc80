//! What runs on one server of the cluster at a time: controllers and scheduler, each under a Lease in `kube-system` of
//! upstream's name.
//!
//! Invariant: a server's identity is the same after a restart, so that it goes on at once with what it held.

use client::Election;
use kube::Client;
use std::time::Duration;
use storage::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) const CONTROLLERS: &str = "kube-controller-manager";
pub(super) const SCHEDULER: &str = "kube-scheduler";
const NAMESPACE: &str = "kube-system";
/// By then all that the work has left behind is freed.
const SETTLED: Duration = Duration::from_secs(2);

/// This server as a candidate.
pub(super) struct Candidate {
    identity: String,
    alone: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Candidate {
    pub(super) fn new(store: &Store, name: &str, stop: &CancellationToken) -> Self {
        Self { identity: identity(name, store.cluster_id(), store.node_id()), alone: alone(store), stop: stop.clone() }
    }

    /// Runs what `work` makes whenever this server is elected, until it stops.
    pub(super) fn run<W, F>(&self, lease: &str, client: Client, mut work: W) -> JoinHandle<()>
    where
        W: FnMut(CancellationToken) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let election = Election::new(client, NAMESPACE, lease, self.identity.clone(), self.alone.clone());
        let work = move |leading| {
            let work = work(leading);
            async move {
                work.await;
                tokio::spawn(give_back());
            }
        };
        tokio::spawn(election.run(self.stop.clone(), work))
    }
}

/// What the work has watched may be most of what the process held.
async fn give_back() {
    tokio::time::sleep(SETTLED).await;
    if let Err(error) = tokio::task::spawn_blocking(runtime::trim_heap).await {
        tracing::debug!(%error, "the heap was not trimmed");
    }
}

/// Upstream's form, the name of the host and a UUID: here one that the data directory settles.
fn identity(name: &str, cluster: u64, member: u64) -> String {
    let hex = format!("{cluster:016x}{member:016x}");
    format!("{name}_{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// True while the store has no other member: then nobody else can be at work.
fn alone(store: &Store) -> watch::Receiver<bool> {
    let (mut members, me) = (store.member_changes(), store.node_id());
    let (sender, receiver) = watch::channel(store.is_sole_member());
    tokio::spawn(async move {
        while let Some(members) = members.next().await {
            let alone = members == [me];
            sender.send_if_modified(|before| std::mem::replace(before, alone) != alone);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_name_and_a_uuid_of_the_data_directory() {
        let one = identity("a", 0x0123_4567_89ab_cdef, 1);
        assert_eq!(one, "a_01234567-89ab-cdef-0000-000000000001");
        assert_ne!(one, identity("a", 0x0123_4567_89ab_cdef, 2));
    }
}
