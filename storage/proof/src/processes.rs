//! Real processes, one for each member, on real files: killed, stopped, cut off from each other in both directions or in
//! one, without space on their disks, replaced, while clients read, write and watch. Afterwards all is mended, without a
//! restart where none was needed, the members must agree, and the histories must be ones that a single store could have
//! produced. The seed decides what happens, but not when exactly: a run cannot be repeated.

mod clients;
mod links;
mod machine;
mod member;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage::{ClusterId, MemberId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::counts::counts;
use crate::history::{Truth, linear, revisions, watches};
use crate::power_cut::Violation;
use crate::seeded::Seeded;
use clients::Shared;
use links::{Link, Links};
use machine::Machine;
pub use machine::Program;
use member::Identity;
pub use member::{MEMBER, main};

/// Kinds of trouble, by the number that is drawn; those between this one and the next are the same.
const KILL: u64 = 0;
const STOP: u64 = 3;
const PART: u64 = 5;
/// For what a run must have done at least, however busy the machine is.
const LONGEST: Duration = Duration::from_secs(180);
/// For anything that must happen once all is mended.
const PATIENCE: Duration = Duration::from_secs(90);

counts! {
    /// How much a run has tried.
    pub struct Tried {
        pub operations,
        pub acknowledged,
        pub revisions,
        pub watched,
        pub kills,
        pub stops,
        pub cuts,
        pub one_way_cuts,
        pub full_disks,
        pub membership_changes,
        pub hand_overs,
    }
}

/// How long trouble goes on: for some time, and then until clients have seen enough.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub time: Duration,
    /// Operations that were acknowledged, at least.
    pub acknowledged: usize,
    /// Revisions that watchers were told of, at least.
    pub watched: usize,
}

/// Runs a cluster of so many members in trouble, below an empty directory.
pub fn run(program: &Program, root: &Path, seed: u64, members: u64, trouble: Trouble) -> Result<Tried, Violation> {
    let mut trace = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let mut run = Run::new(program, root, seed);
            let outcome = run.all(members, trouble).await;
            trace = std::mem::take(&mut run.trace);
            outcome.map(|()| run.tried)
        }),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    outcome.map_err(|what| Violation { seed, what, trace })
}

struct Run {
    random: Seeded,
    program: Program,
    root: PathBuf,
    began: Instant,
    machines: BTreeMap<MemberId, Machine>,
    /// By the two members that a link joins.
    laid: BTreeMap<(MemberId, MemberId), Link>,
    links: Links,
    shared: Shared,
    cluster: Option<ClusterId>,
    tried: Tried,
    trace: Vec<String>,
    next: MemberId,
    /// Kinds of trouble that each run begins with, last first, so that even a short one on a busy machine has them.
    first: Vec<u64>,
}

impl Run {
    fn new(program: &Program, root: &Path, seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let links = Links::new(root, random.fork());
        Self {
            random,
            program: program.clone(),
            root: root.to_owned(),
            began: Instant::now(),
            machines: BTreeMap::new(),
            laid: BTreeMap::new(),
            links,
            shared: Shared::new(root),
            cluster: None,
            tried: Tried::default(),
            trace: Vec::new(),
            next: 1,
            first: vec![STOP, PART, KILL],
        }
    }

    fn note(&mut self, what: String) {
        self.trace.push(format!("{:>10.3?} {what}", self.began.elapsed()));
    }

    async fn all(&mut self, members: u64, trouble: Trouble) -> Result<(), String> {
        for _ in 0..members {
            self.join().await?;
        }
        let mut tasks = JoinSet::new();
        for number in 0..6 {
            tasks.spawn(clients::client(number, self.random.fork(), self.shared.clone()));
        }
        for only in [None, None, Some(clients::key(0)), Some(clients::key(1))] {
            tasks.spawn(clients::watcher(self.random.fork(), self.shared.clone(), only));
        }
        let begun = Instant::now();
        while begun.elapsed() < trouble.time || !(self.first.is_empty() && self.shared.has(&trouble)) {
            if begun.elapsed() > LONGEST.max(2 * trouble.time) {
                return Err(format!("clients get too little done for {trouble:?}"));
            }
            self.trouble().await?;
            let pause = self.random.between(100, 1500);
            self.pass(Duration::from_millis(pause)).await;
        }
        self.mend().await?;
        self.pass(Duration::from_secs(2)).await;
        drop(tasks);
        self.conclude().await
    }

    async fn say(&self, member: MemberId, line: &str) -> String {
        let answer = clients::ask(&self.root, member, line, Duration::from_secs(10)).await;
        answer.ok().flatten().unwrap_or_else(|| "unknown".to_owned())
    }

