//! A node with the real runtime and the real network, against an API server in memory: one pod's whole life.
//!
//! Needs root and a static busybox for the image; where they lack, it says so and passes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Node as NodeObject, Pod};
use net::{Net, NetConfig};
use node::{ContainerHandle, Node, NodeConfig};
use runtime::images::{FileSource, ImageFile};
use runtime::{ImageConfig, Runtime, RuntimeConfig};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const NODE: &str = "edge";
const UID: &str = "11111111-2222-3333-4444-555555555555";
const BUSYBOX: &str = "/usr/bin/busybox";
const DEADLINE: Duration = Duration::from_secs(20);

fn missing() -> Option<&'static str> {
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    match (root, Path::new(BUSYBOX).exists()) {
        (false, _) => Some("root is needed"),
        (_, false) => Some("a static busybox is needed at /usr/bin/busybox"),
        _ => None,
    }
}

/// The machine's part: what stays while rk comes and goes.
struct Machine {
    folder: tempfile::TempDir,
    api: FakeApi,
    tag: String,
}

/// rk's part.
struct Running {
    node: Node,
    runtime: Runtime,
    net: Net,
    stop: CancellationToken,
}

impl Machine {
    fn new() -> Machine {
        let tag = format!("{:x}", std::process::id() & 0xffff);
        Machine { folder: tempfile::tempdir().unwrap(), api: FakeApi::new(), tag }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn start(&self) -> Running {
        let runtime = Runtime::open(RuntimeConfig {
            root: self.path("runtime"),
            state: self.path("run"),
            exe: PathBuf::from(env!("CARGO_BIN_EXE_node-shim-test")),
            cgroup_parent: format!("/rk-node-test-{}", self.tag),
            registries: Default::default(),
        })
        .await
        .unwrap();
        let net = Net::start(NetConfig {
            state_dir: self.path("net"),
            node_ip: Ipv4Addr::LOCALHOST,
            uplink: Some("lo".into()),
            cluster_cidr: "10.142.0.0/16".parse().unwrap(),
            service_cidr: "10.143.0.0/16".parse().unwrap(),
            bridge: format!("rkn{}", self.tag),
            overlay: format!("rkv{}", self.tag),
            table: format!("rk-node-{}", self.tag),
            vxlan_port: 18472,
            ..NetConfig::default()
        })
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let config = NodeConfig {
            name: NODE.into(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            root: self.path("agent"),
            pod_logs: self.path("logs/pods"),
            container_logs: self.path("logs/containers"),
            cgroup_parent: format!("/rk-node-test-{}", self.tag),
            ..NodeConfig::default()
        };
        let client = self.api.client();
        let informers = Informers::new(client.clone());
        let node = Node::start(config, client, informers, runtime.clone(), net.clone(), stop.clone()).await.unwrap();
        Running { node, runtime, net, stop }
    }

    /// Waits until the pod satisfies `condition`; fails with the last status.
    async fn pod<T>(&self, what: &str, mut condition: impl FnMut(&Pod) -> Option<T>) -> T {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            let found = self.api.wait_for(|api| condition(&api.get::<Pod>("default", "web")?)).await;
            if let Some(found) = found {
                return found;
            }
        }
        let last = self.api.get::<Pod>("default", "web").and_then(|p| p.status);
        panic!("{what} did not come: {}", serde_json::to_string_pretty(&last).unwrap());
    }
}

fn import_busybox(runtime: &Runtime) {
    let files = [
        ImageFile { path: "/bin/busybox".into(), mode: 0o755, source: FileSource::Host(BUSYBOX.into()) },
        ImageFile { path: "/bin/sh".into(), mode: 0o777, source: FileSource::Symlink("busybox".into()) },
    ];
    let config = ImageConfig { env: vec!["PATH=/bin".into()], ..ImageConfig::default() };
    let name = "rk.local/busybox:1".parse().unwrap();
    runtime.images().add_layer_image(&name, &files, &config).unwrap();
}

fn web() -> Pod {
    let serve = "echo hello $GREETING from $NAME; cat /shared/init /config/colour; \
                 trap 'echo bye; exit 0' TERM; while :; do busybox sleep 0.1; done";
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": UID},
        "spec": {
            "nodeName": NODE, "terminationGracePeriodSeconds": 5,
            "initContainers": [{"name": "init", "image": "rk.local/busybox:1",
                "command": ["sh", "-c", "echo prepared > /shared/init"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
            "containers": [{"name": "web", "image": "rk.local/busybox:1", "command": ["sh", "-c", serve],
                "env": [{"name": "GREETING", "value": "world"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "readinessProbe": {"exec": {"command": ["busybox", "test", "-f", "/shared/init"]}, "periodSeconds": 1},
                "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"},
                    {"name": "config", "mountPath": "/config", "readOnly": true}]}],
            "volumes": [{"name": "shared", "emptyDir": {}}, {"name": "config", "configMap": {"name": "settings"}}]
        }
    }))
    .unwrap()
}

fn settings(colour: &str) -> ConfigMap {
    let text = format!("{colour}\n");
    serde_json::from_value(json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"colour": text}}))
        .unwrap()
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

