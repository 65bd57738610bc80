//! The network between simulated members: late, lossy, out of order, and cut where the run wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::{Answer, Bytes, Member, MemberId, PeerIdentity, Store, Transport, TransportError};
use tokio::time::{Instant, sleep, sleep_until};

use super::trace::Trace;
use crate::seeded::Seeded;

/// How bad it is at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// Requests and answers that are lost, in a hundred.
    pub(super) loss: u64,
    /// Longest delay of each way, in microseconds.
    pub(super) delay: u64,
}

#[derive(Debug)]
struct State {
    random: Seeded,
    members: BTreeMap<MemberId, (Store, Arc<AtomicBool>)>,
    cuts: BTreeSet<(MemberId, MemberId)>,
    /// Stopped until then: nothing reaches it and nothing leaves it.
    stopped: BTreeMap<MemberId, Instant>,
    weather: Weather,
}

#[derive(Clone, Debug)]
pub(super) struct Network {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

/// One member's way to the others, for as long as its process lives.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) network: Network,
    pub(super) from: MemberId,
    pub(super) alive: Arc<AtomicBool>,
}

impl Network {
    pub(super) fn new(random: Seeded, trace: Trace) -> Self {
        let weather = Weather { loss: 0, delay: 2000 };
        let (members, cuts, stopped) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { state: Arc::new(Mutex::new(State { random, members, cuts, stopped, weather })), trace }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connect(&self, id: MemberId, store: Store, alive: Arc<AtomicBool>) {
        self.state().members.insert(id, (store, alive));
    }

    pub(super) fn disconnect(&self, id: MemberId) {
        let gone = self.state().members.remove(&id);
        drop(gone);
    }

    pub(super) fn cut(&self, from: MemberId, to: MemberId) {
        self.state().cuts.insert((from, to));
    }

    pub(super) fn stop(&self, id: MemberId, until: Instant) {
        self.state().stopped.insert(id, until);
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Everything goes through again, soon.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.cuts.clear();
        state.stopped.clear();
        state.weather = Weather { loss: 0, delay: 2000 };
    }

    /// One way. False if it is lost.
    async fn travel(&self, from: MemberId, to: MemberId) -> bool {
        let (lost, delay) = {
            let mut state = self.state();
            let Weather { loss, delay } = state.weather;
            let lost = state.random.chance(loss) || state.cuts.contains(&(from, to));
            (lost, Duration::from_micros(200 + state.random.below(delay)))
        };
        sleep(delay).await;
        loop {
            let until = {
                let state = self.state();
                state.stopped.get(&from).max(state.stopped.get(&to)).copied()
            };
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => sleep_until(until).await,
                None => return !lost,
            }
        }
    }

    async fn carry(&self, from: MemberId, to: MemberId, request: Bytes) -> Result<Bytes, TransportError> {
        self.trace.note(|| format!("{from} asks {to}: {} bytes", request.len()));
        if !self.travel(from, to).await {
            return Err(TransportError::Lost);
        }
        let found = self.state().members.get(&to).cloned();
        let Some((store, alive)) = found else { return Err(TransportError::Unreachable) };
        let peer = PeerIdentity { name: Some(format!("m{from}")) };
        // It is carried out there even if the caller stops waiting.
        let answer = tokio::spawn(async move { store.handle(request, &peer).await }).await;
        let answer = answer.ok().filter(|_| alive.load(Ordering::SeqCst)).ok_or(TransportError::Lost)?;
        if !self.travel(to, from).await {
            return Err(TransportError::Lost);
        }
        self.trace.note(|| format!("{to} answers {from}: {} bytes", answer.len()));
        Ok(answer)
    }
}

impl Transport for Wire {
    fn call<'a>(&'a self, id: MemberId, _to: &'a Member, request: Bytes, _limit: Duration) -> Answer<'a> {
        Box::pin(async move {
            if !self.alive.load(Ordering::SeqCst) {
                return Err(TransportError::Unreachable);
            }
            let answer = self.network.carry(self.from, id, request).await;
            if self.alive.load(Ordering::SeqCst) { answer } else { Err(TransportError::Lost) }
        })
    }
}