    fn running(&mut self) -> Vec<MemberId> {
        self.machines.iter_mut().filter_map(|(id, machine)| machine.runs().then_some(*id)).collect()
    }

    fn start(&mut self, id: MemberId) -> Result<(), String> {
        let program = self.program.clone();
        let machine = self.machines.get_mut(&id).ok_or("no such machine")?;
        machine.start(&program).map_err(|error| format!("member {id} does not start: {error}"))
    }

    /// A new machine, and its way into the cluster.
    async fn join(&mut self) -> Result<(), String> {
        let id = self.next;
        self.next += 1;
        let identity = Identity { id, dir: PathBuf::new(), run: self.root.clone(), join: self.cluster };
        let machine = Machine::new(&self.root, identity).map_err(|error| format!("no machine: {error}"))?;
        let others: Vec<_> = self.machines.keys().copied().collect();
        for (from, to) in others.iter().flat_map(|other| [(id, *other), (*other, id)]) {
            let link = self.links.lay(from, to).map_err(|error| format!("no link: {error}"))?;
            self.laid.insert((from, to), link);
        }
        self.machines.insert(id, machine);
        self.start(id)?;
        let deadline = Instant::now() + PATIENCE;
        if others.is_empty() {
            loop {
                let status = self.say(id, "status").await;
                let words: Vec<&str> = status.split(' ').collect();
                if let ["status", _, cluster, generation, ..] = words.as_slice()
                    && let (Ok(id), Ok(generation)) = (cluster.parse(), generation.parse())
                {
                    self.cluster = Some(ClusterId { id, generation });
                    break;
                }
                self.wait(deadline, "the first member does not serve").await?;
            }
        }
        for step in [format!("add {id}"), format!("promote {id}")].iter().filter(|_| !others.is_empty()) {
            let mut other = others[0];
            loop {
                let answer = self.say(other, step).await;
                if answer.starts_with("ok") {
                    break;
                }
                self.wait(deadline, &format!("member {id} does not join: {step}: {answer}")).await?;
                other = others[self.random.index(others.len())];
            }
        }
        self.shared.tell_members(self.machines.keys().copied().collect());
        self.note(format!("{id} has joined"));
        Ok(())
    }

