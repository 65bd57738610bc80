//! Entries of a sole member: written by the Raft core, flushed and applied beside it.
//!
//! Where there is no other member, voter or learner, nobody has a say in what becomes of an entry. So the Raft core is told
//! that it is durable as soon as it is written, and takes it for committed, while it is flushed here; then it is
//! applied, and those who wait are answered.
//!
//! Invariants: one flush runs at a time, and what is written meanwhile is flushed next; nothing is applied before its flush,
//! or out of order; what comes after a flush that failed is refused. Whatever else enters the log waits until all of
//! this is over ([`Beside::done`]); and as long as any of that is not applied, what comes after it is left to the Raft
//! core, too ([`Beside::follows`]).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use openraft::{Entry, StorageIOError};
use tokio::sync::Notify;

use super::log_store::{LogFiles, LogStore, proposals};
use super::{StorageError, Types};
use crate::disk;
use crate::error::StoreError;
use crate::log::Flush;
use crate::proposal::Proposal;

type Entries = Vec<Entry<Types>>;

/// What is on its way beside the Raft core.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    state: Mutex<State>,
    /// Something has ended. Wakes in the order of arrival.
    news: Notify,
    /// Index of the newest entry that was left to the Raft core, whose own task applies it some time later.
    left: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    flushing: bool,
    /// Written while a flush runs; the next one is theirs.
    ahead: Option<Entries>,
    /// To be applied, or refused when their flush has failed.
    flushed: VecDeque<(Entries, bool)>,
    applying: bool,
    /// How many requests the last entry had.
    last: usize,
}

impl State {
    fn is_idle(&self) -> bool {
        !self.flushing && !self.applying && self.flushed.is_empty()
    }
}

impl Beside {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries up to this one are applied by the Raft core.
    pub(super) fn leave(&self, index: u64) {
        self.left.store(index, Ordering::Relaxed);
    }

    /// Whether all that was left to the Raft core is applied, so that nothing can overtake it.
    pub(super) fn follows(&self, applied: u64) -> bool {
        applied >= self.left.load(Ordering::Relaxed)
    }

    /// Waits until everything is flushed and applied.
    pub(crate) async fn done(&self) {
        loop {
            let news = self.news.notified();
            if self.state().is_idle() {
                return;
            }
            news.await;
        }
    }

    /// Waits until an entry may be written: no other one waits for its flush, and either no flush runs, or as many requests
    /// wait as the last entry had. Clients who are answered together come back together, so no more may come for now.
    async fn turn(&self, proposal: Option<&Proposal>) {
        loop {
            let news = self.news.notified();
            let wanted = {
                let state = self.state();
                match (&state.ahead, state.flushing) {
                    (None, false) => return,
                    (None, true) => Some(state.last.max(1)),
                    (Some(_), _) => None,
                }
            };
            match wanted.zip(proposal.and_then(Proposal::lane)) {
                None => news.await,
                Some((wanted, lane)) => tokio::select! {
                    biased;
                    () = news => {}
                    () = lane.gathered(wanted) => return,
                },
            }
        }
    }

    fn end(&self) {
        self.state().flushing = false;
        self.news.notify_waiters();
    }
}

pub(super) fn failed(error: &io::Error) -> StorageError {
    StorageIOError::write_logs(error).into()
}

/// After a panic nothing more is written, and nobody waits for what will never end.
struct Guard<'a> {
    files: &'a LogFiles,
    /// What it is about.
    entries: &'a [Entry<Types>],
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        tracing::error!("a panic while the log was flushed, or applied");
        self.files.fail();
        let State { ahead, flushed, .. } = std::mem::take(&mut *self.files.beside.state());
        for entries in [self.entries].into_iter().chain(ahead.as_deref()).chain(flushed.iter().map(|(all, _)| &all[..]))
        {
            proposals(entries).for_each(|proposal| proposal.fail(&StoreError::Failed));
        }
        self.files.beside.news.notify_waiters();
    }
}

