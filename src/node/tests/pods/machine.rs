//! The machine under test: what stays while rk comes and goes, and waiting for what it brings about.

use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use client::Api;
use client::testing::FakeApi;
use client::{Informers, Scope};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Node as NodeObject, Pod};
use kube::api::DeleteParams;
use net::{Net, NetConfig};
use nix::sched::{CloneFlags, unshare};
use node::{Eviction, Node, NodeConfig};
use runtime::images::{FileSource, ImageFile};
use runtime::{ImageConfig, Runtime, RuntimeConfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub(crate) const NODE: &str = "edge";
pub(crate) const IMAGE: &str = "rk.local/busybox:1";
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/usr/bin/busybox";

pub(crate) struct Machine {
    folder: tempfile::TempDir,
    pub(crate) api: FakeApi,
    number: u32,
}

/// rk on the machine.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) runtime: Runtime,
    pub(crate) net: Net,
    pub(crate) stop: CancellationToken,
}

/// Runs the scenario on a machine of its own, whose network is a namespace, and clears up after it; or says why it
/// can't.
pub(crate) fn on_a_machine<F>(scenario: impl FnOnce(Arc<Machine>, Running) -> F + Send + 'static)
where
    F: Future<Output = (Arc<Machine>, Running)> + Send + 'static,
{
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    if !root || !Path::new(BUSYBOX).exists() {
        drop(writeln!(std::io::stderr(), "SKIPPED: root and a static busybox at {BUSYBOX} are needed"));
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        // Its threads are made from this one, and inherit the namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            raise_loopback().await;
            play(scenario).await;
        });
    });
    if let Err(failure) = thread.join() {
        std::panic::resume_unwind(failure);
    }
}

/// A fresh namespace's loopback is down.
async fn raise_loopback() {
    nlink::Connection::<nlink::Route>::new().unwrap().set_link_up("lo").await.unwrap();
}

async fn play<F>(scenario: impl FnOnce(Arc<Machine>, Running) -> F)
where
    F: Future<Output = (Arc<Machine>, Running)> + Send + 'static,
{
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() * 8 + NUMBER.fetch_add(1, Ordering::Relaxed)) & 0x3fff;
    let machine = Arc::new(Machine { folder: tempfile::tempdir().unwrap(), api: FakeApi::new(), number });
    let rk = machine.start().await;
    import_busybox(&rk.runtime);
    let mut own: NodeObject = machine.api.get("", NODE).expect("the node registers");
    own.spec.get_or_insert_default().pod_cidr = Some(machine.pod_cidr());
    machine.api.put(&own).unwrap();
    match tokio::spawn(scenario(machine.clone(), rk)).await {
        Ok((machine, rk)) => machine.clear(rk).await,
        Err(failure) => {
            // Whatever went wrong, the machine the tests run on stays as it was.
            let (runtime, net) = machine.hardware().await;
            machine.strip(&runtime, &net).await;
            std::panic::resume_unwind(failure.into_panic());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Machine {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn pod_cidr(&self) -> String {
        format!("10.{}.{}.0/24", 64 + (self.number >> 8), self.number & 0xff)
    }

    fn cgroup(&self) -> String {
        format!("/rk-node-test-{:x}", self.number)
    }

    async fn hardware(&self) -> (Runtime, Net) {
        let tag = format!("{:x}", self.number);
        let runtime = Runtime::open(RuntimeConfig {
            root: self.path("runtime"),
            state: self.path("run"),
            exe: PathBuf::from(env!("CARGO_BIN_EXE_node-shim-test")),
            cgroup_parent: self.cgroup(),
            registries: Default::default(),
        })
        .await
        .unwrap();
        let net = Net::start(NetConfig {
            state_dir: self.path("net"),
            node_ip: Ipv4Addr::LOCALHOST,
            uplink: Some("lo".into()),
            cluster_cidr: "10.64.0.0/10".parse().unwrap(),
            service_cidr: "10.143.0.0/16".parse().unwrap(),
            bridge: format!("rkn{tag}"),
            overlay: format!("rkv{tag}"),
            table: format!("rk-node-{tag}"),
            vxlan_id: 0x00a0_0000 + self.number,
            vxlan_port: 18472,
            ..NetConfig::default()
        })
        .await
        .unwrap();
        (runtime, net)
    }

    pub(crate) async fn start(&self) -> Running {
        let (runtime, net) = self.hardware().await;
        let stop = CancellationToken::new();
        let config = NodeConfig {
            name: NODE.into(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            root: self.path("agent"),
            pod_logs: self.path("logs/pods"),
            container_logs: self.path("logs/containers"),
            cgroup_parent: self.cgroup(),
            // How full the disk of the machine that runs the tests is, is not their concern.
            eviction: Eviction {
                memory_available: 0,
                nodefs_available_percent: 0,
                imagefs_available_percent: 0,
                inodes_free_percent: 0,
                ..Eviction::default()
            },
            ..NodeConfig::default()
        };
        let client = self.api.client();
        let informers = Informers::new(client.clone());
        let own_pods = informers.scoped::<Pod>(Scope::fields(format!("spec.nodeName={NODE}")));
        let node = Node::start(config, client, informers, runtime.clone(), net.clone(), stop.clone()).await.unwrap();
        // A node is registered before it knows its pods.
        own_pods.synced().await;
        Running { node, runtime, net, stop }
    }

    /// rk ends as if it were killed, then comes back.
    pub(crate) async fn restart(&self, rk: Running, meanwhile: impl FnOnce(&FakeApi)) -> Running {
        rk.stop.cancel();
        rk.node.stopped().await;
        drop(rk);
        meanwhile(&self.api);
        self.start().await
    }

    async fn clear(&self, rk: Running) {
        for pod in self.api.list::<Pod>() {
            let pods: Api<Pod> = Api::namespaced(self.api.client(), "default");
            let name = pod.metadata.name.unwrap_or_default();
            drop(pods.delete(&name, &DeleteParams::default().grace_period(1)).await);
        }
        let none = self.api.wait_for(|api| api.list::<Pod>().is_empty().then_some(())).await;
        assert!(none.is_some(), "pods are left: {:?}", self.api.list::<Pod>());
        rk.stop.cancel();
        rk.node.stopped().await;
        self.strip(&rk.runtime, &rk.net).await;
    }

    async fn strip(&self, runtime: &Runtime, net: &Net) {
        for pod in runtime.list_pods() {
            runtime.remove_pod(&pod.spec.id).await.unwrap();
        }
        net.teardown().await.unwrap();
        runtime.remove_cgroup(&self.cgroup()).unwrap();
    }

    /// The UID of the pod called `name`: no other machine's pods have it, for links are named by it.
    pub(crate) fn uid(&self, name: &str) -> String {
        format!("uid-{:x}-of-{name}", self.number)
    }

    /// Creates a pod of this node.
    pub(crate) fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(2);
        }
        let metadata = json!({"name": name, "namespace": "default", "uid": self.uid(name), "labels": {"app": name}});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        self.api.put(&pod).unwrap();
    }

    /// Waits until the pod satisfies `condition`; fails with the last status and the events.
    pub(crate) async fn pod<T>(&self, name: &str, what: &str, mut condition: impl FnMut(&Pod) -> Option<T>) -> T {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let found = self.api.wait_for(|api| condition(&api.get::<Pod>("default", name)?)).await;
            if let Some(found) = found {
                return found;
            }
        }
        let last = self.api.get::<Pod>("default", name).and_then(|p| p.status);
        let events = self.events(name);
        panic!("{what} of {name} did not come: {}\n{events:#?}", serde_json::to_string_pretty(&last).unwrap());
    }

    /// Waits until the pod is gone; fails with its last status and the events.
    pub(crate) async fn gone(&self, name: &str) {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            if self.api.wait_for(|api| api.get::<Pod>("default", name).is_none().then_some(())).await.is_some() {
                return;
            }
        }
        let last = self.api.get::<Pod>("default", name).and_then(|p| p.status);
        let events = self.events(name);
        panic!("{name} is still there: {}\n{events:#?}", serde_json::to_string_pretty(&last).unwrap());
    }

    /// Reason and message of the events about a pod.
    pub(crate) fn events(&self, name: &str) -> Vec<(String, String)> {
        let all = self.api.list::<Event>();
        let own = all.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(name));
        own.map(|e| (e.reason.unwrap_or_default(), e.message.unwrap_or_default())).collect()
    }

    pub(crate) async fn event(&self, name: &str, reason: &str, contains: &str) {
        let fits = |(r, m): &(String, String)| r == reason && m.contains(contains);
        let seen = self.api.wait_for(|_| self.events(name).iter().any(fits).then_some(())).await;
        assert!(seen.is_some(), "no {reason} with {contains:?} about {name}: {:#?}", self.events(name));
    }

    /// What the pod's container has logged so far, without the format's prefixes.
    pub(crate) fn log(&self, pod: &str, container: &str, attempt: u32) -> String {
        let folder = self.path("logs/pods").join(format!("default_{pod}_{}", self.uid(pod)));
        let text = fs::read_to_string(folder.join(container).join(format!("{attempt}.log"))).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// A container that runs a shell script.
pub(crate) fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script]})
}

