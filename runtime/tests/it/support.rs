//! A runtime of one test's own, removed without a trace at the end.

use runtime::images::RegistriesConfig;
use runtime::spec::{ContainerId, ContainerSpec, PodId, PodSpec};
use runtime::{ContainerStatus, Runtime, RuntimeConfig};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const IMAGE: &str = "rk.test/busybox:1";

/// Says loudly why a test cannot run here.
pub(crate) fn able() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/bin/busybox").exists() {
        "no /bin/busybox (Debian package busybox-static)"
    } else {
        return true;
    };
    drop(writeln!(std::io::stderr(), "SKIPPED: {reason}"));
    false
}

pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) cgroup: String,
    pub(crate) runtime: Runtime,
    closed: bool,
}

impl Host {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rkrt").tempdir_in("/tmp").unwrap();
        let cgroup = format!("/{}", dir.path().file_name().unwrap().to_str().unwrap());
        let runtime = Self::open(dir.path(), &cgroup).await;
        let host = Self { dir, cgroup, runtime, closed: false };
        let images = host.runtime.images().clone();
        tokio::task::spawn_blocking(move || images.import(&busybox_archive()[..])).await.unwrap().unwrap();
        host
    }

    pub(crate) async fn open(dir: &Path, cgroup: &str) -> Runtime {
        Runtime::open(RuntimeConfig {
            root: dir.join("root"),
            state: dir.join("run"),
            exe: PathBuf::from(env!("CARGO_BIN_EXE_rk-shim-test")),
            cgroup_parent: cgroup.to_owned(),
            registries: RegistriesConfig::default(),
        })
        .await
        .unwrap()
    }

    /// A second runtime on the same folders, as after a restart of rk.
    pub(crate) async fn reopen(&self) -> Runtime {
        Self::open(self.dir.path(), &self.cgroup).await
    }

    pub(crate) async fn pod(&self, id: &str) -> PodId {
        self.pod_with(PodSpec { id: id.into(), hostname: id.into(), ..PodSpec::default() }).await
    }

    pub(crate) async fn pod_with(&self, spec: PodSpec) -> PodId {
        self.runtime.run_pod(spec).await.unwrap().spec.id.clone()
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(name)
    }

    /// Creates and starts.
    pub(crate) async fn start(&self, pod: &PodId, spec: ContainerSpec) -> ContainerId {
        let id = self.runtime.create_container(pod, spec).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Runs a shell script to its end: exit status and log text (without times).
    pub(crate) async fn run(&self, pod: &PodId, spec: ContainerSpec) -> (ContainerStatus, String) {
        let log = self.log_path(&format!("{}.log", spec.name));
        let spec = ContainerSpec { log_path: Some(log.clone()), ..spec };
        let id = self.start(pod, spec).await;
        let status = self.wait(&id).await;
        (status, log_text(&log))
    }

    pub(crate) async fn wait(&self, id: &ContainerId) -> ContainerStatus {
        tokio::time::timeout(DEADLINE, self.runtime.wait_container(id)).await.expect("container does not end").unwrap()
    }

    pub(crate) async fn close(mut self) {
        for pod in self.runtime.list_pods() {
            self.runtime.remove_pod(&pod.spec.id).await.unwrap();
        }
        self.runtime.remove_cgroup(&self.cgroup).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let own = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(own), "mounts are left:\n{mounts}");
        self.closed = true;
    }
}

impl Drop for Host {
    /// After a failed test: whatever is left goes by force.
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let groups = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let groups: Vec<PathBuf> = groups.map(|e| e.path().join(&self.cgroup[1..])).filter(|p| p.exists()).collect();
        for _ in 0..200 {
            for group in &groups {
                sweep(group);
            }
            if groups.iter().all(|g| !g.exists()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for path in mounts.lines().filter_map(|l| l.split(' ').nth(1)) {
            if Path::new(path).starts_with(self.dir.path()) {
                nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).unwrap_or_default();
            }
        }
    }
}

fn sweep(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        sweep(&entry.path());
    }
    for pid in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap_or_default();
    }
    std::fs::remove_dir(group).unwrap_or_default();
}

/// Entries without their times.
pub(crate) fn log_text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| format!("{}\n", line.split_once(' ').map_or(line, |(_, rest)| rest))).collect()
}

/// Polls a condition until it holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "still not: {what}");
}

pub(crate) fn shell(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: IMAGE.into(),
        args: vec!["sh".into(), "-c".into(), script.into()],
        ..ContainerSpec::default()
    }
}

pub(crate) fn sleeper(name: &str) -> ContainerSpec {
    shell(name, "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")
}

pub(crate) fn tar_entry(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_mtime(1);
    tar.append_data(&mut header, path, data).unwrap();
}

pub(crate) fn tar_link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    tar.append_link(&mut header, path, target).unwrap();
}

/// The layer of the test image.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar_entry(&mut tar, "bin/busybox", 0o755, &std::fs::read("/bin/busybox").unwrap());
    let applets = "sh echo cat sleep id env ls mount hostname ps touch stat head tail dd kill true false nc ip mkdir \
                   rm seq wc yes tty stty unshare printf test readlink grep date pwd chown chmod";
    for applet in applets.split_whitespace() {
        tar_link(&mut tar, &format!("bin/{applet}"), "busybox");
    }
    tar_entry(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n");
    tar_entry(&mut tar, "etc/group", 0o644, b"root:x:0:\nwww:x:34:\nextra:x:77:web\n");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    tar.append_data(&mut header, "tmp/", std::io::empty()).unwrap();
    tar.into_inner().unwrap()
}

pub(crate) fn sha256(data: &[u8]) -> String {
    use sha2::Digest;
    let hex: String = sha2::Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

pub(crate) fn config_json(diff_ids: &[String]) -> Vec<u8> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    serde_json::to_vec(&serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh", "-c", "echo default"], "WorkingDir": "/tmp"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap()
}

/// docker-archive with the given layers, lowest first.
pub(crate) fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| sha256(l)).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let names: Vec<String> = (0..layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    for (name, layer) in names.iter().zip(layers) {
        tar_entry(&mut tar, name, 0o644, layer);
    }
    tar_entry(&mut tar, "config.json", 0o644, &config_json(&diff_ids));
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    tar_entry(&mut tar, "manifest.json", 0o644, &serde_json::to_vec(&manifest).unwrap());
    tar.into_inner().unwrap()
}

pub(crate) fn busybox_archive() -> Vec<u8> {
    docker_archive(IMAGE, &[busybox_layer()])
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
