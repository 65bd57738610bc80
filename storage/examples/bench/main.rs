//! The store measured, and side by side with an `etcd` if one is installed: `cargo xtask bench --steps store`, or
//! `cargo build --release -p storage --examples && target/*/release/examples/bench --dir DIR`.
//!
//! Both servers are processes of their own on the same disk, loaded in turn by the same client through the same
//! interface, without TLS. Client and server share the machine's cores, so ratios count.
#![forbid(unsafe_code)]

mod inside;
mod load;
mod process;
mod server;
mod table;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use load::Figures;
use server::{Server, etcd, rk};
use table::Table;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Clients of the durable puts, and how many times etcd's rate is the goal.
const PUTS: [(usize, f64); 3] = [(1, 1.5), (16, 3.0), (256, 5.0)];
const GET_CLIENTS: usize = 16;
/// Each measurement is made so often, in turns, and the best counts: what else the machine does only ever slows.
const ROUNDS: usize = 2;
const WATCHERS: usize = 10_000;

struct Args {
    dir: PathBuf,
    seconds: u64,
}

fn args() -> Outcome<Option<Args>> {
    let mut found = Args { dir: "/var/tmp".into(), seconds: 4 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value"));
        match arg.as_str() {
            "--dir" => found.dir = value()?.into(),
            "--seconds" => found.seconds = value()?.parse()?,
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
    let Some(Args { dir, seconds }) = args()? else { return Ok(()) };
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut table = Table::default();
    runtime.block_on(side_by_side(&dir, time, &mut table))?;
    inside::measure(&runtime, &dir, time, &mut table)?;
    println!("{table}");
    Ok(())
}

async fn side_by_side(dir: &Path, time: Duration, table: &mut Table) -> Outcome<()> {
    let ours = rk(dir).await?;
    let theirs = etcd(dir).await?;
    if theirs.is_none() {
        eprintln!("SKIPPED: no etcd to compare with (Debian's package etcd-server)");
    }
    for (clients, goal) in PUTS {
        let what = format!("durable puts of 1 KB, {clients} clients");
        let (own, other) =
            in_turns(&ours, theirs.as_ref(), async |server| load::puts(server.address, clients, time).await).await?;
        table.compare(&what, &own, other.as_ref(), goal);
    }
    let (own, other) =
        in_turns(&ours, theirs.as_ref(), async |server| load::gets(server.address, GET_CLIENTS, time).await).await?;
    table.compare(&format!("gets of 1 KB, {GET_CLIENTS} clients"), &own, other.as_ref(), 5.0);
    let watched = load::watchers(&ours, WATCHERS).await?;
    let mut beside = String::new();
    if let Some(theirs) = &theirs {
        beside = format!("etcd {:.1} MB", load::watchers(theirs, WATCHERS).await?);
    }
    table.most(&format!("{WATCHERS} watchers through the endpoint"), watched, "MB", 20.0, &beside);
    let memory = |server: &Server| process::pss(server.pid()).map(|bytes| bytes / 1e6);
    let beside = theirs.as_ref().and_then(memory).map_or_else(String::new, |memory| format!("etcd {memory:.0} MB"));
    table.plain("resident after all of that, PSS", memory(&ours).unwrap_or_default(), "MB", &beside);
    Ok(())
}

/// Measures one, then the other, and keeps each one's best.
async fn in_turns(
    ours: &Server,
    theirs: Option<&Server>,
    measure: impl AsyncFn(&Server) -> Outcome<Figures>,
) -> Outcome<(Figures, Option<Figures>)> {
    let (mut own, mut other) = (Figures::default(), None::<Figures>);
    for _ in 0..ROUNDS {
        own = own.better(measure(ours).await?);
        if let Some(theirs) = theirs {
            let measured = measure(theirs).await?;
            other = Some(other.unwrap_or_default().better(measured));
        }
    }
    Ok((own, other))
}
