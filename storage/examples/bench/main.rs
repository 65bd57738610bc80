//! The store measured, and side by side with an `etcd` if one is installed: `cargo xtask bench --steps store`, or
//! `cargo build --release -p storage --examples && target/*/release/examples/bench --dir DIR`.
//!
//! Both servers are processes of their own on the same disk, loaded in turn by the same client through the same
//! interface, without TLS. Client and server share the machine's cores, so ratios count. `--only STEP`, which may be
//! repeated, leaves out all other steps; an unknown one lists them.
#![forbid(unsafe_code)]

mod inside;
mod lean;
mod load;
mod members;
mod process;
mod server;
mod stalls;
mod table;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use load::Figures;
use server::{Server, etcd, rk};
use table::Table;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Clients of the durable puts, how many times etcd's rate is the goal, and the step's name.
const PUTS: [(usize, f64, &str); 3] = [(1, 1.5, "puts-1"), (16, 3.0, "puts-16"), (256, 5.0, "puts-256")];
const GET_CLIENTS: usize = 16;
const WATCHERS: usize = 10_000;
const STEPS: [&str; 10] =
    ["resting", "plain", "amplification", "stalls", "members", "puts-1", "puts-16", "puts-256", "gets", "watchers"];

struct Args {
    dir: PathBuf,
    time: Duration,
    /// Each measurement beside etcd is made so often, in turns, and the best counts: what else the machine does only
    /// ever slows.
    rounds: u32,
    only: Vec<String>,
}

impl Args {
    fn wants(&self, step: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == step)
    }
}

fn args() -> Outcome<Option<Args>> {
    let mut found = Args { dir: "/var/tmp".into(), time: Duration::from_secs(4), rounds: 2, only: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value"));
        match arg.as_str() {
            "--dir" => found.dir = value()?.into(),
            "--seconds" => found.time = Duration::from_secs_f64(value()?.parse()?),
            "--rounds" => found.rounds = value()?.parse()?,
            "--only" => {
                let step = value()?;
                if !STEPS.contains(&step.as_str()) {
                    return Err(format!("no step {step}; there are: {}", STEPS.join(", ")).into());
                }
                found.only.push(step);
            }
            "--reopen" => {
                let dir = PathBuf::from(value()?);
                inside::reopen(&dir)?;
                return Ok(None);
            }
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    Ok(Some(found))
}

fn main() -> Outcome<()> {
    let Some(args) = args()? else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut table = Table::default();
    // First, before the process has memory of its own to spare.
    if args.wants("resting") {
        inside::resting(&runtime, &args.dir, &mut table)?;
    }
    if args.wants("plain") {
        inside::beside_a_file(&runtime, &args.dir, args.time, &mut table)?;
    }
    if args.wants("amplification") {
        inside::amplification(&runtime, &args.dir, &mut table)?;
    }
    if args.wants("stalls") {
        runtime.block_on(stalls::measure(&args.dir, args.time, &mut table))?;
    }
    if args.wants("members") {
        runtime.block_on(members::measure(&args.dir, args.time, &mut table))?;
    }
    if ["puts-1", "puts-16", "puts-256", "gets", "watchers"].iter().any(|step| args.wants(step)) {
        runtime.block_on(side_by_side(&args, &mut table))?;
    }
    println!("{table}");
    Ok(())
}

async fn side_by_side(args: &Args, table: &mut Table) -> Outcome<()> {
    let ours = rk(&args.dir).await?;
    let theirs = etcd(&args.dir).await?;
    if theirs.is_none() {
        eprintln!("SKIPPED: no etcd to compare with (Debian's package etcd-server)");
    }
    let both = (&ours, theirs.as_ref());
    for (clients, goal, _) in PUTS.into_iter().filter(|(_, _, step)| args.wants(step)) {
        let what = format!("durable puts of 1 KB, {clients} clients");
        let (own, other) =
            in_turns(both, args.rounds, async |server| load::puts(server, clients, args.time).await).await?;
        table.compare(&what, &own, other.as_ref(), goal);
    }
    if args.wants("gets") {
        let (own, other) =
            in_turns(both, args.rounds, async |server| load::gets(server, GET_CLIENTS, args.time).await).await?;
        table.compare(&format!("gets of 1 KB, {GET_CLIENTS} clients"), &own, other.as_ref(), 5.0);
    }
    if args.wants("watchers") {
        watchers(both, table).await?;
    }
    Ok(())
}

async fn watchers((ours, theirs): (&Server, Option<&Server>), table: &mut Table) -> Outcome<()> {
    let watched = load::watchers(ours, WATCHERS).await?;
    let mut beside = String::new();
    if let Some(theirs) = theirs {
        beside = format!("etcd {:.1} MB", load::watchers(theirs, WATCHERS).await?);
    }
    table.most(&format!("{WATCHERS} watchers through the endpoint"), watched, "MB", 20.0, &beside);
    let memory = |server: &Server| process::pss(server.pid()).map(|bytes| bytes / 1e6);
    let beside = theirs.and_then(memory).map_or_else(String::new, |memory| format!("etcd {memory:.0} MB"));
    table.plain("resident after all of that, PSS", memory(ours).unwrap_or_default(), "MB", &beside);
    Ok(())
}

/// Measures one, then the other, and keeps each one's best.
async fn in_turns(
    (ours, theirs): (&Server, Option<&Server>),
    rounds: u32,
    measure: impl AsyncFn(&Server) -> Outcome<Figures>,
) -> Outcome<(Figures, Option<Figures>)> {
    let (mut own, mut other) = (Figures::default(), None::<Figures>);
    for _ in 0..rounds {
        own = own.better(measure(ours).await?);
        if let Some(theirs) = theirs {
            let measured = measure(theirs).await?;
            other = Some(other.unwrap_or_default().better(measured));
        }
    }
    eprintln!("CPU per request, µs (server, client): {:.1?}; etcd {:.1?}", own.cpu_us, other.map(|other| other.cpu_us));
    Ok((own, other))
}
