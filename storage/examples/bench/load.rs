//! Load through the endpoint: so many clients, each with one request under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use storage::etcd::client::Client;
use storage::etcd::wire;

use crate::server::{Server, connect};
use crate::{Outcome, process};

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
}

impl Figures {
    pub(crate) fn better(self, other: Self) -> Self {
        if other.per_second > self.per_second { other } else { self }
    }
}

/// Calls `work` from each client over and over.
async fn run<F>(address: SocketAddr, clients: usize, time: Duration, work: F) -> Outcome<Figures>
where
    F: AsyncCall + Clone,
{
    let mut connections = Vec::new();
    for _ in 0..clients.min(CONNECTIONS) {
        connections.push(connect(address).await?);
    }
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (connection, work) = (connections[client % connections.len()].clone(), work.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < time {
                    let before = Instant::now();
                    work.call(&connection).await?;
                    times.push(before.elapsed());
                }
                Outcome::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let seconds = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let percentile =
        |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let count = u32::try_from(times.len())?;
    Ok(Figures { per_second: f64::from(count) / seconds, p50_ms: percentile(50), p99_ms: percentile(99) })
}

/// One request.
trait AsyncCall: Send + 'static {
    fn call(&self, client: &Client) -> impl Future<Output = Outcome<()>> + Send;
}

#[derive(Clone)]
struct Put(Arc<AtomicU64>);

impl AsyncCall for Put {
    async fn call(&self, client: &Client) -> Outcome<()> {
        let key = format!("bench/{:016}", self.0.fetch_add(1, Ordering::Relaxed) % 100_000).into_bytes();
        let request = wire::PutRequest { key, value: vec![b'v'; VALUE], ..Default::default() };
        client.call::<wire::PutResponse>("KV/Put", &request).await?;
        Ok(())
    }
}

#[derive(Clone)]
struct Get(Arc<AtomicU64>);

impl AsyncCall for Get {
    async fn call(&self, client: &Client) -> Outcome<()> {
        // A walk that visits every key in an order the server cannot guess.
        let number = self.0.fetch_add(7919, Ordering::Relaxed) % KEYS;
        let request = wire::RangeRequest { key: format!("get/{number:08}").into_bytes(), ..Default::default() };
        let response: wire::RangeResponse = client.call("KV/Range", &request).await?;
        if response.kvs.len() == 1 { Ok(()) } else { Err("a key is missing".into()) }
    }
}

pub(crate) async fn puts(address: SocketAddr, clients: usize, time: Duration) -> Outcome<Figures> {
    run(address, clients, time, Put(Arc::default())).await
}

pub(crate) async fn gets(address: SocketAddr, clients: usize, time: Duration) -> Outcome<Figures> {
    let client = connect(address).await?;
    for first in (0..KEYS).step_by(100) {
        let put = |number: u64| {
            let key = format!("get/{number:08}").into_bytes();
            let put = wire::PutRequest { key, value: vec![b'v'; VALUE], ..Default::default() };
            wire::RequestOp { request: Some(wire::Request::Put(put)) }
        };
        let request = wire::TxnRequest { success: (first..first + 100).map(put).collect(), ..Default::default() };
        client.call::<wire::TxnResponse>("KV/Txn", &request).await?;
    }
    run(address, clients, time, Get(Arc::default())).await
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
