//! Volumes as a container sees them.

use std::fs;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret};
use serde_json::json;

use crate::machine::{is_phase, on_a_machine, shell, vanishes};

#[test]
fn all_kinds_of_volumes_hold_what_they_should() {
    on_a_machine(|machine, rk| async move {
        let secret: Secret = serde_json::from_value(
            json!({"metadata": {"name": "key", "namespace": "default"}, "data": {"pw": "aHVzaA=="}}),
        )
        .unwrap();
        machine.api.put(&secret).unwrap();
        let host = machine.path("host");
        fs::create_dir(&host).unwrap();
        let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {
            "claimRef": {"name": "data", "namespace": "default", "uid": "claim"}, "hostPath": {"path": host}}}))
        .unwrap();
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "data", "namespace": "default", "uid": "claim"},
            "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}))
        .unwrap();
        machine.api.put(&volume).unwrap();
        machine.api.put(&claim).unwrap();
        let script = "cat /key/pw; echo; busybox stat -c %a /key/..data/pw; cat /info/labels; echo; \
                      busybox stat -f -c %T /memory; echo kept > /data/file; echo part > /part/file; \
                      (echo x > /key/pw) 2>/dev/null || echo read-only; busybox stat -c %g:%a /shared";
        let script = script.replace("cat ", "busybox cat ");
        let mut c = shell("c", &script);
        c["volumeMounts"] = json!([
            {"name": "key", "mountPath": "/key"}, {"name": "info", "mountPath": "/info"},
            {"name": "memory", "mountPath": "/memory"}, {"name": "data", "mountPath": "/data"},
            {"name": "data", "mountPath": "/part", "subPathExpr": "sub/$(NAME)"}, {"name": "shared", "mountPath": "/shared"}]);
        c["env"] = json!([{"name": "NAME", "value": "deep"}]);
        machine.create(
            "vol",
            json!({"restartPolicy": "Never", "containers": [c], "securityContext": {"fsGroup": 4242}, "volumes": [
                {"name": "key", "secret": {"secretName": "key", "defaultMode": 0o400}},
                {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "shared", "emptyDir": {}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}),
        );
        machine.pod("vol", "success", is_phase("Succeeded")).await;
        assert_eq!(machine.log("vol", "c", 0), "hush\n440\napp=\"vol\"\ntmpfs\nread-only\n4242:2777\n");
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "kept\n");
        assert_eq!(fs::read_to_string(host.join("sub/deep/file")).unwrap(), "part\n");
        // A finished pod's volumes are taken away while its object stays.
        let folder = machine.path("agent/pods").join(machine.uid("vol"));
        vanishes(&folder.join("volumes")).await;
        assert!(folder.exists());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(folder.to_str().unwrap()));
        (machine, rk)
    });
}

#[test]
fn a_volume_that_cannot_be_had_is_told() {
    on_a_machine(|machine, rk| async move {
        let spec = |source: serde_json::Value| {
            let mut volume = source;
            volume["name"] = json!("v");
            json!({"containers": [shell("c", "exit 0")], "volumes": [volume]})
        };
        machine.create("secret", spec(json!({"secret": {"secretName": "none"}})));
        machine.create("nfs", spec(json!({"nfs": {"server": "s", "path": "/"}})));
        machine.create("host", spec(json!({"hostPath": {"path": "/no/such/file", "type": "File"}})));
        let failed = "MountVolume.SetUp failed for volume \"v\" : ";
        machine.event("secret", "FailedMount", &format!("{failed}secret \"none\" not found")).await;
        machine.event("nfs", "FailedMount", &format!("{failed}nfs volumes are not supported by this node")).await;
        machine.event("host", "FailedMount", "hostPath type check failed: /no/such/file is not a file").await;
        (machine, rk)
    });
}
