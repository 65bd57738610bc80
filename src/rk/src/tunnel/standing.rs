//! A node's tunnels: one to each server of the list, so that logs, exec and port-forward work through any of them.
//!
//! A tunnel is opened when its server appears in the list, and opened again when it ends while the server is still
//! there. One that works is never closed because the list changed: as long as it works, its server lives.

use super::{PATH, PROTOCOL, agent};
use crate::https::Https;
use client::backoff::{Backoff, scatter};
use futures::FutureExt;
use futures::future::BoxFuture;
use node::Node;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A tunnel that ends sooner counts as one that was never open.
const SHORT: Duration = Duration::from_secs(5);
/// All nodes learn of a new server at one moment; they come to it within this time.
const SCATTER: Duration = Duration::from_millis(500);

/// How to call a server, by its URL, as the node.
pub(crate) type Caller = Arc<dyn Fn(&str) -> anyhow::Result<Https> + Send + Sync>;

/// Opens the tunnel to a server and serves it to its end.
pub(crate) type Serve = Arc<dyn Fn(String) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// Serves what comes through tunnels with `node`'s HTTP API.
pub(crate) fn serve(caller: Caller, node: Node) -> Serve {
    Arc::new(move |server| {
        let (caller, node) = (caller.clone(), node.clone());
        Box::pin(async move {
            let connection = caller(&server)?.upgrade(PATH, PROTOCOL).await?;
            tracing::info!(%server, "tunnel open");
            agent::accept(connection, |stream| {
                let node = node.clone();
                tokio::spawn(async move { node.serve(stream).await });
            })
            .await?;
            Ok(())
        })
    })
}

/// Keeps a tunnel to each of `servers` until `stop`. `own` needs none: the node is in that server's process.
pub(crate) async fn keep(
    mut servers: watch::Receiver<Vec<String>>,
    own: Option<String>,
    serve: Serve,
    stop: CancellationToken,
) {
    let keeper = Keeper { servers: servers.clone(), serve, stop: stop.clone() };
    let mut tunnels: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut first = true;
    loop {
        let wanted = servers.borrow_and_update().clone();
        for server in wanted.into_iter().filter(|server| own.as_ref() != Some(server)) {
            tunnels.entry(server.clone()).or_insert_with(|| {
                let pause = if first { Duration::ZERO } else { scatter(SCATTER) };
                tokio::spawn(keeper.clone().keep_one(server, pause))
            });
        }
        first = false;
        if !matches!(stop.run_until_cancelled(servers.changed()).await, Some(Ok(()))) {
            break;
        }
    }
    for (_, tunnel) in tunnels {
        if let Err(error) = tunnel.await {
            tracing::error!(%error, "a tunnel ended badly");
        }
    }
}

/// What is done with one server.
#[derive(Clone)]
struct Keeper {
    servers: watch::Receiver<Vec<String>>,
    serve: Serve,
    stop: CancellationToken,
}

impl Keeper {
    /// Whenever the server is in the list, a tunnel to it. The task stays for a server that left: it may come back.
    async fn keep_one(mut self, server: String, pause: Duration) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            tokio::time::sleep(pause).await;
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            while self.until_wanted(&server).await {
                let opened = Instant::now();
                let ended = AssertUnwindSafe((self.serve)(server.clone())).catch_unwind().await;
                if opened.elapsed() >= SHORT {
                    backoff.reset();
                }
                match ended {
                    Ok(Ok(())) => tracing::debug!(%server, "tunnel ended"),
                    Ok(Err(error)) => tracing::debug!(%server, error = format!("{error:#}"), "tunnel ended"),
                    Err(_) => tracing::error!(%server, "tunnel panicked"),
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        })
        .await;
    }

    /// False: the list is no more.
    async fn until_wanted(&mut self, server: &str) -> bool {
        self.servers.wait_for(|servers| servers.iter().any(|listed| listed == server)).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::watch::Sender;

    /// Tunnels that are open and how often each was opened; those to `refuses` never are.
    #[derive(Clone)]
    struct Tunnels {
        opened: Arc<Mutex<HashMap<String, usize>>>,
        open: Sender<Vec<String>>,
        /// How often each was ended.
        ended: Sender<HashMap<String, usize>>,
    }

    impl Tunnels {
        fn new() -> Self {
            Self { opened: Arc::default(), open: Sender::default(), ended: Sender::default() }
        }

        fn serve(&self, refuses: &'static str) -> Serve {
            let this = self.clone();
            Arc::new(move |server| {
                let this = this.clone();
                Box::pin(async move {
                    *this.opened.lock().unwrap().entry(server.clone()).or_default() += 1;
                    anyhow::ensure!(server != refuses, "refused");
                    let mut ended = this.ended.subscribe();
                    let before = ended.borrow().get(&server).copied();
                    this.open.send_modify(|open| open.push(server.clone()));
                    ended.wait_for(|ended| ended.get(&server).copied() != before).await?;
                    this.open.send_modify(|open| open.retain(|other| *other != server));
                    Ok(())
                })
            })
        }

        fn opened(&self, server: &str) -> usize {
            self.opened.lock().unwrap().get(server).copied().unwrap_or_default()
        }

        async fn are(&self, expected: &[&str]) {
            let right = |open: &Vec<String>| {
                let mut open = open.clone();
                open.sort();
                open == expected
            };
            self.open.subscribe().wait_for(right).await.unwrap();
        }

        fn end(&self, server: &str) {
            self.ended.send_modify(|ended| *ended.entry(server.to_owned()).or_default() += 1);
        }
    }

    fn list(servers: &[&str]) -> Vec<String> {
        servers.iter().map(|&server| server.to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn tunnels_follow_the_list_and_those_that_work_outlive_it() {
        let (tunnels, stop) = (Tunnels::new(), CancellationToken::new());
        let servers = Sender::new(list(&["a", "own"]));
        let own = Some("own".to_owned());
        let kept = tokio::spawn(keep(servers.subscribe(), own, tunnels.serve("none"), stop.clone()));
        tunnels.are(&["a"]).await;
        servers.send_replace(list(&["a", "b", "c", "own"]));
        tunnels.are(&["a", "b", "c"]).await;
        servers.send_replace(list(&["b", "c", "own"]));
        tokio::time::sleep(Duration::from_secs(60)).await;
        tunnels.are(&["a", "b", "c"]).await;
        assert_eq!((tunnels.opened("a"), tunnels.opened("own")), (1, 0));

        tunnels.end("a");
        tunnels.end("b");
        tokio::time::sleep(Duration::from_secs(60)).await;
        tunnels.are(&["b", "c"]).await;
        assert_eq!((tunnels.opened("a"), tunnels.opened("b")), (1, 2), "a has left the list");
        servers.send_replace(list(&["a", "b", "c", "own"]));
        tunnels.are(&["a", "b", "c"]).await;
        stop.cancel();
        kept.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_is_asked_again_and_not_too_often() {
        let (tunnels, stop) = (Tunnels::new(), CancellationToken::new());
        let servers = Sender::new(list(&["a", "b"]));
        tokio::spawn(keep(servers.subscribe(), None, tunnels.serve("b"), stop.clone()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        tunnels.are(&["a"]).await;
        assert!((12..=24).contains(&tunnels.opened("b")), "{}", tunnels.opened("b"));
        stop.cancel();
    }
}