/// A script that waits for its SIGTERM.
pub(crate) const SERVE: &str = "trap 'exit 0' TERM; while :; do busybox sleep 0.05; done";

fn import_busybox(runtime: &Runtime) {
    let files = [
        ImageFile { path: "/bin/busybox".into(), mode: 0o755, source: FileSource::Host(BUSYBOX.into()) },
        ImageFile { path: "/bin/sh".into(), mode: 0o777, source: FileSource::Symlink("busybox".into()) },
    ];
    let config = ImageConfig { env: vec!["PATH=/bin".into()], ..ImageConfig::default() };
    runtime.images().add_layer_image(&IMAGE.parse().unwrap(), &files, &config).unwrap();
}

pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// Container id and restart count, once the container is ready.
pub(crate) fn is_ready(pod: &Pod) -> Option<(String, i32)> {
    let status = container(pod).filter(|c| c.ready)?;
    Some((status.container_id.clone()?, status.restart_count))
}

pub(crate) fn is_phase(wanted: &'static str) -> impl Fn(&Pod) -> Option<()> {
    move |pod| (pod.status.as_ref()?.phase.as_deref() == Some(wanted)).then_some(())
}

/// The waiting message, once the container waits for this reason.
pub(crate) fn waits_for(reason: &'static str) -> impl Fn(&Pod) -> Option<String> {
    move |pod| {
        let waiting = container(pod)?.state.as_ref()?.waiting.as_ref()?;
        (waiting.reason.as_deref() == Some(reason)).then(|| waiting.message.clone().unwrap_or_default())
    }
}

/// Waits for a file or folder to be no more.
pub(crate) async fn vanishes(path: &Path) {
    let began = Instant::now();
    while path.exists() {
        assert!(began.elapsed() < DEADLINE, "{} is still there", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a file to have this content: what happens there has no other sign.
pub(crate) async fn shows(path: &Path, content: &str) {
    let began = Instant::now();
    while fs::read_to_string(path).ok().as_deref() != Some(content) {
        let now = fs::read_to_string(path);
        assert!(began.elapsed() < DEADLINE, "{} does not show {content:?}: {now:?}", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