impl LogStore {
    /// Writes entries of a sole member, and has them flushed and applied.
    pub(super) async fn write_alone(&self, entries: &[Entry<Types>]) -> Result<(), StorageError> {
        let beside = &self.files.beside;
        beside.turn(proposals(entries).next()).await;
        // What was to be flushed before is not applied, so nothing after it may be.
        self.files.usable().map_err(|error| failed(&error))?;
        self.files.seal(entries);
        let synced = self.files.append(entries)?;
        proposals(entries).for_each(Proposal::apply_beside);
        let in_place = {
            let mut state = beside.state();
            state.last = proposals(entries).map(|proposal| proposal.batch().commands.len()).sum();
            if state.flushing {
                state.ahead = Some(entries.to_vec());
                return Ok(());
            }
            let in_place = state.is_idle();
            if !synced && in_place {
                drop(state);
                self.files.unsynced.notify_one();
                self.machine.apply_beside(entries);
                return Ok(());
            }
            state.flushing = true;
            in_place
        };
        self.flush_first(entries, in_place).inspect_err(|_| beside.end()).map_err(|error| failed(&error))
    }

    /// Flushes what is quickly flushed in place, if it may, and all else on a thread of its own.
    fn flush_first(&self, entries: &[Entry<Types>], in_place: bool) -> io::Result<()> {
        match self.files.begin_flush()? {
            Some(flush) if in_place && self.files.is_quick(&flush) => {
                let _guard = self.guard(entries);
                self.files.end_flush(&flush, flush.sync())?;
                self.machine.apply_beside(entries);
                self.files.beside.end();
            }
            flush => {
                let (this, entries) = (self.clone(), entries.to_vec());
                disk::beside(&*self.files.disk, move || this.flush_beside(Ok(flush), entries));
            }
        }
        Ok(())
    }

    fn guard<'a>(&'a self, entries: &'a [Entry<Types>]) -> Guard<'a> {
        Guard { files: &self.files, entries }
    }

    /// Flushes, and goes on with what was written meanwhile.
    fn flush_beside(self, mut flush: io::Result<Option<Flush>>, mut entries: Entries) {
        loop {
            let synced = {
                let _guard = self.guard(&entries);
                flush.and_then(|flush| match flush {
                    Some(flush) => self.files.end_flush(&flush, flush.sync()),
                    None => Ok(()),
                })
            };
            if let Err(error) = &synced {
                // The Raft core learns of it by the next entry.
                tracing::error!(%error, "the log cannot be flushed");
            }
            let Some(next) = self.flushed(entries, synced.is_ok()) else { return };
            (flush, entries) = (self.files.begin_flush(), next);
            if self.files.disk.is_instant() {
                let (this, disk) = (self.clone(), self.files.disk.clone());
                return disk::beside(&*disk, move || this.flush_beside(flush, entries));
            }
        }
    }

    /// Has flushed entries applied, in another task; returns those that are to be flushed next.
    fn flushed(&self, entries: Entries, synced: bool) -> Option<Entries> {
        let beside = &self.files.beside;
        let (next, begin) = {
            let mut state = beside.state();
            state.flushed.push_back((entries, synced));
            let next = state.ahead.take();
            state.flushing = next.is_some();
            (next, !std::mem::replace(&mut state.applying, true))
        };
        beside.news.notify_waiters();
        if begin {
            let this = self.clone();
            tokio::spawn(async move { this.apply_flushed() });
        }
        next
    }

    fn apply_flushed(&self) {
        let beside = &self.files.beside;
        loop {
            let (entries, synced) = {
                let mut state = beside.state();
                let Some(first) = state.flushed.pop_front() else {
                    state.applying = false;
                    break;
                };
                first
            };
            if synced {
                let _guard = self.guard(&entries);
                self.machine.apply_beside(&entries);
            } else {
                proposals(&entries).for_each(|proposal| proposal.fail(&StoreError::Failed));
            }
        }
        beside.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
