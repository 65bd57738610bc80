//! The writer: one task that turns the requests that wait into one proposal, thus one log entry and one flush.
//!
//! While a proposal is on its way the next requests gather, so the batch grows with the load by itself. Space for the
//! entry is taken before it is proposed: a full disk refuses the requests and leaves the Raft core alone. Who leads, and
//! thus where a batch goes, is the business of `cluster::propose`.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, Lead};
use crate::command::{Command, Reply};
use crate::error::StoreError;

/// Requests that share one entry at most; keeps the time in the state's write lock short.
const MAX_BATCH: usize = 1024;
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Batches on their way at a time: to the own log, and to another leader.
const PROPOSED: usize = 4;
const FORWARDED: usize = 32;

/// A request that waits for its turn.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) command: Command,
    pub(crate) size: usize,
    /// It makes sense only if this member leads.
    pub(crate) here_only: bool,
    pub(crate) arrived: Instant,
    pub(crate) reply: oneshot::Sender<Result<Reply, StoreError>>,
}

enum Event {
    Request(Pending),
    HeldLongEnough,
    Closing,
    End,
}

pub(crate) struct Writer {
    cluster: Arc<Cluster>,
    requests: mpsc::Receiver<Pending>,
    closing: watch::Receiver<bool>,
    /// Coalesced writes that wait for company, since with several voters each entry is flushed.
    held: Vec<Pending>,
    last_entry: Instant,
    on_their_way: JoinSet<()>,
}

impl Writer {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        requests: mpsc::Receiver<Pending>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let last_entry = Instant::now();
        Self { cluster, requests, closing, held: Vec::new(), last_entry, on_their_way: JoinSet::new() }
    }

    /// Runs until the store closes; what was accepted before is still answered.
    pub(crate) async fn run(mut self) {
        loop {
            let due = self.last_entry + self.cluster.timing.hold;
            let event = tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing), if !self.requests.is_closed() => Event::Closing,
                () = tokio::time::sleep_until(due), if !self.held.is_empty() => Event::HeldLongEnough,
                Some(_) = self.on_their_way.join_next() => continue,
                first = self.requests.recv() => first.map_or(Event::End, Event::Request),
            };
            match event {
                Event::Request(first) => {
                    let batch = self.gather(first);
                    self.dispatch(batch).await;
                }
                Event::HeldLongEnough => self.dispatch(Vec::new()).await,
                Event::Closing => self.requests.close(),
                Event::End => break,
            }
        }
        self.send_held().await;
        while self.on_their_way.join_next().await.is_some() {}
    }

    fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let mut size = first.size;
        let here_only = first.here_only;
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH && size < MAX_BATCH_BYTES && !here_only {
            let Ok(next) = self.requests.try_recv() else { break };
            size += next.size;
            batch.push(next);
        }
        batch
    }

    async fn dispatch(&mut self, mut batch: Vec<Pending>) {
        if self.held.is_empty() && self.cluster.alone() {
            self.cluster.carry_out(batch).await;
            return;
        }
        // One that must not be passed on stands alone, so that it takes no other down with it.
        let (here_only, others): (Vec<_>, Vec<_>) = batch.drain(..).partition(|pending| pending.here_only);
        for pending in here_only {
            self.send(vec![pending], PROPOSED).await;
        }
        if self.cluster.lead() != Lead::Here {
            let (synced, coalesced) = others.into_iter().partition(|pending| pending.command.synced());
            self.send(synced, FORWARDED).await;
            self.held.extend(coalesced);
            self.send_held().await;
            return;
        }
        let urgent = others.iter().any(|pending| pending.command.synced());
        self.held.extend(others);
        if urgent || self.last_entry.elapsed() >= self.cluster.timing.hold || self.held.len() >= MAX_BATCH {
            self.send_held().await;
        }
    }

    async fn send_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.send(held, PROPOSED).await;
    }

    async fn send(&mut self, batch: Vec<Pending>, at_once: usize) {
        if batch.is_empty() {
            return;
        }
        while self.on_their_way.len() >= at_once {
            self.on_their_way.join_next().await;
        }
        self.last_entry = Instant::now();
        let cluster = self.cluster.clone();
        self.on_their_way.spawn(async move { cluster.carry_out(batch).await });
    }
}

/// The caller may be gone; its request counts all the same.
pub(crate) fn answer(reply: oneshot::Sender<Result<Reply, StoreError>>, outcome: Result<Reply, StoreError>) {
    drop(reply.send(outcome));
}

/// No space, or no more allowed by a quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
