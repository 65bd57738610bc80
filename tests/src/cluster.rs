//! A cluster of the real executable: a server on one host, further servers and agents on others, each with folders of its
//! own.

use crate::host::{Host, Network};
use crate::kubectl::Kubectl;
use crate::process::Background;
use nix::sys::signal::Signal;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// How long a start may take on a busy machine; the budget itself is measured by the benches.
pub const START: Duration = Duration::from_secs(60);

/// One rk process with its host and folders.
#[derive(Debug)]
pub struct Machine {
    /// Of its node, if it is one, and of the server.
    pub name: String,
    pub host: Host,
    pub folder: PathBuf,
    /// `None` while stopped.
    pub process: Option<Background>,
    arguments: Vec<String>,
}

/// A server machine.
pub type Server = Machine;

/// Declared in the order in which things must go: processes, then folders, then the network.
#[derive(Debug)]
pub struct Cluster {
    pub server: Server,
    /// Servers that joined the first one.
    pub servers: Vec<Server>,
    pub agents: Vec<Machine>,
    folder: TempDir,
    network: Network,
}

impl Machine {
    fn new(host: Host, folder: PathBuf, arguments: Vec<String>) -> Self {
        std::fs::create_dir_all(&folder).expect("make the machine's folder");
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, host, folder, process: None, arguments }
    }

    /// kubectl on this machine, against its own server.
    pub fn kubectl<T>(&self, use_it: impl FnOnce(&Kubectl<'_>) -> T) -> T {
        let kubeconfig = self.kubeconfig();
        use_it(&Kubectl { host: Some(&self.host), kubeconfig: &kubeconfig })
    }

    /// Starts a machine that ends by itself; returns its log.
    pub fn refused(&mut self) -> String {
        self.start();
        let process = self.process.as_mut().expect("just started");
        let status = crate::until("rk ends by itself", START, || process.ended().ok_or("it runs"));
        assert!(!status.success(), "{status}");
        let log = self.log();
        self.process = None;
        std::fs::remove_file(self.folder.join("rk.log")).expect("start a new log");
        log
    }

    /// Waits until this server's API is ready.
    pub fn api_answers(&self) {
        self.kubectl(|kubectl| kubectl.until(START, &["get", "--raw", "/readyz"], |text| text == "ok"));
    }

    /// An `rk member` command on this machine, by its own server.
    pub fn member(&self, arguments: &[&str]) -> Command {
        let mut command = self.rk(&["member"]);
        command.args(arguments).arg("--kubeconfig").arg(self.kubeconfig());
        command
    }

    /// An `rk snapshot` command on this machine.
    pub fn snapshot(&self, arguments: &[&str]) -> Command {
        let mut command = self.rk(&["snapshot"]);
        command.arg("--data-dir").arg(self.data_dir()).args(["--node-name", &self.name]).args(arguments);
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Where this server is reached.
    pub fn url(&self) -> String {
        format!("https://{}:6443", self.host.address)
    }

    /// An rk command on this host.
    pub fn rk(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(crate::rk());
        command.args(arguments);
        command
    }

    pub fn start(&mut self) {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.process = Some(Background::start(self.rk(&arguments), &self.folder.join("rk.log")));
    }

    /// Leaves out flags that begin so at the next start.
    pub fn drop_flags(&mut self, beginning: &str) {
        self.arguments.retain(|flag| !flag.starts_with(beginning));
    }

    /// A further flag for the next start; one given before gives way to it.
    pub fn set_flag(&mut self, flag: &str) {
        self.arguments.push(flag.to_owned());
    }

    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.end(signal);
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("rk.log")).unwrap_or_default()
    }

    /// The network namespace of a pod on this machine.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn pod_namespace(&self, uid: &str) -> File {
        File::open(self.folder.join("run/netns").join(uid)).expect("open the pod's namespace")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("rk.yaml")
    }

    /// Lays down the busybox test image, to be imported at the start.
    pub fn lay_down_busybox(&self) {
        let images = self.data_dir().join("agent/images");
        std::fs::create_dir_all(&images).expect("make the images folder");
        crate::image::busybox(&images.join("busybox.tar"), crate::image::NAME);
    }

    /// Removes every pod, container, mount, link and cgroup this machine still has.
    fn clear(&mut self) {
        self.stop(Signal::SIGKILL);
        if let Err(error) = crate::process::check(&mut self.kill_all(), None) {
            eprintln!("{error:#}");
        }
    }

    /// `rk kill-all` for this machine, not yet run.
    pub fn kill_all(&self) -> Command {
        let mut command = self.rk(&["kill-all"]);
        command.arg("--data-dir").arg(self.data_dir()).arg("--state-dir").arg(self.folder.join("run"));
        command.args(["--cgroup-root", &cgroup_root(&self.folder)]);
        command
    }
}

fn cgroup_root(folder: &Path) -> String {
    let name = |path: Option<&Path>| path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    format!("/rk-test-{}-{}", name(folder.parent()).trim_start_matches('.'), name(Some(folder)))
}

fn folders(folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let flag = |name: &str, value: String| format!("--{name}={value}");
    vec![
        flag("data-dir", path("data")),
        flag("state-dir", path("run")),
        flag("registries", path("registries.yaml")),
        flag("log-dir", path("log")),
        flag("cgroup-root", cgroup_root(folder)),
    ]
}

