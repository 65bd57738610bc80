//! Whole clusters in one thread, on a clock that jumps: members on disks that lose power, a network that loses, delays,
//! reorders and parts, crashes, stops, clocks of different pace, members that come and go; clients and watchers all the
//! while, some of whom hold leases, watch one key only, or have the store forget what is old; disks that are full or slow.
//! Afterwards everything is healed, the members must agree, and the histories must be ones that a single store
//! could have produced. The same seed gives the same run.

mod clients;
mod cluster;
mod growing;
mod leases;
mod network;
mod trace;

use std::collections::BTreeSet;
use std::time::Duration;

use storage::{MemberError, MemberId, Store, WatchRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::counts::counts;
use crate::disk::Fault;
use crate::history::{self, Truth, changes, linear, revisions, watches};
use crate::power_cut::Violation;
use crate::seeded::Seeded;
use clients::Records;
use cluster::{Members, member};
use leases::Leases;
use network::Weather;
use trace::Trace;

/// For anything that must happen once all is healed, by the simulated clock.
const PATIENCE: Duration = Duration::from_secs(180);

counts! {
    /// How much a run has tried.
    pub struct Tried {
        pub operations,
        pub acknowledged,
        pub revisions,
        pub watched,
        pub crashes,
        pub power_cuts,
        pub partitions,
        pub stops,
        pub membership_changes,
        pub hand_overs,
        pub full_disks,
        pub slow_disks,
        pub renewals,
        pub compacted,
        /// A number that stands for everything that happened.
        pub digest,
    }
}

/// Runs one seed: with three members if it is even, else with five.
pub fn run(seed: u64) -> Result<Tried, Violation> {
    traced(seed).map(|(tried, _)| tried)
}

/// The same, with every message and answer.
pub fn traced(seed: u64) -> Result<(Tried, Vec<String>), Violation> {
    simulate(seed, async |run| run.all(if seed.is_multiple_of(2) { 3 } else { 5 }).await)
}

/// Runs one seed with a single member, which others join as learners or voters and leave again. A member that is alone
/// acknowledges coalesced writes from memory, and a power cut takes them: there is the one if the seed is even, else the other.
pub fn run_growing(seed: u64) -> Result<Tried, Violation> {
    simulate(seed, async |run| run.grow(seed.is_multiple_of(2)).await).map(|(tried, _)| tried)
}

fn simulate(
    seed: u64,
    course: impl AsyncFnOnce(&mut Run) -> Result<(), String>,
) -> Result<(Tried, Vec<String>), Violation> {
    let violation = |what: String, trace| Violation { seed, what, trace };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| violation(format!("no runtime: {error}"), Vec::new()))?;
    runtime.block_on(async {
        let trace = Trace::begin();
        let mut random = Seeded::new(seed);
        let members = Members::new(random.fork(), trace.clone());
        let mut run = Run {
            random,
            members,
            records: Records::default(),
            leases: Leases::default(),
            tried: Tried::default(),
            next: 1,
            doubtful: BTreeSet::new(),
        };
        match course(&mut run).await {
            Ok(()) => {
                run.tried.digest = trace.digest().0;
                Ok((run.tried, trace.lines()))
            }
            Err(what) => Err(violation(what, trace.lines())),
        }
    })
}

struct Run {
    random: Seeded,
    members: Members,
    records: Records,
    leases: Leases,
    tried: Tried,
    /// The id of the next member.
    next: MemberId,
    /// Members that were to be taken out, when nobody could tell whether they were.
    doubtful: BTreeSet<MemberId>,
}

impl Run {
    async fn all(&mut self, count: u64) -> Result<(), String> {
        self.begin(count).await?;
        let tasks = self.clients(true);
        for _ in 0..self.random.between(5, 14) {
            self.trouble().await?;
            let pause = self.random.between(50, 6000);
            self.pass(Duration::from_millis(pause)).await?;
        }
        self.heal().await?;
        self.pass(Duration::from_secs(8)).await?;
        drop(tasks);
        self.conclude().await
    }

