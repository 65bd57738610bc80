//! `cargo xtask bench`: what the release executable costs and how fast it is, on this machine, as a table and as JSON.
//!
//! Each server under test runs on a host of its own, a network namespace, with fresh folders; all of it is removed
//! again, whatever the outcome. The clients are part of this process and share the machine's cores with the server,
//! so the server's CPU seconds are the steadier figure. What each row means stands in docs/benchmarks.md.

mod api;
mod executable;
mod idle;
mod latency;
mod load;
mod machine;
mod pods;
mod processes;
mod python;
mod report;
mod start;
mod subject;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use report::Report;
use subject::Subject;

/// The numbers of clients the API is loaded with.
const CLIENTS: [usize; 3] = [1, 16, 64];
const PODS: usize = 50;
const FULL_NODE: usize = 110;

/// What can be measured on its own.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Starts on a fresh data dir
    Start,
    /// Memory, CPU and disk writes of an idle cluster
    Idle,
    /// Pods, one after another
    Pods,
    /// As many pods as a node takes, at once
    FullNode,
    /// Creating, reading and listing objects
    Api,
    /// The store alone, beside an etcd if one is installed; not among the steps by default
    Store,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The executable to measure [default: built with `cargo build --release -p rk`]
    #[arg(long)]
    rk: Option<PathBuf>,
    /// Also write the results as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Folder on the disk to measure; folders made in it are removed again
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Only these steps, in their usual order [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    steps: Vec<Step>,
    /// Starts on a fresh data dir
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// How often a full node's pods are created at once
    #[arg(long, default_value_t = 1)]
    bursts: usize,
    /// Seconds before and during which the idle cluster is observed
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// ConfigMaps, and pods for LIST, that the API is loaded with
    #[arg(long, default_value_t = 2000)]
    objects: usize,
    /// A Python load client to use for the API rows instead of the built-in one, so that peers can be measured with
    /// the same: called with --kubeconfig, --n, --clients, --pids and --json
    #[arg(long)]
    load_client: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.steps == [Step::Store] {
        return store(&args.dir);
    }
    ensure!(!args.steps.contains(&Step::Store), "the store is measured alone: --steps store");
    let needs = [
        rk_tests::need::Need::Root,
        rk_tests::need::Need::Program("ip"),
        rk_tests::need::Need::Program("nsenter"),
        rk_tests::need::Need::File("/bin/busybox"),
    ];
    ensure!(rk_tests::need::met("bench", &needs), "this machine cannot run the bench");
    ensure!(args.starts > 0 && args.objects > 0 && args.bursts > 0, "--starts, --bursts and --objects must be above 0");
    let rk = executable::find(args.rk.as_deref())?;
    let mut report = Report::new(machine::describe(&args.dir)?, executable::describe(&rk)?);
    measure(args, &rk, &mut report)?;
    print!("\n{}", report.text());
    if let Some(path) = &args.json {
        fs::write(path, report.json()?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Builds and runs the store's own bench, which prints its table.
fn store(dir: &Path) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(&cargo);
    build.args(["build", "--release", "-p", "storage", "--examples"]);
    ensure!(build.status().context("run cargo")?.success(), "the store's bench does not build");
    let mut bench = Command::new(cargo);
    bench.args(["run", "--quiet", "--release", "-p", "storage", "--example", "bench", "--", "--dir"]).arg(dir);
    ensure!(bench.status().context("run the store's bench")?.success(), "the store's bench failed");
    Ok(())
}

fn measure(args: &Args, rk: &Path, report: &mut Report) -> anyhow::Result<()> {
    let wanted = |step: Step| args.steps.is_empty() || args.steps.contains(&step);
    let subject = starts(rk, args, if wanted(Step::Start) { args.starts } else { 1 }, report)?;
    if wanted(Step::Idle) {
        progress("idle");
        let idle = idle::measure(&subject, Duration::from_secs(args.idle))?;
        report.add_idle(&idle, args.idle);
    }
    if wanted(Step::Pods) || wanted(Step::FullNode) {
        subject.import_busybox()?;
    }
    if wanted(Step::Pods) {
        progress("pods, one after another");
        let one_by_one = subject.inside(pods::one_by_one(&subject, PODS))?;
        report.add_pods(&one_by_one);
        report.add_memory(&format!("memory with {PODS} pods, PSS"), &processes::memory(&subject)?, None);
        subject.inside(pods::remove_all(&subject))?;
    }
    if wanted(Step::FullNode) {
        for _ in 0..args.bursts {
            progress("pods, a full node at once");
            let seconds = subject.inside(pods::all_at_once(&subject, FULL_NODE))?;
            report.add(&format!("{FULL_NODE} pods, all Running"), seconds, "s", Some(15.0));
            subject.inside(pods::remove_all(&subject))?;
        }
    }
    if wanted(Step::Api) {
        progress("API");
        let phases = match &args.load_client {
            Some(script) => python::run(&subject, script, args.objects, &CLIENTS)?,
            None => subject.inside(load::run(&subject, args.objects, &CLIENTS))?,
        };
        report.add_phases(phases);
        report.add_memory("memory after the load, PSS", &processes::memory(&subject)?, None);
    }
    subject.stop()
}

/// Starts `count` servers one after another; the last one goes on running.
fn starts(rk: &Path, args: &Args, count: usize, report: &mut Report) -> anyhow::Result<Subject> {
    progress("start on a fresh data dir");
    let mut last = None;
    let mut starts = Vec::new();
    for _ in 0..count {
        drop(last.take());
        let mut subject = Subject::prepare(rk, &args.dir)?;
        starts.push(start::measure(&mut subject)?);
        last = Some(subject);
    }
    report.add_starts(&starts);
    last.context("no start")
}

/// What is being measured now, for whoever waits.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}
