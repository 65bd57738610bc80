//! Load through the endpoint: so many clients, each with one request under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use storage::etcd::wire;

use crate::server::{Server, connect};
use crate::{Outcome, lean, process};

/// More clients share these.
const CONNECTIONS: usize = 16;
pub(crate) const VALUE: usize = 1024;
/// Keys that gets choose from.
const KEYS: u64 = 10_000;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Processor time per request, in microseconds: the server's, and this process's.
    pub(crate) cpu_us: (f64, f64),
}

impl Figures {
    pub(crate) fn better(self, other: Self) -> Self {
        if other.per_second > self.per_second { other } else { self }
    }
}

/// One request: where it goes, what it says, and how long its answer is at least.
struct Work {
    path: &'static str,
    least: usize,
    message: fn(u64) -> Vec<u8>,
}

/// Calls `work` from each client over and over, with another number each time.
async fn run(server: &Server, clients: usize, time: Duration, work: &'static Work) -> Outcome<Figures> {
    let busy = || (process::cpu(server.pid()).unwrap_or(0.0), process::cpu(std::process::id()).unwrap_or(0.0));
    let before = busy();
    let began = Instant::now();
    let (address, connections) = (server.address, clients.min(CONNECTIONS));
    let number = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..connections)
        .map(|connection| {
            let streams = clients / connections + usize::from(connection < clients % connections);
            let number = number.clone();
            let message = move || (work.message)(number.fetch_add(1, Ordering::Relaxed));
            tokio::spawn(lean::drive(address, work.path, streams, began + time, work.least, message))
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = busy();
    times.sort_unstable();
    let percentile =
        |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let count = f64::from(u32::try_from(times.len())?);
    let cpu_us = ((after.0 - before.0) / count * 1e6, (after.1 - before.1) / count * 1e6);
    Ok(Figures { per_second: count / seconds, p50_ms: percentile(50), p99_ms: percentile(99), cpu_us })
}

static PUT: Work = Work {
    path: "/etcdserverpb.KV/Put",
    least: 1,
    message: |number| {
        let key = format!("bench/{:016}", number % 100_000).into_bytes();
        wire::PutRequest { key, value: vec![b'v'; VALUE], ..Default::default() }.encode_to_vec()
    },
};

static GET: Work = Work {
    path: "/etcdserverpb.KV/Range",
    least: VALUE,
    message: |number| {
        // A walk that visits every key in an order the server cannot guess.
        let key = format!("get/{:08}", number * 7919 % KEYS).into_bytes();
        wire::RangeRequest { key, ..Default::default() }.encode_to_vec()
    },
};

pub(crate) async fn puts(server: &Server, clients: usize, time: Duration) -> Outcome<Figures> {
    run(server, clients, time, &PUT).await
}

pub(crate) async fn gets(server: &Server, clients: usize, time: Duration) -> Outcome<Figures> {
    let client = connect(server.address).await?;
    for first in (0..KEYS).step_by(100) {
        let put = |number: u64| {
            let key = format!("get/{number:08}").into_bytes();
            let put = wire::PutRequest { key, value: vec![b'v'; VALUE], ..Default::default() };
            wire::RequestOp { request: Some(wire::Request::Put(put)) }
        };
        let request = wire::TxnRequest { success: (first..first + 100).map(put).collect(), ..Default::default() };
        client.call::<wire::TxnResponse>("KV/Txn", &request).await?;
    }
    run(server, clients, time, &GET).await
}

/// What watchers on keys of their own cost the server, in MB.
pub(crate) async fn watchers(server: &Server, count: usize) -> Outcome<f64> {
    let client = connect(server.address).await?;
    let create = |number: usize| {
        let key = format!("watched/{number:08}").into_bytes();
        let create = wire::WatchCreateRequest { key, ..Default::default() };
        wire::WatchRequest { ask: Some(wire::WatchAsk::Create(create)) }
    };
    let before = process::pss(server.pid()).ok_or("the server is gone")?;
    let (mut asking, mut answers) = client.stream("Watch/Watch", &create(0)).await?;
    for number in 1..=count {
        answers.next::<wire::WatchResponse>().await?.filter(|answer| answer.created).ok_or("no watch")?;
        if number < count {
            asking.send(&create(number), false)?;
        }
    }
    let after = process::pss(server.pid()).ok_or("the server is gone")?;
    Ok((after - before) / 1e6)
}