    async fn wait(&self, deadline: Instant, what: &str) -> Result<(), String> {
        if Instant::now() > deadline {
            return Err(what.to_owned());
        }
        sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    /// Lets time go by; those who were stopped go on when their time has come.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
            let due = |machine: &&mut Machine| machine.stopped_until.is_some_and(|at| at <= Instant::now());
            self.machines.values_mut().filter(due).for_each(Machine::go_on);
        }
    }

    async fn leader(&mut self) -> Option<MemberId> {
        for id in self.running() {
            let answer = clients::ask(&self.root, id, "status", Duration::from_millis(300)).await;
            let leader = answer.ok().flatten().and_then(|status| status.split(' ').nth(1)?.parse().ok());
            if let Some(leader) = leader.filter(|leader| *leader != 0) {
                return Some(leader);
            }
        }
        None
    }

    async fn trouble(&mut self) -> Result<(), String> {
        let running = self.running();
        let all: Vec<_> = self.machines.keys().copied().collect();
        let down: Vec<_> = all.iter().copied().filter(|id| !running.contains(id)).collect();
        let some = running.get(self.random.index(running.len())).copied();
        let leads = self.leader().await.filter(|id| running.contains(id));
        let victim = if self.random.chance(60) { leads.or(some) } else { some };
        let Some(victim) = victim else { return self.restart(&down) };
        let what = self.first.pop().unwrap_or_else(|| self.random.below(14));
        match what {
            KILL..STOP if down.len() < all.len() / 2 => {
                self.tried.kills += 1;
                self.note(format!("{victim} is killed"));
                self.machine(victim)?.kill();
            }
            STOP..PART => {
                self.tried.stops += 1;
                let time = Duration::from_millis(self.random.between(200, 4000));
                self.note(format!("{victim} is stopped for {time:?}"));
                self.machine(victim)?.stop_until(Instant::now() + time);
            }
            PART..8 => self.part(&all, victim),
            8 => {
                let delay = self.random.between(10, 150);
                self.note(format!("messages take up to {delay} ms"));
                self.links.slow_down(delay);
            }
            9 => {
                self.note("the links are mended".to_owned());
                self.links.heal();
            }
            10 if self.machine(victim)?.can_be_filled() => {
                self.tried.full_disks += 1;
                self.note(format!("the disk of {victim} is full"));
                let filled = self.machine(victim)?.fill();
                filled.map_err(|error| format!("cannot fill a disk: {error}"))?;
            }
            11 => {
                let heir = running[self.random.index(running.len())];
                let answer = self.say(victim, &format!("lead {heir}")).await;
                self.tried.hand_overs += u64::from(answer.starts_with("ok"));
                self.note(format!("{victim} is asked to have {heir} lead: {answer}"));
            }
            12 if down.is_empty() => return self.replace(victim).await,
            _ => return self.restart(&down),
        }
        Ok(())
    }

    fn machine(&mut self, id: MemberId) -> Result<&mut Machine, String> {
        self.machines.get_mut(&id).ok_or_else(|| format!("there is no machine {id}"))
    }

    /// Starts those that are down, on disks with space: a member without any says so and ends.
    fn restart(&mut self, down: &[MemberId]) -> Result<(), String> {
        for id in down {
            self.note(format!("{id} starts"));
            self.machine(*id)?.free().map_err(|error| format!("cannot free a disk: {error}"))?;
            self.start(*id)?;
        }
        Ok(())
    }

    fn part(&mut self, all: &[MemberId], victim: MemberId) {
        let one_way = self.random.chance(40);
        let random = &mut self.random;
        let side: Vec<_> = all.iter().copied().filter(|id| *id == victim || random.chance(25)).collect();
        let (told, heard) = if one_way { ("cannot be heard", false) } else { ("are cut off", true) };
        self.tried.cuts += u64::from(!one_way);
        self.tried.one_way_cuts += u64::from(one_way);
        self.note(format!("{side:?} {told}"));
        for one in &side {
            for other in all.iter().filter(|other| !side.contains(other)) {
                self.links.cut(*one, *other);
                if heard {
                    self.links.cut(*other, *one);
                }
            }
        }
    }

    /// Takes a member out and has a new one join.
    async fn replace(&mut self, victim: MemberId) -> Result<(), String> {
        self.mend().await?;
        let others: Vec<_> = self.running().into_iter().filter(|id| *id != victim).collect();
        let Some(other) = others.get(self.random.index(others.len())).copied() else { return Ok(()) };
        let removed = self.say(other, &format!("remove {victim}")).await;
        self.note(format!("{victim} is taken out: {removed}"));
        if !removed.starts_with("ok") {
            return Ok(());
        }
        self.tried.membership_changes += 1;
        self.laid.retain(|(from, to), _| *from != victim && *to != victim);
        self.machines.remove(&victim);
        self.join().await
    }

    /// Everything works again. Those who run need no restart for it.
    async fn mend(&mut self) -> Result<(), String> {
        self.note("all is mended".to_owned());
        self.links.heal();
        for machine in self.machines.values_mut() {
            machine.free().map_err(|error| format!("cannot free a disk: {error}"))?;
            machine.go_on();
        }
        let running = self.running();
        let down: Vec<_> = self.machines.keys().copied().filter(|id| !running.contains(id)).collect();
        self.restart(&down)
    }

    /// Waits until all serve and have the same revision.
    async fn agree(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut told = BTreeMap::new();
            for id in self.machines.keys() {
                told.insert(*id, self.say(*id, "barrier").await);
            }
            let first = told.values().next().cloned().unwrap_or_default();
            if first.starts_with("ok") && told.values().all(|answer| *answer == first) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let mut statuses = Vec::new();
                for id in self.machines.keys() {
                    statuses.push(format!("{id}: {}", self.say(*id, "status").await));
                }
                return Err(format!("the members do not agree after all is mended: {told:?} {statuses:#?}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everyone agrees, and what was told is true.
    async fn conclude(&mut self) -> Result<(), String> {
        self.agree().await?;
        let mut truth: Option<Truth> = None;
        for id in self.machines.keys() {
            let found = clients::everything(&self.root, *id).await?;
            if truth.as_ref().is_some_and(|truth| *truth != found) {
                return Err(format!("member {id} has another history"));
            }
            truth = Some(found);
        }
        let truth = truth.unwrap_or_default();
        let operations = self.shared.history().operations();
        self.tried.operations = operations.len() as u64;
        self.tried.acknowledged = self.shared.history().acknowledged() as u64;
        self.tried.revisions = truth.len() as u64;
        revisions::check(&operations, &truth).map_err(|error| error.to_string())?;
        for (only, seen) in self.shared.watches() {
            self.tried.watched += seen.batches.len() as u64;
            let truth = only.as_ref().map_or_else(|| truth.clone(), |key| watches::of_key(&truth, key));
            watches::check(&seen, &truth).map_err(|flaw| format!("a watch of {only:?} from {}: {flaw}", seen.from))?;
        }
        linear::check(&operations).map_err(|error| error.to_string())
    }
}
