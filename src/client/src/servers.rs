//! Which API servers there are, and in what order to try them. Shared by all who call a server: the HTTPS transport,
//! joining, and the node's tunnels.
//!
//! - What the cluster says of its servers (*learnt*) comes first, each client in an order of its own, so that the
//!   clients of a cluster spread over its servers. Then what the client was started with (*given*), then what was learnt
//!   once and is no longer (*former*): last resorts of a machine that was off while all servers changed.
//! - The server that answers is stuck to, until [`ServerList::settle`] says that it is time to go where this client
//!   belongs: a cluster that grew, or whose server came back, has its clients elsewhere. One that failed is tried after all others for a while, the longer the oftener.
//! - An empty list is never learnt: a cluster that says it has no server is one that cannot say.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a server that failed comes after the others: doubled with each failure on end.
const FIRST_PENALTY: Duration = Duration::from_secs(5);
const LONGEST_PENALTY: Duration = Duration::from_secs(60);
/// So many former servers are remembered.
const FORMER: usize = 8;

/// API servers as `https://HOST:PORT`. Cheap to clone; all clones are one list.
#[derive(Clone, Debug)]
pub struct ServerList {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Those worth a standing connection each: the learnt ones, or what was given while nothing is learnt.
    standing: watch::Sender<Vec<String>>,
}

#[derive(Debug, Default)]
struct State {
    given: Vec<String>,
    learnt: Vec<String>,
    former: Vec<String>,
    /// Makes this client's order differ from others'.
    seed: String,
    current: Option<String>,
    /// Where to move to although the current server works.
    wish: Option<String>,
    failures: HashMap<String, Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Instant,
    count: u32,
}

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownServers {
    #[serde(default)]
    pub servers: Vec<String>,
    /// Servers once, now not.
    #[serde(default)]
    pub former: Vec<String>,
}

impl ServerList {
    /// `given` are tried in that order while nothing else is known.
    pub fn new(given: Vec<String>) -> Self {
        let shared = Shared { standing: watch::Sender::new(given.clone()), state: Mutex::default() };
        shared.lock().given = given;
        Self { shared: Arc::new(shared) }
    }

    /// A list that orders what it learns by `seed`, such as the node's name, and begins with what an earlier process
    /// knew.
    pub fn spread(given: Vec<String>, seed: &str, known: KnownServers) -> Self {
        let list = Self::new(given);
        list.shared.lock().seed = seed.to_owned();
        list.shared.lock().former = known.former;
        list.learn(known.servers);
        list
    }

    /// Takes what the cluster says of its servers now. Whether that was news.
    pub fn learn(&self, mut servers: Vec<String>) -> bool {
        servers.sort();
        servers.dedup();
        let mut state = self.shared.lock();
        if servers.is_empty() || servers == state.learnt {
            return false;
        }
        let gone: Vec<_> = state.learnt.iter().filter(|server| !servers.contains(server)).cloned().collect();
        let older = std::mem::take(&mut state.former);
        state.former = gone.into_iter().chain(older).filter(|server| !servers.contains(server)).collect();
        state.former.truncate(FORMER);
        state.learnt = servers;
        let standing = state.learnt.clone();
        drop(state);
        self.shared.standing.send_if_modified(|current| std::mem::replace(current, standing.clone()) != standing);
        true
    }

    pub fn known(&self) -> KnownServers {
        let state = self.shared.lock();
        KnownServers { servers: state.learnt.clone(), former: state.former.clone() }
    }

    /// The servers to keep a connection to each, now and whenever they change.
    pub fn standing(&self) -> watch::Receiver<Vec<String>> {
        self.shared.standing.subscribe()
    }

    /// All servers, in the order to try them now.
    pub fn candidates(&self) -> Vec<String> {
        self.shared.lock().candidates(Instant::now())
    }

    /// The server answers: it comes first from now on.
    pub fn works(&self, server: &str) {
        let mut state = self.shared.lock();
        if state.current.as_deref() != Some(server) {
            state.current = Some(server.to_owned());
        }
        state.failures.remove(server);
    }

    /// The server does not answer, or cannot do its work.
    pub fn failed(&self, server: &str) {
        let mut state = self.shared.lock();
        let count = state.failures.get(server).map_or(0, |failure| failure.count).saturating_add(1);
        state.failures.insert(server.to_owned(), Failure { at: Instant::now(), count });
    }

    /// Has the client move to its own first choice among the learnt servers, if it is at another. Whether it will.
    pub fn settle(&self) -> bool {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let first = state.learnt.iter().min_by_key(|server| state.rank(server)).cloned();
        let works = |server: &String| !state.failures.get(server).is_some_and(|failure| failure.holds(now));
        state.wish =
            first.filter(|server| state.current.is_some() && state.current.as_ref() != Some(server) && works(server));
        state.wish.is_some()
    }

    pub(crate) fn take_wish(&self) -> Option<String> {
        self.shared.lock().wish.take()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.shared.lock();
        state.given.is_empty() && state.learnt.is_empty() && state.former.is_empty()
    }
}