    fn clients(&mut self, coalescing: bool) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for number in 0..5 {
            tasks.spawn(clients::client(
                (number, coalescing),
                self.random.fork(),
                self.members.running.clone(),
                self.records.clone(),
            ));
        }
        for _ in 0..3 {
            tasks.spawn(clients::watcher(self.random.fork(), self.members.running.clone(), self.records.clone(), None));
        }
        let only = Some("k0".to_owned());
        tasks.spawn(clients::watcher(self.random.fork(), self.members.running.clone(), self.records.clone(), only));
        tasks.spawn(clients::compactor(self.random.fork(), self.members.running.clone(), self.records.clone()));
        for number in 1..3 {
            let running = self.members.running.clone();
            tasks.spawn(leases::holder(number, self.random.fork(), running, self.leases.clone()));
        }
        tasks
    }

    async fn begin(&mut self, count: u64) -> Result<(), String> {
        for _ in 0..count {
            self.join().await?;
        }
        Ok(())
    }

    /// A new member joins and becomes a voter.
    async fn join(&mut self) -> Result<(), String> {
        self.join_as(true).await
    }

    async fn join_as(&mut self, voter: bool) -> Result<(), String> {
        let id = self.next;
        self.next += 1;
        self.members.start(id).await.map_err(|error| format!("member {id} does not start: {error}"))?;
        if id == 1 {
            self.members.cluster = self.store(1)?.cluster();
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(other) = self.members.running.stores().into_iter().find(|store| store.node_id() != id) else {
                return Err("nobody is left to join".to_owned());
            };
            let joined = async {
                other.add_member(id, member(id)).await?;
                if voter { other.promote(id).await } else { Ok(()) }
            };
            match joined.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(format!("member {id} does not join: {error}")),
                Err(_) => {
                    // Of two voters neither may be missing: one whose power has gone meanwhile comes back.
                    self.pass(Duration::from_millis(100)).await?;
                    let down = self.members.down();
                    self.restart(&down).await?;
                }
            }
        }
    }

    fn disk(&self, id: MemberId) -> Result<&crate::disk::MemoryDisk, String> {
        self.members.disk(id).ok_or_else(|| format!("member {id} has no disk"))
    }

    fn store(&self, id: MemberId) -> Result<Store, String> {
        self.members.running.store(id).ok_or_else(|| format!("member {id} does not run"))
    }

    /// Lets time go by; a member whose power goes meanwhile is down.
    async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
            for id in self.members.running.ids() {
                if self.members.disk(id).is_some_and(crate::disk::MemoryDisk::is_off) {
                    self.tried.power_cuts += 1;
                    self.members.crash(id, true);
                }
            }
        }
        Ok(())
    }

    /// Something goes wrong, or a little better.
    async fn trouble(&mut self) -> Result<(), String> {
        let running = self.members.running.ids();
        let all = self.members.ids();
        let most_down = all.len() / 2;
        let down = self.members.down();
        let some = running.get(self.random.index(running.len())).copied();
        let leader = self.members.running.stores().iter().find(|store| store.is_leader()).map(Store::node_id);
        let victim = if self.random.chance(50) { leader.or(some) } else { some };
        let Some(victim) = victim else { return self.restart(&down).await };
        match self.random.below(15) {
            0 | 1 if down.len() < most_down => {
                self.tried.crashes += 1;
                self.members.crash(victim, false);
            }
            2 | 3 if down.len() < most_down => {
                let after = self.random.below(60);
                self.members.running.trace.note(|| format!("the power of {victim} goes after {after} operations"));
                if let Some(disk) = self.members.disk(victim) {
                    disk.arm(after, Fault::PowerCut);
                }
            }
            4 | 5 => self.part(&all, victim),
            6 => {
                self.tried.stops += 1;
                let until = Instant::now() + Duration::from_millis(self.random.between(100, 8000));
                self.members.running.trace.note(|| format!("{victim} is stopped"));
                self.members.network.stop(victim, until);
            }
            7 => {
                let weather = Weather { loss: self.random.below(25), delay: self.random.between(2_000, 600_000) };
                self.members.running.trace.note(|| format!("{weather:?}"));
                self.members.network.set_weather(weather);
            }
            8 => {
                self.members.running.trace.note(|| "the network is healed".to_owned());
                self.members.network.heal();
            }
            9 => {
                let heir = running[self.random.index(running.len())];
                if let Some(store) = self.members.running.store(victim)
                    && let Ok(Ok(())) = timeout(Duration::from_secs(15), store.transfer_leader(heir)).await
                {
                    self.tried.hand_overs += 1;
                }
            }
            10 if down.is_empty() => return self.replace(victim).await,
            12 => {
                self.tried.full_disks += 1;
                self.members.running.trace.note(|| format!("the disk of {victim} is full"));
                self.disk(victim)?.set_full(true);
            }
            13 => {
                self.tried.slow_disks += 1;
                let flush = Duration::from_millis(self.random.between(10, 3000));
                self.members.running.trace.note(|| format!("the disk of {victim} takes {flush:?}"));
                self.disk(victim)?.set_slow(flush);
            }
            14 => self.members.mend_disks(),
            _ => return self.restart(&down).await,
        }
        Ok(())
    }

    async fn restart(&mut self, down: &[MemberId]) -> Result<(), String> {
        for id in down {
            // Without space it would say so and end.
            self.disk(*id)?.set_full(false);
            self.members.start(*id).await.map_err(|error| format!("member {id} does not start again: {error}"))?;
        }
        Ok(())
    }

    /// Parts the members in two, or cuts one way only.
    fn part(&mut self, all: &[MemberId], victim: MemberId) {
        self.tried.partitions += 1;
        let one_way = self.random.chance(30);
        let random = &mut self.random;
        let side: Vec<_> = all.iter().copied().filter(|id| *id == victim || random.chance(30)).collect();
        self.members.running.trace.note(|| format!("{side:?} are cut off{}", if one_way { " one way" } else { "" }));
        for one in &side {
            for other in all.iter().filter(|other| !side.contains(other)) {
                self.members.network.cut(*one, *other);
                if !one_way {
                    self.members.network.cut(*other, *one);
                }
            }
        }
    }

    /// Takes a member out and has a new one join.
    async fn replace(&mut self, victim: MemberId) -> Result<(), String> {
        self.members.network.heal();
        self.members.mend_disks();
        let others: Vec<_> = self.members.running.ids().into_iter().filter(|id| *id != victim).collect();
        let other = others[self.random.index(others.len())];
        if self.take_out(victim, other, Duration::from_secs(60)).await? { self.join().await } else { Ok(()) }
    }

    /// Has `by` take a member out; whether it is known to be.
    async fn take_out(&mut self, victim: MemberId, by: MemberId, limit: Duration) -> Result<bool, String> {
        let removed = timeout(limit, self.store(by)?.remove_member(victim)).await;
        self.members.running.trace.note(|| format!("{victim} is taken out: {removed:?}"));
        if matches!(removed, Err(_) | Ok(Err(MemberError::Unknown | MemberError::Closed))) {
            self.doubtful.insert(victim);
        }
        if !matches!(removed, Ok(Ok(()))) {
            return Ok(false);
        }
        self.tried.membership_changes += 1;
        self.members.discard(victim);
        Ok(true)
    }

    async fn heal(&mut self) -> Result<(), String> {
        self.members.running.trace.note(|| "all is healed".to_owned());
        self.members.network.heal();
        self.members.mend_disks();
        // Cuts that are still to come do not.
        for id in self.members.running.ids() {
            if self.members.disk(id).is_some_and(crate::disk::MemoryDisk::is_off) {
                self.members.crash(id, true);
            }
            if let Some(disk) = self.members.disk(id) {
                disk.disarm();
            }
        }
        let down = self.members.down();
        self.restart(&down).await
    }

    /// Everyone agrees, and what was told is true.
    async fn conclude(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut stores = self.members.running.stores();
        loop {
            stores.retain(|store| !(self.doubtful.contains(&store.node_id()) && store.status().excluded.is_some()));
            let barriers = futures(&stores).await;
            let revisions: Vec<_> = stores.iter().map(Store::revision).collect();
            if barriers && revisions.windows(2).all(|pair| pair[0] == pair[1]) {
                break;
            }
            if Instant::now() > deadline {
                let statuses: Vec<_> = stores.iter().map(Store::status).collect();
                return Err(format!("the members do not agree after all is healed: {statuses:#?}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        let chronicle = self.records.chronicle();
        if let Some(flaw) = chronicle.flaw {
            return Err(flaw);
        }
        let compacted = stores.first().map_or(0, Store::compacted);
        self.tried.compacted = compacted;
        let mut truth: Option<Truth> = None;
        for store in &stores {
            let mut found = chronicle.truth.clone();
            found.retain(|revision, _| *revision <= compacted);
            found.extend(all_changes(store, compacted + 1).await?);
            if truth.as_ref().is_some_and(|truth| *truth != found) {
                return Err(format!("member {} has another history", store.node_id()));
            }
            truth = Some(found);
        }
        let truth = truth.unwrap_or_default();
        if chronicle.truth.iter().any(|(revision, changes)| truth.get(revision) != Some(changes)) {
            return Err("a watcher saw something that has not happened".to_owned());
        }
        let operations = self.records.history().operations();
        self.tried.operations = operations.len() as u64;
        self.tried.acknowledged = operations.iter().filter(|operation| operation.returned.is_some()).count() as u64;
        self.tried.revisions = truth.len() as u64;
        // Leases end by themselves, without anybody asking.
        let mut asked = truth.clone();
        asked.values_mut().for_each(|changes| changes.retain(|(key, _)| !key.starts_with(leases::PREFIX)));
        revisions::check(&operations, &asked).map_err(|error| error.to_string())?;
        for (only, seen) in self.records.watches() {
            self.tried.watched += seen.batches.len() as u64;
            let truth = only.as_ref().map_or_else(|| truth.clone(), |key| watches::of_key(&truth, key));
            watches::check(&seen, &truth).map_err(|flaw| format!("a watch of {only:?} from {}: {flaw}", seen.from))?;
        }
        let (renewals, flaw) = self.leases.outcome();
        self.tried.renewals = renewals;
        if let Some(flaw) = flaw {
            return Err(flaw);
        }
        while stores.iter().any(|store| !store.leases().is_empty()) {
            if Instant::now() > deadline {
                return Err("there are leases that nobody renews and that do not end".to_owned());
            }
            sleep(Duration::from_millis(100)).await;
        }
        linear::check(&operations).map_err(|error| error.to_string())
    }
}

async fn futures(stores: &[Store]) -> bool {
    for store in stores {
        if !matches!(timeout(Duration::from_secs(10), store.read_barrier()).await, Ok(Ok(_))) {
            return false;
        }
    }
    true
}

/// Everything that a member says has happened since.
async fn all_changes(store: &Store, from: u64) -> Result<Truth, String> {
    let request = WatchRequest { from, end: Some("".into()), ..WatchRequest::default() };
    let mut watcher = store.watch(request).map_err(|error| format!("no history: {error}"))?;
    watcher.progress_handle().request();
    let mut truth = history::Truth::new();
    loop {
        let batch = timeout(PATIENCE, watcher.next()).await.map_err(|_| "a watch hangs".to_owned())?;
        let batch = batch.map_err(|error| format!("the history ends: {error}"))?;
        if batch.events.is_empty() {
            return Ok(truth);
        }
        truth.insert(batch.revision, changes(&batch.events));
    }
}
