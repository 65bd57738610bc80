//! A client that writes all the time and keeps what was acknowledged, to be looked for in the end.

use crate::cluster::{START, Server};
use crate::host::Host;
use crate::kubectl::Kubectl;
use crate::process::output;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two attempts of one write, and between writes that go to several servers in turn.
const PAUSE: Duration = Duration::from_millis(50);

/// Where writes go: kubectl on a host, with a kubeconfig of the cluster, to a server that may be another one.
#[derive(Debug, Clone)]
pub struct Target {
    pub host: Host,
    pub kubeconfig: PathBuf,
    /// Instead of the kubeconfig's.
    pub url: Option<String>,
}

/// Writes objects one after another, each until it is acknowledged. Ends with [`Writer::end`].
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    targets: Arc<Mutex<Vec<Target>>>,
    written: Arc<Mutex<Written>>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Written {
    names: Vec<String>,
    last: Option<Instant>,
    longest: Duration,
    refused: Vec<String>,
}

impl Writer {
    /// By one server.
    pub fn start(server: &Server, prefix: &str) -> Self {
        let target = Target { host: server.host.clone(), kubeconfig: server.kubeconfig(), url: None };
        Self::balanced(vec![target], prefix)
    }

    /// By several in turn: one that refuses gives way to the next, as by a load balancer.
    pub fn balanced(targets: Vec<Target>, prefix: &str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Written::default())));
        let targets = Arc::new(Mutex::new(targets));
        let (ending, list, shared) = (stop.clone(), targets.clone(), written.clone());
        let prefix = prefix.to_owned();
        let thread = std::thread::spawn(move || {
            let mut turn = 0;
            for number in 0.. {
                let name = format!("{prefix}-{number}");
                loop {
                    if ending.load(Ordering::Relaxed) {
                        return;
                    }
                    let (target, several) = {
                        let list = lock(&list);
                        turn = (turn + 1) % list.len();
                        (list[turn].clone(), list.len() > 1)
                    };
                    let outcome = target.create(&name);
                    let written = outcome.is_ok();
                    lock(&shared).note(&name, outcome);
                    if several || !written {
                        std::thread::park_timeout(PAUSE);
                    }
                    if written {
                        break;
                    }
                }
            }
        });
        Self { stop, targets, written, thread }
    }

    /// One more of several.
    pub fn also(&self, target: Target) {
        lock(&self.targets).push(target);
    }

    pub fn count(&self) -> usize {
        lock(&self.written).names.len()
    }

    /// Waits for so many more acknowledged writes, and returns the longest time without one since the last call.
    pub fn goes_on(&self, more: usize) -> Duration {
        let wanted = self.count() + more;
        crate::until("writes are acknowledged", START, || (self.count() >= wanted).then_some(()).ok_or("too few"));
        std::mem::take(&mut lock(&self.written).longest)
    }

    /// What was not acknowledged at once, with its reason, since the last call.
    pub fn refused(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.written).refused)
    }

    /// Every acknowledged write must be seen by each of these servers.
    ///
    /// # Panics
    /// When one is not, or nothing was written.
    pub fn end<'a>(self, servers: impl IntoIterator<Item = &'a Server>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer ends");
        let names = &lock(&self.written).names;
        assert!(!names.is_empty());
        for server in servers {
            let there = server.kubectl(|kubectl| {
                kubectl.until(START, &["get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}"], |_| true)
            });
            let there: BTreeSet<_> = there.split(' ').collect();
            let lost: Vec<_> = names.iter().filter(|name| !there.contains(name.as_str())).collect();
            assert!(lost.is_empty(), "{}: acknowledged and lost: {lost:?}", server.name);
        }
    }
}

impl Written {
    fn note(&mut self, name: &str, outcome: Result<(), String>) {
        if let Err(reason) = outcome {
            self.refused.push(reason);
            return;
        }
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        self.names.push(name.to_owned());
    }
}

impl Target {
    fn create(&self, name: &str) -> Result<(), String> {
        let kubectl = Kubectl::on(&self.host, &self.kubeconfig);
        let mut command = kubectl.command(&["create", "configmap", name, "--request-timeout=4s"]);
        command.args(self.url.iter().map(|url| format!("--server={url}")));
        let output = output(&mut command, None).expect("run kubectl");
        let error = String::from_utf8_lossy(&output.stderr);
        // One whose answer was lost may have been written.
        if output.status.success() || error.contains("already exists") {
            Ok(())
        } else {
            Err(format!("{}: {}", self.url.as_deref().unwrap_or_default(), error.trim()))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