impl From<Vec<String>> for ServerList {
    fn from(servers: Vec<String>) -> Self {
        Self::new(servers)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn candidates(&self, now: Instant) -> Vec<String> {
        let mut learnt: Vec<_> = self.learnt.iter().collect();
        learnt.sort_by_cached_key(|server| self.rank(server));
        // Only while it is one of the cluster's is it stuck to; a given one may be a name for any of them.
        let known = |server: &&String| self.learnt.is_empty() || self.learnt.contains(server);
        let mut all: Vec<&String> = Vec::new();
        for server in self.current.iter().filter(known).chain(learnt).chain(&self.given).chain(&self.former) {
            if !all.contains(&server) {
                all.push(server);
            }
        }
        // Stable: the order above holds among the good, the time of failure among the bad.
        all.sort_by_key(|server| self.failures.get(*server).filter(|f| f.holds(now)).map(|failure| failure.at));
        all.into_iter().cloned().collect()
    }

    /// Different for each pair of client and server, so that each client has its own first, second, third.
    fn rank(&self, server: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.seed, server).hash(&mut hasher);
        hasher.finish()
    }
}

impl Failure {
    fn holds(&self, now: Instant) -> bool {
        let penalty = FIRST_PENALTY.saturating_mul(1 << self.count.saturating_sub(1).min(8)).min(LONGEST_PENALTY);
        now.saturating_duration_since(self.at) < penalty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("https://{name}:6443")).collect()
    }

    #[test]
    fn what_is_learnt_goes_before_what_was_given_and_former_servers_come_last() {
        let list = ServerList::new(urls(&["lb"]));
        assert_eq!(list.candidates(), urls(&["lb"]));
        assert!(list.learn(urls(&["a"])));
        assert_eq!(list.candidates(), urls(&["a", "lb"]));
        assert!(list.learn(urls(&["b"])));
        assert_eq!(list.candidates(), urls(&["b", "lb", "a"]));
        assert!(!list.learn(Vec::new()) && !list.learn(urls(&["b"])));
        assert!(list.learn(urls(&["a", "b"])));
        assert_eq!(list.known(), KnownServers { servers: urls(&["a", "b"]), former: Vec::new() });
    }

    #[test]
    fn clients_spread_and_each_keeps_its_order() {
        let servers = ["a", "b", "c"];
        let first = |client: usize| {
            let list = ServerList::spread(Vec::new(), &format!("node-{client}"), KnownServers::default());
            list.learn(urls(&servers));
            assert_eq!(list.candidates(), list.candidates());
            list.candidates().swap_remove(0)
        };
        let mut counts: HashMap<String, usize> = HashMap::new();
        (0..300).for_each(|client| *counts.entry(first(client)).or_default() += 1);
        assert!(counts.len() == 3 && counts.values().all(|count| (60..140).contains(count)), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_that_works_is_stuck_to_and_one_that_failed_waits_its_turn() {
        let list = ServerList::new(urls(&["a", "b", "c"]));
        list.works(&urls(&["b"])[0]);
        assert_eq!(list.candidates(), urls(&["b", "a", "c"]));
        list.failed(&urls(&["b"])[0]);
        assert_eq!(list.candidates(), urls(&["a", "c", "b"]));
        tokio::time::advance(Duration::from_secs(1)).await;
        list.failed(&urls(&["a"])[0]);
        assert_eq!(list.candidates(), urls(&["c", "b", "a"]), "who failed first is tried first");
        tokio::time::advance(FIRST_PENALTY).await;
        assert_eq!(list.candidates(), urls(&["b", "a", "c"]));
        list.failed(&urls(&["b"])[0]);
        tokio::time::advance(FIRST_PENALTY).await;
        assert_eq!(list.candidates(), urls(&["a", "c", "b"]), "a second failure on end counts for longer");
    }

    #[test]
    fn standing_connections_are_to_the_learnt_servers_or_else_to_the_given() {
        let list = ServerList::new(urls(&["lb"]));
        let mut standing = list.standing();
        assert_eq!(*standing.borrow_and_update(), urls(&["lb"]));
        list.learn(urls(&["b", "a"]));
        assert!(standing.has_changed().unwrap());
        assert_eq!(*standing.borrow_and_update(), urls(&["a", "b"]));
        list.learn(urls(&["a", "b"]));
        assert!(!standing.has_changed().unwrap());
    }

    #[test]
    fn a_server_is_not_stuck_to_once_it_is_gone() {
        let list = ServerList::new(urls(&["lb"]));
        list.works(&urls(&["lb"])[0]);
        list.learn(urls(&["a"]));
        assert_eq!(list.candidates(), urls(&["a", "lb"]));
        list.works(&urls(&["a"])[0]);
        list.learn(urls(&["b"]));
        assert_eq!(list.candidates(), urls(&["b", "lb", "a"]));
    }
}
