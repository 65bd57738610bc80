//! Namespaces as hosts and pods, servers and clients inside them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use net::{Net, NetConfig, PodAddr, PodAttach};

const PATIENCE: Duration = Duration::from_secs(5);

/// True when the test can run; says why when not.
pub(crate) fn able() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        drop(writeln!(std::io::stderr(), "SKIPPED: making network namespaces needs root"));
    }
    root
}

/// A network namespace, removed when dropped.
pub(crate) struct Ns {
    name: String,
}

impl Ns {
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rkt-{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let ns = Self { name };
        ns.ip(&["link", "set", "lo", "up"]);
        ns
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", self.name.as_str()], args].concat())
    }

    pub(crate) fn nft(&self, args: &[&str]) -> String {
        let net = format!("--net={}", self.path().display());
        run("nsenter", &[&[net.as_str(), "nft"], args].concat())
    }

    /// Runs `act` on a thread that is in this namespace.
    pub(crate) fn enter<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(act).join().expect("the thread in the namespace")
    }

    pub(crate) fn spawn<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let file = std::fs::File::open(self.path()).unwrap();
        thread::spawn(move || {
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            act()
        })
    }

    /// Answers every connection and datagram on `port` with `name`, until dropped.
    pub(crate) fn serve(&self, name: &str, port: u16) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = self.enter(move || {
            let any = (Ipv4Addr::UNSPECIFIED, port);
            let udp = UdpSocket::bind(any).unwrap();
            udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let tcp = TcpListener::bind(any).unwrap();
            tcp.set_nonblocking(true).unwrap();
            (tcp, udp)
        });
        let answer = name.to_owned();
        let stopped = Arc::clone(&stop);
        let datagrams = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                    udp.send_to(format!("{answer} {}", from.ip()).as_bytes(), from).ok();
                }
                while let Ok((mut stream, from)) = tcp.accept() {
                    stream.write_all(format!("{answer} {}", from.ip()).as_bytes()).ok();
                }
                // Wake up for connections soon: the datagram wait is the loop's clock.
                udp.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            }
        });
        Server { stop, thread: Some(datagrams) }
    }

    /// What a server at `to` answers: its name and the client address it saw.
    pub(crate) fn ask(&self, to: impl Into<SocketAddr>) -> std::io::Result<(String, IpAddr)> {
        let to = to.into();
        self.enter(move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(parse(&answer))
        })
    }

    pub(crate) fn ask_udp(&self, to: impl Into<SocketAddr>) -> std::io::Result<(String, IpAddr)> {
        let to = to.into();
        self.enter(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            datagram(&socket, to)
        })
    }
}

/// One question and its answer on a socket.
pub(crate) fn datagram(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<(String, IpAddr)> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, to, "the answer comes from where the question went");
    Ok(parse(std::str::from_utf8(&buffer[..length]).unwrap()))
}

fn parse(answer: &str) -> (String, IpAddr) {
    let (name, ip) = answer.split_once(' ').unwrap();
    (name.to_owned(), ip.parse().unwrap())
}

impl Drop for Ns {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Asks until an answer comes; for what becomes true a moment later.
pub(crate) fn eventually<T, E: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("{what}: {error:?}"),
            Err(_) => thread::yield_now(),
        }
    }
}

/// A host: a namespace with an uplink to a shared segment, a runtime and a `Net` in it.
pub(crate) struct Host {
    pub(crate) ns: Ns,
    pub(crate) ip: Ipv4Addr,
    config: NetConfig,
    calls: Option<std::sync::mpsc::Sender<Call>>,
    thread: Option<JoinHandle<()>>,
    state: tempfile::TempDir,
}

type Call = Box<dyn FnOnce(&mut Option<Net>, &tokio::runtime::Runtime) + Send>;

/// A cable between hosts: a bridge in a namespace of its own.
pub(crate) struct Segment {
    pub(crate) ns: Ns,
}

impl Segment {
    pub(crate) fn new() -> Self {
        let ns = Ns::new("seg");
        ns.ip(&["link", "add", "seg0", "type", "bridge"]);
        ns.ip(&["addr", "add", "192.0.2.254/24", "dev", "seg0"]);
        ns.ip(&["link", "set", "seg0", "up"]);
        Self { ns }
    }

    pub(crate) fn host(&self, number: u8) -> Host {
        self.host_with(number, |_| ())
    }

    pub(crate) fn host_with(&self, number: u8, change: impl FnOnce(&mut NetConfig)) -> Host {
        let ns = Ns::new("host");
        let port = format!("p{number}");
        ns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &self.ns.name]);
        ns.ip(&["addr", "add", &format!("192.0.2.{number}/24"), "dev", "eth0"]);
        ns.ip(&["link", "set", "eth0", "up"]);
        self.ns.ip(&["link", "set", &port, "master", "seg0", "up"]);
        let state = tempfile::tempdir().unwrap();
        let mut config = NetConfig {
            state_dir: state.path().to_owned(),
            node_ip: Ipv4Addr::new(192, 0, 2, number),
            pod_cidr: Some(format!("10.42.{number}.0/24").parse().unwrap()),
            ..NetConfig::default()
        };
        change(&mut config);
        let mut host = Host { ns, ip: config.node_ip, config, calls: None, thread: None, state };
        host.start();
        host
    }
}

impl Host {
    /// Starts (again) as a new process would: same namespace, same state directory, nothing in memory.
    pub(crate) fn start(&mut self) {
        self.stop();
        let (calls, queue) = std::sync::mpsc::channel::<Call>();
        let config = self.config.clone();
        let (ready, started) = std::sync::mpsc::channel();
        self.thread = Some(self.ns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut net = Some(runtime.block_on(Net::start(config)).unwrap());
            ready.send(()).unwrap();
            for call in queue {
                call(&mut net, &runtime);
            }
        }));
        started.recv().expect("the network starts");
        self.calls = Some(calls);
    }

    pub(crate) fn stop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Runs a call on the host's `Net`.
    pub(crate) fn with<T, F>(&self, call: impl FnOnce(Net) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let (send, receive) = std::sync::mpsc::channel();
        let call: Call = Box::new(move |net, runtime| {
            let net = net.clone().unwrap();
            send.send(runtime.block_on(call(net))).unwrap();
        });
        self.calls.as_ref().unwrap().send(call).unwrap();
        receive.recv().expect("the call returns")
    }

    /// Runs the host's tasks (servers among them) until a thread elsewhere is done.
    pub(crate) fn drive<T: Send + 'static>(&self, work: JoinHandle<T>) -> T {
        self.with(async move |_| tokio::task::spawn_blocking(|| work.join()).await.unwrap()).unwrap()
    }

    pub(crate) fn config(&self) -> NetConfig {
        self.config.clone()
    }

    pub(crate) fn state(&self) -> &std::path::Path {
        self.state.path()
    }

    pub(crate) fn pod(&self, name: &str) -> Pod {
        let ns = Ns::new(name);
        let attach = PodAttach { pod_id: name.to_owned(), netns: ns.path(), host_ports: Vec::new() };
        let addr = self.with(async move |net| net.attach(attach).await).unwrap();
        Pod { ns, addr }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.calls = None;
        self.thread.take().map(JoinHandle::join);
    }
}

pub(crate) struct Pod {
    pub(crate) ns: Ns,
    pub(crate) addr: PodAddr,
}

fn ip(args: &[&str]) -> String {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
