//! The power-cut model: a store lives several lives on a disk that forgets, each ended by a cut, a kill or a shutdown at
//! any operation, some with errors of the disk or without space. After each it must open and agree with what clients were
//! told: every synced write is there, coalesced ones as documented, and no revision ever changes its meaning.

mod ledger;
mod life;

use std::fmt;

use crate::counts::counts;
use crate::disk::{Fault, MemoryDisk};
use crate::seeded::Seeded;
use ledger::Ledger;
use life::Life;

/// What went wrong, with all that led to it.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Violation {
    pub seed: u64,
    pub what: String,
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}\n{}", self.seed, self.what, self.trace.join("\n"))
    }
}

counts! {
    /// How much a run has tried.
    pub struct Tried {
        pub acknowledged,
        pub power_cuts,
        pub kills,
        pub disk_failures,
        pub lost_coalesced,
        pub flips_refused,
        pub flips_harmless,
    }
}

/// How a life is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// At an operation of the disk.
    PowerCut,
    Kill,
    /// The plug is pulled between two operations.
    Unplugged,
    Shutdown,
}

/// One whole run.
struct Run {
    random: Seeded,
    disk: MemoryDisk,
    ledger: Ledger,
    tried: Tried,
    trace: Vec<String>,
    next_token: u64,
    segment_bytes: u64,
    snapshot_after_bytes: u64,
    /// A power cut came after the last successful opening.
    cut_since_open: bool,
    leases: Vec<i64>,
    /// Flushes take a while, and many clients come meanwhile.
    busy: bool,
}

/// Runs one seed.
pub fn run(seed: u64) -> Result<Tried, Violation> {
    run_as(seed, false)
}

/// Runs one seed on a disk that takes time to flush, with more clients, who come at different times.
pub fn run_busy(seed: u64) -> Result<Tried, Violation> {
    run_as(seed, true)
}

fn run_as(seed: u64, busy: bool) -> Result<Tried, Violation> {
    let mut random = Seeded::new(seed);
    let disk = MemoryDisk::new(random.number());
    let segment_bytes = [4 << 10, 8 << 10, 32 << 10][random.index(3)];
    let snapshot_after_bytes = [4 << 10, 16 << 10, 1 << 20][random.index(3)];
    let mut run = Run {
        random,
        disk,
        ledger: Ledger::default(),
        tried: Tried::default(),
        trace: Vec::new(),
        next_token: 0,
        segment_bytes,
        snapshot_after_bytes,
        cut_since_open: false,
        leases: Vec::new(),
        busy,
    };
    let outcome = run.all();
    let violation = |what| Violation { seed, what, trace: std::mem::take(&mut run.trace) };
    outcome.map_err(violation)?;
    Ok(run.tried)
}

impl Run {
    fn all(&mut self) -> Result<(), String> {
        let lives = 2 + self.random.below(4);
        for number in 0..lives {
            let ending = match self.random.below(10) {
                0..6 => Ending::PowerCut,
                6 => Ending::Kill,
                7 | 8 => Ending::Unplugged,
                _ => Ending::Shutdown,
            };
            self.live(number, ending)?;
        }
        // Whatever happened, a healthy disk opens with everything.
        self.trace.push("the last opening".to_owned());
        self.live(lives, Ending::Shutdown)?;
        self.flip_bits()
    }

    /// One life of the store, and how its machine goes on.
    fn live(&mut self, number: u64, ending: Ending) -> Result<(), String> {
        let last = ending == Ending::Shutdown;
        if ending == Ending::PowerCut {
            let after = if self.random.chance(30) { self.random.below(12) } else { self.random.below(150) };
            self.disk.arm(after, Fault::PowerCut);
            self.trace.push(format!("life {number}: the power goes after {after} operations"));
        } else {
            self.trace.push(format!("life {number}: ends by {ending:?}"));
        }
        if self.busy {
            let flush = self.random.below(50);
            self.disk.set_slow(std::time::Duration::from_millis(flush));
        }
        if !last && self.random.chance(if self.busy { 40 } else { 20 }) {
            let fault = if self.random.chance(50) { Fault::Broken } else { Fault::Full };
            let after = self.random.below(100);
            self.disk.arm(after, fault);
            self.trace.push(format!("{fault:?} after {after} operations"));
        }
        let steps = if ending == Ending::PowerCut { 200 } else { self.random.below(40) };
        let life = Life { shutdown: ending == Ending::Shutdown, steps };
        life.run(self)?;
        let failed = self.disk.failures() > 0;
        self.tried.disk_failures += u64::from(failed);
        if ending == Ending::Unplugged {
            self.disk.cut_power();
        }
        if self.disk.is_off() {
            self.tried.power_cuts += 1;
            self.cut_since_open = true;
            self.disk.restart_machine();
        } else {
            self.tried.kills += u64::from(ending == Ending::Kill);
            self.disk.restart_process();
        }
        Ok(())
    }

    /// Single flipped bits in files at rest: noticed, or without effect; never a panic, never another answer.
    fn flip_bits(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            let files = self.disk.files();
            let (path, length) = &files[self.random.index(files.len())];
            if *length == 0 {
                continue;
            }
            let written = self.disk.content(path).unwrap_or_default();
            let end = written.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
            let (offset, bit) = (self.random.index(end), u32::try_from(self.random.below(8)).unwrap_or(0));
            self.trace.push(format!("bit {bit} of byte {offset} of {} is turned over", path.display()));
            self.disk.flip(path, offset, bit);
            let opened = Life::open_only(self)?;
            self.disk.restart_process();
            self.tried.flips_harmless += u64::from(opened);
            self.tried.flips_refused += u64::from(!opened);
            if opened {
                // It may have written in the meantime, to the very file.
                return Ok(());
            }
            self.disk.flip(path, offset, bit);
        }
        Ok(())
    }
}
