//! Clients that ask for a leader (`hasleader` in a call's metadata, which kube-apiserver sends with every watch): their
//! calls are refused while this member is in touch with none, and their streams are ended when that lasts, so that they
//! go on at another member.

use std::sync::Weak;

use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;
use tokio::time::Instant;

use super::status::{Code, Status};
use super::{Endpoint, Inner};
use crate::members::Member;

pub(super) fn no_leader() -> Status {
    Status::new(Code::Unavailable, "etcdserver: no leader")
}

impl Endpoint {
    /// Returns once no leader has been heard of for a while.
    pub(super) async fn leaderless(&self) -> Status {
        let mut leaderless = self.inner.leaderless.subscribe();
        loop {
            if leaderless.wait_for(|lost| *lost).await.is_err() {
                return Status::stopped();
            }
            if self.store().reachable_leader().is_none() {
                return no_leader();
            }
            // There is one again, which is yet to be told.
            if leaderless.changed().await.is_err() {
                return Status::stopped();
            }
        }
    }
}

/// Keeps [`Inner::leaderless`] true to the facts. Sleeps without a timer while there are no other members, and ends with
/// the endpoint or its store.
pub(super) async fn watch_over(inner: Weak<Inner>, mut metrics: watch::Receiver<RaftServerMetrics<u64, Member>>) {
    let mut lost: Option<Instant> = None;
    loop {
        metrics.borrow_and_update();
        let pause = {
            let Some(inner) = inner.upgrade() else { return };
            let timing = inner.store.timing();
            lost = match inner.store.reachable_leader() {
                Some(_) => None,
                None => Some(lost.unwrap_or_else(Instant::now)),
            };
            let leaderless = lost.is_some_and(|since| since.elapsed() >= timing.election.1);
            inner.leaderless.send_if_modified(|told| std::mem::replace(told, leaderless) != leaderless);
            (lost.is_some() || inner.store.has_peers()).then_some(timing.heartbeat)
        };
        let changed = metrics.changed();
        let ended = match pause {
            Some(pause) => matches!(tokio::time::timeout(pause, changed).await, Ok(Err(_))),
            None => changed.await.is_err(),
        };
        if ended {
            return;
        }
    }
}
