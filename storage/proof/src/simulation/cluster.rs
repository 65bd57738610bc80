//! The simulated members: their disks, their processes, and what ends them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::{ClusterId, Config, Member, MemberId, OpenError, Store, Timing};

use super::network::{Network, Wire};
use super::trace::Trace;
use crate::disk::MemoryDisk;
use crate::seeded::Seeded;

type Processes = BTreeMap<MemberId, (Store, Arc<AtomicBool>)>;

/// The members that run now, for clients.
#[derive(Clone, Debug)]
pub(super) struct Running {
    processes: Arc<Mutex<Processes>>,
    pub(super) trace: Trace,
}

impl Running {
    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pick(&self, random: &mut Seeded) -> Option<(MemberId, Store, Arc<AtomicBool>)> {
        let processes = self.processes();
        let (id, (store, alive)) = processes.iter().nth(random.index(processes.len()))?;
        Some((*id, store.clone(), alive.clone()))
    }

    pub(super) fn stores(&self) -> Vec<Store> {
        self.processes().values().map(|(store, _)| store.clone()).collect()
    }

    pub(super) fn ids(&self) -> Vec<MemberId> {
        self.processes().keys().copied().collect()
    }

    pub(super) fn store(&self, id: MemberId) -> Option<Store> {
        self.processes().get(&id).map(|(store, _)| store.clone())
    }
}

struct Machine {
    disk: MemoryDisk,
    /// How fast its clock runs, in percent: its times are so much longer.
    pace: u32,
    segment_bytes: u64,
}

pub(super) struct Members {
    machines: BTreeMap<MemberId, Machine>,
    pub(super) running: Running,
    pub(super) network: Network,
    pub(super) cluster: ClusterId,
    random: Seeded,
}

pub(super) fn member(id: MemberId) -> Member {
    Member { name: format!("m{id}"), addresses: vec![format!("m{id}")] }
}

impl Members {
    pub(super) fn new(mut random: Seeded, trace: Trace) -> Self {
        let network = Network::new(random.fork(), trace.clone());
        let running = Running { processes: Arc::default(), trace };
        let cluster = ClusterId { id: 0, generation: 0 };
        Self { machines: BTreeMap::new(), running, network, cluster, random }
    }

    pub(super) fn ids(&self) -> Vec<MemberId> {
        self.machines.keys().copied().collect()
    }

    pub(super) fn down(&self) -> Vec<MemberId> {
        let running = self.running.ids();
        self.machines.keys().copied().filter(|id| !running.contains(id)).collect()
    }

    pub(super) fn disk(&self, id: MemberId) -> Option<&MemoryDisk> {
        self.machines.get(&id).map(|machine| &machine.disk)
    }

    /// Starts a member, on a new machine if there is none for it.
    pub(super) async fn start(&mut self, id: MemberId) -> Result<(), OpenError> {
        let random = &mut self.random;
        let machine = self.machines.entry(id).or_insert_with(|| Machine {
            disk: MemoryDisk::new(random.number()),
            pace: u32::try_from(random.between(75, 135)).unwrap_or(100),
            segment_bytes: 16 << 10,
        });
        let alive = Arc::new(AtomicBool::new(true));
        let times = |time: Duration| time * machine.pace / 100;
        let usual = Timing::default();
        let timing = Timing {
            heartbeat: times(usual.heartbeat),
            election: (times(usual.election.0), times(usual.election.1)),
            request: Duration::from_secs(3),
            answer: Duration::from_secs(3),
            hold: Duration::from_secs(1),
        };
        let config = Config {
            disk: Arc::new(machine.disk.clone()),
            member: member(id),
            join: (id != 1).then_some(self.cluster),
            transport: Some(Arc::new(Wire { network: self.network.clone(), from: id, alive: alive.clone() })),
            timing,
            segment_bytes: machine.segment_bytes,
            snapshot_after_bytes: machine.segment_bytes,
            ..Config::new("/data/store", id)
        };
        let store = Store::open(config).await?;
        self.running.trace.note(|| format!("{id} runs at revision {}", store.revision()));
        self.network.connect(id, store.clone(), alive.clone());
        self.running.processes().insert(id, (store, alive));
        Ok(())
    }

    /// Ends a process; with the power also all that was not flushed.
    pub(super) fn crash(&mut self, id: MemberId, power: bool) {
        self.running.trace.note(|| format!("{id} {}", if power { "has no power" } else { "is killed" }));
        self.network.disconnect(id);
        if let Some((_, alive)) = self.running.processes().remove(&id) {
            alive.store(false, Ordering::SeqCst);
        }
        if let Some(machine) = self.machines.get(&id) {
            if power {
                machine.disk.cut_power();
                machine.disk.restart_machine();
            } else {
                machine.disk.restart_process();
            }
        }
    }

    /// All disks have space again, and are as quick as ever.
    pub(super) fn mend_disks(&self) {
        for machine in self.machines.values() {
            machine.disk.set_full(false);
            machine.disk.set_slow(Duration::ZERO);
        }
    }

    /// Takes a machine away for good.
    pub(super) fn discard(&mut self, id: MemberId) {
        self.crash(id, true);
        self.machines.remove(&id);
    }
}
