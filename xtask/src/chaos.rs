//! `cargo xtask chaos`: the store's power cuts, simulated clusters and clusters of processes over many seeds. A seed that fails is printed, and
//! what led to it is written to a file. The same seed gives the same power cuts, and nearly always the same simulated run
//! (docs/adr/0009-proof-of-the-store.md, Limits).

use std::fmt::Debug;
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use proof::power_cut::{self, Violation};
use proof::processes::{self, Program};
use proof::simulation;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to run.
    #[arg(long, value_enum, default_value = "power-cut")]
    model: Model,
    /// How many seeds: 10,000 power cuts or 500 clusters unless given.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this seed.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Seeds at a time: as many as there are cores unless given.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// With processes: how long to go on.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Folder for what led to a failure.
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Model {
    /// One store on a disk that loses power, breaks and fills up.
    PowerCut,
    /// The same with flushes that take time and many clients.
    Busy,
    /// Three or five members with all that and a bad network.
    Simulation,
    /// One member that others join and leave.
    Growing,
    /// Three or five processes that are killed, stopped, cut off and have full disks; one cluster after the other.
    Processes,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let began = Instant::now();
    let (name, failed) = match args.model {
        Model::PowerCut => ("power-cut", over(args, 10_000, power_cut::run, power_cut::Tried::add)?),
        Model::Busy => ("busy", over(args, 10_000, power_cut::run_busy, power_cut::Tried::add)?),
        Model::Growing => ("growing", over(args, 500, simulation::run_growing, simulation::Tried::add)?),
        Model::Simulation => ("simulation", over(args, 500, simulation::run, simulation::Tried::add)?),
        Model::Processes => ("processes", clusters(args)?),
    };
    println!("took {:.1?}", began.elapsed());
    if failed.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    for violation in &failed {
        let path = args.out.join(format!("{name}-{}.txt", violation.seed));
        fs::write(&path, violation.to_string()).with_context(|| format!("write {}", path.display()))?;
        println!("seed {}: {}\n    what led to it: {}", violation.seed, violation.what, path.display());
    }
    let seeds: Vec<_> = failed.iter().map(|violation| violation.seed).collect();
    bail!("{} seeds fail: {seeds:?}; repeat one with --model {name} --seed N", failed.len())
}

/// Trouble of one cluster of processes.
const TROUBLE: Duration = Duration::from_secs(30);

/// Clusters of three and of five processes in turn, until the time is over or one fails.
fn clusters(args: &Args) -> anyhow::Result<Vec<Violation>> {
    let executable = std::env::current_exe().context("find this executable")?;
    let program = Program { executable, arguments: vec!["chaos-member".into()] };
    let began = Instant::now();
    let mut tried = processes::Tried::default();
    let mut seed = args.seed.unwrap_or(args.from);
    while began.elapsed() < Duration::from_secs(args.seconds) {
        let root = tempfile::Builder::new().prefix("rk-proof-").tempdir().context("make a folder")?;
        let left = Duration::from_secs(args.seconds).saturating_sub(began.elapsed()).min(TROUBLE);
        let trouble = processes::Trouble { time: left, acknowledged: 0, watched: 0 };
        let members = if seed.is_multiple_of(2) { 3 } else { 5 };
        match processes::run(&program, root.path(), seed, members, trouble) {
            Ok(run) => tried.add(&run),
            Err(violation) => return Ok(vec![violation]),
        }
        println!("seed {seed}, after {} s: {tried:?}", began.elapsed().as_secs());
        seed += 1;
    }
    Ok(Vec::new())
}

/// Pause between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

struct Results<T> {
    done: u64,
    tried: T,
    failed: Vec<Violation>,
    told: Instant,
}

/// Runs the seeds on all cores until one fails; returns those that do.
fn over<T: Default + Debug + Send>(
    args: &Args,
    usual: u64,
    run: impl Fn(u64) -> Result<T, Violation> + Sync,
    add: impl Fn(&mut T, &T) + Sync,
) -> anyhow::Result<Vec<Violation>> {
    let (from, to) = match args.seed {
        Some(seed) => (seed, seed + 1),
        None => (args.from, args.from + args.seeds.unwrap_or(usual)),
    };
    let next = AtomicU64::new(from);
    let began = Instant::now();
    let results = Mutex::new(Results { done: 0, tried: T::default(), failed: Vec::new(), told: began });
    let jobs = args.jobs.map_or_else(thread::available_parallelism, Ok).context("count the cores")?;
    thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let outcome = run(seed);
                    let Ok(mut results) = results.lock() else { return };
                    results.done += 1;
                    match outcome {
                        Ok(tried) => add(&mut results.tried, &tried),
                        Err(violation) => {
                            println!("seed {seed} fails");
                            results.failed.push(violation);
                            next.store(to, Ordering::Relaxed);
                        }
                    }
                    if results.told.elapsed() > PROGRESS {
                        results.told = Instant::now();
                        let took = began.elapsed().as_secs();
                        println!("{} of {} seeds in {took} s, now at seed {seed}", results.done, to - from);
                    }
                }
            });
        }
    });
    let Results { done, tried, mut failed, .. } =
        results.into_inner().map_err(|_| anyhow::anyhow!("a run has panicked"))?;
    println!("{done} seeds: {tried:?}");
    failed.sort_by_key(|violation| violation.seed);
    Ok(failed)
}
