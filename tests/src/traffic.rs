//! A client that asks all the time, from a host or from within a pod, and remembers what failed and how long it ever had
//! to wait: what a user of the cluster would notice.

use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(50);
/// A request that takes longer has failed: three times what a lost first packet costs.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The page at `/`, over a connection of its own.
    Page(SocketAddrV4),
    /// The address of a name, of the first DNS server that answers.
    Name { servers: Vec<Ipv4Addr>, name: String },
    /// The page at `/` of a name, port 80.
    NamedPage { servers: Vec<Ipv4Addr>, name: String },
}

/// A running client. Dropping it ends it.
#[derive(Debug)]
pub struct Traffic {
    what: String,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

/// What a client has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How often each answer came.
    pub answers: BTreeMap<String, usize>,
    /// When what failed, and how.
    pub failures: Vec<(Instant, String)>,
    /// The longest time from one answer to the next.
    pub longest: Duration,
    last: Option<Instant>,
}

impl Seen {
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    fn note(&mut self, asked: Instant, outcome: Result<String, String>) {
        let now = Instant::now();
        match outcome {
            Ok(answer) => {
                *self.answers.entry(answer).or_default() += 1;
                if let Some(last) = self.last.replace(now) {
                    self.longest = self.longest.max(now - last);
                }
            }
            Err(error) => self.failures.push((asked, error)),
        }
    }
}

impl Traffic {
    /// # Panics
    /// When `namespace`, a network namespace, cannot be entered.
    pub fn start(what: &str, namespace: &File, ask: Ask) -> Self {
        let namespace = namespace.try_clone().expect("share the namespace");
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (ending, shared) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            while !ending.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let outcome = ask.once().map_err(|error| error.to_string());
                lock(&shared).note(asked, outcome);
                std::thread::park_timeout(PAUSE);
            }
        });
        Self { what: what.to_owned(), stop, seen, thread: Some(thread) }
    }

    /// Waits for so many more answers.
    pub fn goes_on(&self, more: usize, limit: Duration) {
        self.has_answered(self.answered() + more, limit);
    }

    /// Answers since they were last taken.
    pub fn answered(&self) -> usize {
        lock(&self.seen).answered()
    }

    /// Waits until there are so many answers since they were last taken.
    pub fn has_answered(&self, wanted: usize, limit: Duration) {
        crate::until(&format!("{}: answers", self.what), limit, || {
            let seen = lock(&self.seen);
            if seen.answered() >= wanted { Ok(()) } else { Err(format!("{:?}", seen.failures.last())) }
        });
    }

    /// What was seen since the last call. The time without an answer goes on counting.
    pub fn take(&self) -> Seen {
        let mut seen = lock(&self.seen);
        let last = seen.last;
        std::mem::replace(&mut *seen, Seen { last, ..Seen::default() })
    }

    /// Expects that nothing has failed since the last time, and returns the longest time without an answer.
    ///
    /// # Panics
    /// With what failed.
    pub fn never_failed(&self, when: &str) -> Duration {
        let seen = self.take();
        println!("{when}: {}: {} answers, longest wait {:?}", self.what, seen.answered(), seen.longest);
        assert!(seen.failures.is_empty(), "{when}: {}: {:?}", self.what, seen.failures);
        assert!(seen.answered() > 0, "{when}: {}: nothing was asked", self.what);
        seen.longest
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it happened.
            drop(thread.join());
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ask {
    fn once(&self) -> std::io::Result<String> {
        match self {
            Self::Page(address) => page(*address),
            Self::Name { servers, name } => lookup(servers, name).map(|ip| ip.to_string()),
            Self::NamedPage { servers, name } => page(SocketAddrV4::new(lookup(servers, name)?, 80)),
        }
    }
}

/// Twice round, as resolvers do.
fn lookup(servers: &[Ipv4Addr], name: &str) -> std::io::Result<Ipv4Addr> {
    let mut last = Err(std::io::ErrorKind::NotFound.into());
    for server in servers.iter().chain(servers) {
        last = resolve(*server, name);
        if last.is_ok() {
            break;
        }
    }
    last
}

fn page(address: SocketAddrV4) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(address), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.contains(" 200 ") { Ok(body.trim().to_owned()) } else { Err(std::io::Error::other(answer)) }
}

fn resolve(server: Ipv4Addr, name: &str) -> std::io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, 53))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).map_err(std::io::Error::other)?);
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    socket.send(&question)?;
    let read = socket.recv(&mut answer)?;
    // The only answer is the last record, and an address its last four bytes.
    match answer.get(..read) {
        Some([0x12, 0x34, _, code, _, _, 0, 1, .., a, b, c, d]) if code & 0xf == 0 => Ok(Ipv4Addr::new(*a, *b, *c, *d)),
        other => Err(std::io::Error::other(format!("{other:?}"))),
    }
}
