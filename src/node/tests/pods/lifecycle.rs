//! One pod's whole life, rk's own restart included.

use std::fs;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use node::ContainerHandle;
use serde_json::{Value, json};

use crate::machine::{IMAGE, Machine, Running, container, is_ready, on_a_machine, shows};

fn web() -> Value {
    let serve = "echo hello $GREETING from $NAME; cat /shared/init /config/colour; \
                 trap 'echo bye; exit 0' TERM; while :; do busybox sleep 0.1; done";
    json!({
        "initContainers": [{"name": "init", "image": IMAGE,
            "command": ["sh", "-c", "echo prepared > /shared/init"],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}],
        "containers": [{"name": "web", "image": IMAGE, "command": ["sh", "-c", serve],
            "env": [{"name": "GREETING", "value": "world"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"exec": {"command": ["busybox", "test", "-f", "/shared/init"]}, "periodSeconds": 1},
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"},
                {"name": "config", "mountPath": "/config", "readOnly": true}]}],
        "volumes": [{"name": "shared", "emptyDir": {}}, {"name": "config", "configMap": {"name": "settings"}}]
    })
}

pub(crate) fn settings(colour: &str) -> ConfigMap {
    let text = format!("{colour}\n");
    serde_json::from_value(json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"colour": text}}))
        .unwrap()
}

#[test]
fn a_pods_whole_life() {
    on_a_machine(|machine, rk| async move {
        // It starts once the object it needs is there.
        machine.create("web", web());
        machine.api.put(&settings("blue")).unwrap();
        let (id, restarts) = machine.pod("web", "readiness", is_ready).await;
        assert_eq!(restarts, 0);
        let handle = runs_as_told(&machine, &rk, &id);
        // A changed ConfigMap shows in the running container's volume.
        let volumes = machine.path("agent/pods").join(machine.uid("web")).join("volumes");
        let colour = volumes.join("kubernetes.io~configmap/config/colour");
        machine.api.put(&settings("green")).unwrap();
        shows(&colour, "green\n").await;
        // rk goes and comes back: the same container, not restarted, its volumes still kept current.
        let rk = machine.restart(rk, |api| api.put(&settings("red")).unwrap()).await;
        shows(&colour, "red\n").await;
        assert_eq!(machine.pod("web", "the adopted container", is_ready).await, (id.clone(), 0));
        dies_and_comes_back(&machine, &rk, &handle, &id).await;
        leaves_nothing(&machine, &rk).await;
        (machine, rk)
    });
}

fn runs_as_told(machine: &Machine, rk: &Running, id: &str) -> ContainerHandle {
    let pod = machine.api.get::<Pod>("default", "web").unwrap();
    let status = pod.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let network = machine.pod_cidr();
    assert!(status.pod_ip.unwrap().starts_with(network.trim_end_matches("0/24")));
    assert!(status.init_container_statuses.unwrap()[0].ready);
    let handle = rk.node.container("default", "web", None, "", false).unwrap();
    assert_eq!(format!("rk://{}", handle.id), id);
    assert_eq!(machine.log("web", "web", 0), "hello world from web\nprepared\nblue\n");
    handle
}

/// A container that dies is replaced, and the end of the former one is told.
async fn dies_and_comes_back(machine: &Machine, rk: &Running, handle: &ContainerHandle, id: &str) {
    rk.runtime.kill(&handle.id, 9).await.unwrap();
    let again = machine.pod("web", "the restart", |pod| is_ready(pod).filter(|(_, restarts)| *restarts == 1)).await;
    assert_ne!(again.0, id);
    let pod = machine.api.get::<Pod>("default", "web").unwrap();
    let last = container(&pod).unwrap().last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (137, Some(id)));
    assert!(rk.node.container("default", "web", None, "web", true).unwrap().log_path.exists());
}

/// Deleted, it ends by itself within its grace, and nothing of it is left.
async fn leaves_nothing(machine: &Machine, rk: &Running) {
    machine.api.delete::<Pod>("default", "web").unwrap();
    machine.gone("web").await;
    assert!(rk.runtime.list_pods().is_empty());
    assert!(!machine.path("agent/pods").join(machine.uid("web")).exists());
    assert_eq!(fs::read_dir(machine.path("logs/pods")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(machine.path("logs/containers")).unwrap().count(), 0);
}
