//! The writer: one task that turns the requests that wait into one proposal, thus one log entry and one flush.
//!
//! While a proposal is on its way the next requests gather, so the batch grows with the load by itself. Space for the
//! entry is taken before it is proposed: a full disk refuses the requests and leaves the Raft core alone. Who leads, and
//! thus where a batch goes, is the business of `cluster::propose`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use crate::cluster::propose::Written;
use crate::cluster::{Cluster, Lead};
use crate::error::StoreError;
use crate::proposal::{Gathering, Lane, MAX_BATCH, Pending, Proposal};
use crate::raft::Outcome;

/// Batches on their way at a time: to the own log, and to another leader.
const OPEN: usize = 4;
const PROPOSED: usize = 4;
const FORWARDED: usize = 32;

enum Event {
    Request(Pending),
    /// What became of the oldest open batch.
    Written(Proposal, Instant, Result<Outcome, RecvError>),
    HeldLongEnough,
    /// Nothing has come back for a while.
    Silence,
    Closing,
    End,
}

pub(crate) struct Writer {
    cluster: Arc<Cluster>,
    lane: Arc<Lane>,
    /// Batches of a member that leads alone, and when they were proposed, oldest first.
    open: VecDeque<(Proposal, Written, Instant)>,
    /// Those that the Raft core is done with, while they are flushed and applied beside it.
    unanswered: VecDeque<(Proposal, Instant)>,
    closing: watch::Receiver<bool>,
    /// Coalesced writes that wait for company, since with several voters each entry is flushed.
    held: Vec<Pending>,
    last_entry: Instant,
    on_their_way: JoinSet<()>,
    /// When to look for what has waited too long, if it is set. Left alone once set: a timer that is set anew for each batch
    /// would wake another thread each time.
    silence: Pin<Box<Sleep>>,
    silence_set: bool,
}

impl Writer {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        requests: mpsc::Receiver<Pending>,
        gathering: Arc<Gathering>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let last_entry = Instant::now();
        let silence = Box::pin(tokio::time::sleep_until(last_entry));
        let lane = Arc::new(Lane::new(requests, gathering));
        Self {
            cluster,
            lane,
            open: VecDeque::new(),
            unanswered: VecDeque::new(),
            closing,
            held: Vec::new(),
            last_entry,
            on_their_way: JoinSet::new(),
            silence,
            silence_set: false,
        }
    }

    /// Runs until the store closes; what was accepted before is still answered.
    pub(crate) async fn run(mut self) {
        loop {
            match self.event().await {
                Event::Request(first) if self.held.is_empty() && self.cluster.leads_alone() => self.write(first).await,
                Event::Request(first) => {
                    let batch = self.gather(first);
                    self.dispatch(batch).await;
                }
                Event::Written(proposal, proposed, outcome) => self.written(proposal, proposed, outcome),
                Event::HeldLongEnough => self.dispatch(Vec::new()).await,
                Event::Silence => self.give_up(),
                Event::Closing => self.lane.close(),
                Event::End => break,
            }
        }
        self.send_held().await;
        while let Some((proposal, written, proposed)) = self.open.pop_front() {
            self.written(proposal, proposed, written.await);
        }
        while self.on_their_way.join_next().await.is_some() {}
        self.cluster.files.done_beside().await;
    }

    async fn event(&mut self) -> Event {
        let due = self.last_entry + self.cluster.timing.hold;
        loop {
            while self.unanswered.pop_front_if(|(proposal, _)| proposal.is_answered()).is_some() {}
            if !self.open.is_empty() || !self.unanswered.is_empty() {
                self.set_silence();
            }
            let room = self.open.len() < OPEN;
            let oldest = async {
                match self.open.front_mut() {
                    Some((_, written, _)) => written.await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing), if !self.lane.is_closed() => return Event::Closing,
                () = tokio::time::sleep_until(due), if !self.held.is_empty() => return Event::HeldLongEnough,
                Some(_) = self.on_their_way.join_next() => continue,
                outcome = oldest => outcome,
                first = self.lane.next(), if room => {
                    return first.map_or(Event::End, Event::Request);
                }
                () = self.silence.as_mut(), if self.silence_set => return Event::Silence,
            };
            if let Some((proposal, _, proposed)) = self.open.pop_front() {
                return Event::Written(proposal, proposed, outcome);
            }
        }
    }

    /// Proposes a batch, and lets it take what comes until it is written.
    async fn write(&mut self, first: Pending) {
        let Some((proposal, written)) = self.cluster.propose_open(first, &self.lane).await else { return };
        self.open.push_back((proposal, written, Instant::now()));
        loop {
            self.set_silence();
            let Some((_, written, _)) = self.open.back_mut() else { return };
            tokio::select! {
                biased;
                () = self.lane.sealed.notified() => return,
                outcome = written => {
                    if let Some((proposal, _, proposed)) = self.open.pop_back() {
                        self.written(proposal, proposed, outcome);
                    }
                    return;
                }
                () = self.silence.as_mut() => self.give_up(),
            }
        }
    }

    fn set_silence(&mut self) {
        if !std::mem::replace(&mut self.silence_set, true) {
            self.silence.as_mut().reset(Instant::now() + self.cluster.timing.answer / 4);
        }
    }

    /// Tells those who have waited for longer than a flush may take that nobody knows what comes of their requests.
    fn give_up(&mut self) {
        self.silence_set = false;
        let Some(since) = Instant::now().checked_sub(self.cluster.timing.answer) else { return };
        let open = self.open.iter().map(|(proposal, _, proposed)| (proposal, proposed));
        let all = self.unanswered.iter().map(|(proposal, proposed)| (proposal, proposed)).chain(open);
        all.filter(|(_, proposed)| **proposed <= since).for_each(|(proposal, _)| proposal.fail(&StoreError::Unknown));
        self.lane.give_up(since);
    }

    /// Those who wait were told when the batch was applied, unless it was not.
    fn written(&mut self, proposal: Proposal, proposed: Instant, outcome: Result<Outcome, RecvError>) {
        match outcome {
            Ok(Ok(_)) if proposal.is_answered() => {}
            Ok(Ok(_)) => self.unanswered.push_back((proposal, proposed)),
            // It has not happened, and may elsewhere.
            Ok(Err(_)) => {
                for pending in proposal.take_back() {
                    let cluster = self.cluster.clone();
                    self.on_their_way.spawn(async move { cluster.carry_out(vec![pending]).await });
                }
            }
            Err(_) => proposal.fail(&StoreError::Failed),
        }
    }

    fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let here_only = first.here_only;
        let size = first.size;
        self.lane.put_back(first);
        // One that must not be passed on begins no batch of others.
        self.lane.gather(|total| total == size || !here_only)
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

/// No space, or no more allowed by a quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
