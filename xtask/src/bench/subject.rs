//! A server under test: on a host of its own, with folders of its own, removed when dropped.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use rk_tests::process::{Background, check};
use rk_tests::{Host, Network};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::api::Target;

/// The image of measured pods, made of Debian's static busybox.
pub(super) const IMAGE: &str = "rk.local/busybox:bench";
pub(super) const NODE: &str = "bench";
const START: Duration = Duration::from_secs(60);

/// Fields are dropped in order: the process before its folders, those before the network.
pub(super) struct Subject {
    process: Option<Background>,
    rk: PathBuf,
    cgroup: String,
    folder: TempDir,
    /// As in an installation, on a file system that a restart of the machine clears.
    state: TempDir,
    host: Host,
    _network: Network,
}

impl Subject {
    /// Host and folders; nothing runs yet.
    pub(super) fn prepare(rk: &Path, dir: &Path) -> anyhow::Result<Self> {
        let make = |dir: &Path| {
            let made = tempfile::Builder::new().prefix("rkb").tempdir_in(dir);
            made.with_context(|| format!("make a folder in {}", dir.display()))
        };
        let (folder, state) = (make(dir)?, make(Path::new("/run"))?);
        let mut network = Network::new();
        let host = network.host();
        let name = folder.path().file_name().context("the folder has a name")?.to_string_lossy().into_owned();
        let cgroup = format!("/{name}");
        // This machine's own configuration must not be read.
        fs::write(folder.path().join("config.yaml"), "{}\n").context("write an empty configuration")?;
        Ok(Self { process: None, rk: rk.to_owned(), cgroup, folder, state, host, _network: network })
    }

    /// Starts the server and returns the moment before.
    pub(super) fn start(&mut self) -> Instant {
        let mut command = self.host.command(&self.rk);
        command.args(["server", "--node-name", NODE, "--cgroup-root", &self.cgroup]);
        command.arg("--write-kubeconfig").arg(self.kubeconfig_path());
        command.arg("--registries").arg(self.folder.path().join("registries.yaml"));
        command.arg("--config").arg(self.folder.path().join("config.yaml"));
        command.arg("--data-dir").arg(self.data_dir()).arg("--state-dir").arg(self.state.path());
        command.arg("--log-dir").arg(self.folder.path().join("log"));
        let before = Instant::now();
        self.process = Some(Background::start(command, &self.folder.path().join("rk.log")));
        before
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.process.as_ref().map(Background::pid).context("the server is not running")
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn state_dir(&self) -> &Path {
        self.state.path()
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn kubeconfig_path(&self) -> PathBuf {
        self.folder.path().join("rk.yaml")
    }

    /// The administrator's kubeconfig, as soon as the server has written it.
    pub(super) fn kubeconfig(&mut self) -> anyhow::Result<Target> {
        let deadline = Instant::now() + START;
        let path = self.kubeconfig_path();
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if !text.is_empty() => return Target::parse(&text),
                _ if Instant::now() > deadline => bail!("no kubeconfig within {START:?}; log:\n{}", self.log()),
                _ => std::thread::park_timeout(Duration::from_millis(2)),
            }
            if let Some(status) = self.process.as_mut().context("the server was not started")?.ended() {
                bail!("the server ended with {status}; log:\n{}", self.log());
            }
        }
    }

    pub(super) fn log(&self) -> String {
        let log = self.process.as_ref().map(Background::log).unwrap_or_default();
        let skipped = log.lines().count().saturating_sub(40);
        log.lines().skip(skipped).flat_map(|line| [line, "\n"]).collect()
    }

    /// Runs `work` to its end on a thread that is on this host: its sockets are, too. Ctrl-C and SIGTERM are
    /// errors, so that everything is cleaned up.
    pub(super) fn inside<T: Send>(&self, work: impl Future<Output = anyhow::Result<T>> + Send) -> anyhow::Result<T> {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.pid()?)).context("open the host's namespace")?;
        let on_host = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the host's namespace")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut told = signal(SignalKind::terminate())?;
                tokio::select! {
                    done = work => done,
                    asked = tokio::signal::ctrl_c() => { asked?; bail!("interrupted") }
                    _ = told.recv() => bail!("told to stop"),
                }
            })
        };
        std::thread::scope(|scope| match scope.spawn(on_host).join() {
            Ok(done) => done.with_context(|| format!("log of the server:\n{}", self.log())),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Makes the pods' image present.
    pub(super) fn import_busybox(&self) -> anyhow::Result<()> {
        let archive = self.folder.path().join("busybox.tar");
        rk_tests::image::busybox(&archive, IMAGE);
        let mut command = self.host.command(&self.rk);
        command.args(["images", "import", "--cgroup-root", &self.cgroup]).arg(&archive);
        command.arg("--data-dir").arg(self.data_dir()).arg("--state-dir").arg(self.state.path());
        command.arg("--registries").arg(self.folder.path().join("registries.yaml"));
        check(&mut command, None).map(drop)
    }

    /// Stops in order; a server that does not is a finding.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.end(Signal::SIGTERM);
        if status.success() { Ok(()) } else { bail!("the server ended with {status} when told to stop") }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        drop(self.process.take());
        let mut command = self.host.command(&self.rk);
        command.args(["kill-all", "--cgroup-root", &self.cgroup]);
        command.arg("--data-dir").arg(self.data_dir()).arg("--state-dir").arg(self.state.path());
        if let Err(error) = check(&mut command, None) {
            eprintln!("bench: not all was cleaned up: {error:#}");
        }
    }
}