impl Cluster {
    /// A started server whose API answers. `extra` are further flags.
    pub fn start(extra: &[&str]) -> Self {
        let mut cluster = Self::prepare(extra);
        cluster.server.start();
        cluster.api_answers();
        cluster
    }

    /// A started server whose node is Ready, with the busybox test image.
    pub fn ready() -> Self {
        let mut cluster = Self::prepare(&[]).with_busybox();
        cluster.server.start();
        cluster.api_answers();
        cluster.node_ready("server");
        cluster
    }

    /// A server that is not started yet.
    pub fn prepare(extra: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rk").tempdir_in("/tmp").expect("make a temporary folder");
        let mut network = Network::new();
        let place = folder.path().join("server");
        let kubeconfig = format!("--write-kubeconfig={}", place.join("rk.yaml").display());
        let mut arguments = vec!["server".to_owned(), "--node-name=server".to_owned(), kubeconfig];
        arguments.extend(folders(&place));
        arguments.extend(extra.iter().map(|&flag| flag.to_owned()));
        let server = Machine::new(network.host(), place, arguments);
        Self { server, servers: Vec::new(), agents: Vec::new(), folder, network }
    }

    /// Waits until the API is ready.
    pub fn api_answers(&self) {
        self.kubectl_until_ready(&["get", "--raw", "/readyz"], |text| text == "ok");
    }

    fn kubectl_until_ready(&self, arguments: &[&str], accept: impl Fn(&str) -> bool) {
        let kubeconfig = self.server.kubeconfig();
        Kubectl { host: Some(&self.server.host), kubeconfig: &kubeconfig }.until(START, arguments, accept);
    }

    /// Waits until a node is Ready.
    pub fn node_ready(&self, name: &str) {
        let path = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        self.kubectl_until_ready(&["get", "node", name, path], |text| text == "True");
    }

    /// A further server on a host of its own, named `name`, that is to join through the first one; not started yet.
    pub fn further_server(&mut self, name: &str, extra: &[&str]) -> &mut Server {
        let token = std::fs::read_to_string(self.server.data_dir().join("server/token")).expect("read the token");
        let place = self.folder.path().join(name);
        let mut arguments = vec!["server".to_owned(), format!("--node-name={name}")];
        arguments.push(format!("--write-kubeconfig={}", place.join("rk.yaml").display()));
        arguments.push(format!("--server={}", self.server.url()));
        arguments.push(format!("--token={}", token.trim()));
        arguments.extend(folders(&place));
        arguments.extend(extra.iter().map(|&flag| flag.to_owned()));
        let machine = Machine::new(self.network.host(), place, arguments);
        self.servers.push(machine);
        self.servers.last_mut().expect("just pushed")
    }

    /// The same, started, and with an API that answers.
    pub fn join_server(&mut self, name: &str, extra: &[&str]) -> &mut Server {
        let server = self.further_server(name, extra);
        server.start();
        server.api_answers();
        server
    }

    /// Every server, the first one first.
    pub fn all_servers(&mut self) -> impl Iterator<Item = &mut Server> {
        std::iter::once(&mut self.server).chain(&mut self.servers)
    }

    /// Starts an agent on a host of its own, named `name`, with the server's token.
    pub fn agent(&mut self, name: &str, extra: &[&str]) -> &mut Machine {
        self.agent_with(name, extra, |_| {})
    }

    /// The same, after `prepare` has laid down files on the machine.
    pub fn agent_with(&mut self, name: &str, extra: &[&str], prepare: impl FnOnce(&Machine)) -> &mut Machine {
        let token = std::fs::read_to_string(self.server.data_dir().join("server/node-token")).expect("read the token");
        let place = self.folder.path().join(name);
        let mut arguments = vec!["agent".to_owned(), format!("--node-name={name}")];
        arguments.push(format!("--server=https://{}:6443", self.server.host.address));
        arguments.push(format!("--token={}", token.trim()));
        arguments.extend(folders(&place));
        arguments.extend(extra.iter().map(|&flag| flag.to_owned()));
        let mut machine = Machine::new(self.network.host(), place, arguments);
        prepare(&machine);
        machine.start();
        self.agents.push(machine);
        self.agents.last_mut().expect("just pushed")
    }

    /// Runs kubectl on the server's host.
    pub fn kubectl<T>(&self, use_it: impl FnOnce(&Kubectl<'_>) -> T) -> T {
        let kubeconfig = self.server.kubeconfig();
        use_it(&Kubectl { host: Some(&self.server.host), kubeconfig: &kubeconfig })
    }

    /// The server of that name.
    ///
    /// # Panics
    /// When there is none.
    pub fn named(&mut self, name: &str) -> &mut Server {
        self.all_servers().find(|server| server.name == name).expect("there is such a server")
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Makes the busybox test image, as `rk.local/busybox:test`, and puts it in the machines' images folder.
    pub fn with_busybox(self) -> Self {
        self.server.lay_down_busybox();
        self
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.agents.iter_mut().for_each(Machine::clear);
        self.servers.iter_mut().for_each(Machine::clear);
        self.server.clear();
    }
}