fn is_ready(pod: &Pod) -> Option<(String, i32)> {
    let status = container(pod).filter(|c| c.ready)?;
    Some((status.container_id.clone()?, status.restart_count))
}

/// Waits for a file to have this content: what the node writes there has no other sign.
async fn shows(path: &Path, content: &str) {
    let began = Instant::now();
    while fs::read_to_string(path).ok().as_deref() != Some(content) {
        assert!(
            began.elapsed() < DEADLINE,
            "{} does not show {content:?}: {:?}",
            path.display(),
            fs::read_to_string(path)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_whole_life() {
    if let Some(why) = missing() {
        eprintln!("SKIPPED a_pods_whole_life: {why}");
        return;
    }
    let machine = Machine::new();
    let rk = machine.start().await;
    import_busybox(&rk.runtime);
    let mut own: NodeObject = machine.api.get("", NODE).expect("the node registers");
    own.spec.get_or_insert_default().pod_cidr = Some("10.142.7.0/24".into());
    machine.api.put(&own).unwrap();
    let result = tokio::spawn(live(machine, rk)).await;
    result.unwrap();
}

async fn live(machine: Machine, rk: Running) {
    // It starts once the object it needs is there.
    machine.api.put(&web()).unwrap();
    machine.api.put(&settings("blue")).unwrap();
    let (id, restarts) = machine.pod("readiness", is_ready).await;
    assert_eq!(restarts, 0);
    let handle = runs_as_told(&machine, &rk, &id);
    // A changed ConfigMap shows in the running container's volume.
    let volume = machine.path("agent/pods").join(UID).join("volumes/kubernetes.io~configmap/config/colour");
    machine.api.put(&settings("green")).unwrap();
    shows(&volume, "green\n").await;

    // rk goes and comes back: the same container, not restarted.
    rk.stop.cancel();
    rk.node.stopped().await;
    drop(rk);
    let rk = machine.start().await;
    machine.api.put(&settings("red")).unwrap();
    shows(&volume, "red\n").await;
    assert_eq!(machine.pod("the adopted container", is_ready).await, (id.clone(), 0));

    dies_and_comes_back(&machine, &rk, &handle, &id).await;
    leaves_nothing(&machine, &rk).await;
    rk.stop.cancel();
    rk.node.stopped().await;
    rk.net.teardown().await.unwrap();
    rk.runtime.remove_cgroup(&format!("/rk-node-test-{}", machine.tag)).unwrap();
}

fn runs_as_told(machine: &Machine, rk: &Running, id: &str) -> ContainerHandle {
    let pod = machine.api.get::<Pod>("default", "web").unwrap();
    let status = pod.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.unwrap().starts_with("10.142.7."));
    assert!(status.init_container_statuses.unwrap()[0].ready);
    let handle = rk.node.container("default", "web", None, "", false).unwrap();
    assert_eq!(format!("rk://{}", handle.id), id);
    let log = fs::read_to_string(&handle.log_path).unwrap();
    for line in ["hello world from web", "prepared", "blue"] {
        assert!(log.lines().any(|l| l.ends_with(&format!(" stdout F {line}"))), "{line:?} is not in {log}");
    }
    handle
}

/// A container that dies is replaced, and the end of the former one is told.
async fn dies_and_comes_back(machine: &Machine, rk: &Running, handle: &ContainerHandle, id: &str) {
    rk.runtime.kill(&handle.id, 9).await.unwrap();
    let again = machine.pod("the restart", |pod| is_ready(pod).filter(|(_, restarts)| *restarts == 1)).await;
    assert_ne!(again.0, id);
    let pod = machine.api.get::<Pod>("default", "web").unwrap();
    let last = container(&pod).unwrap().last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (137, Some(id)));
    assert!(rk.node.container("default", "web", None, "web", true).unwrap().log_path.exists());
}

/// Deleted, it ends by itself within its grace, and nothing of it is left.
async fn leaves_nothing(machine: &Machine, rk: &Running) {
    machine.api.delete::<Pod>("default", "web").unwrap();
    let gone = machine.api.wait_for(|api| api.get::<Pod>("default", "web").is_none().then_some(())).await;
    assert!(gone.is_some(), "the pod is still there");
    assert!(rk.runtime.list_pods().is_empty());
    assert!(!machine.path("agent/pods").join(UID).exists());
    assert_eq!(fs::read_dir(machine.path("logs/pods")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(machine.path("logs/containers")).unwrap().count(), 0);
}
