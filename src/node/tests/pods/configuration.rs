//! What keeps a container from starting, and how it is told; what a container finds inside.

use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use crate::lifecycle::settings;
use crate::machine::{SERVE, is_phase, is_ready, on_a_machine, shell, waits_for};

#[test]
fn a_missing_object_is_named_and_waited_for() {
    on_a_machine(|machine, rk| async move {
        let mut web = shell("c", &format!("echo $COLOUR; {SERVE}"));
        web["env"] =
            json!([{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}}]);
        machine.create("web", json!({"containers": [web]}));
        let message = machine.pod("web", "the reason", waits_for("CreateContainerConfigError")).await;
        assert_eq!(message, "configmap \"settings\" not found");
        machine.event("web", "Failed", "Error: configmap \"settings\" not found").await;
        machine.api.put(&settings("blue")).unwrap();
        machine.pod("web", "readiness", is_ready).await;
        (machine, rk)
    });
}

#[test]
fn images_that_cannot_be_had_are_told() {
    on_a_machine(|machine, rk| async move {
        let image = |name: &str, policy: &str| json!({"name": "c", "image": name, "imagePullPolicy": policy});
        machine.create("never", json!({"containers": [image("rk.local/none:1", "Never")]}));
        machine.create("bad", json!({"containers": [image("Not An Image", "Always")]}));
        machine.create("refused", json!({"containers": [image("127.0.0.1:1/x:1", "IfNotPresent")]}));
        machine.pod("never", "the reason", waits_for("ErrImageNeverPull")).await;
        machine.pod("bad", "the reason", waits_for("InvalidImageName")).await;
        let message = machine.pod("refused", "the reason", waits_for("ImagePullBackOff")).await;
        assert!(message.starts_with("Back-off pulling image \"127.0.0.1:1/x:1\": ErrImagePull: "), "{message}");
        machine.event("refused", "Failed", "Failed to pull image \"127.0.0.1:1/x:1\"").await;
        machine.event("refused", "Failed", "Error: ErrImagePull").await;
        (machine, rk)
    });
}

#[test]
fn a_root_image_is_refused_where_root_is_forbidden() {
    on_a_machine(|machine, rk| async move {
        let context = json!({"runAsNonRoot": true});
        machine.create("root", json!({"securityContext": context, "containers": [shell("c", SERVE)]}));
        let message = machine.pod("root", "the reason", waits_for("CreateContainerConfigError")).await;
        assert!(message.starts_with("container has runAsNonRoot and image will run as root"), "{message}");
        (machine, rk)
    });
}

#[test]
fn a_command_that_does_not_exist_is_told() {
    on_a_machine(|machine, rk| async move {
        let spec = json!({"name": "c", "image": crate::machine::IMAGE, "command": ["/no/such/program"]});
        machine.create("once", json!({"restartPolicy": "Never", "containers": [spec]}));
        machine.create("bad", json!({"containers": [spec]}));
        machine.event("bad", "Failed", "Error: exec: \"/no/such/program\": stat /no/such/program").await;
        machine.pod("once", "the failure", is_phase("Failed")).await;
        machine.pod("bad", "the back-off", waits_for("CrashLoopBackOff")).await;
        (machine, rk)
    });
}

#[test]
fn a_container_finds_its_names_users_and_services() {
    on_a_machine(|machine, rk| async move {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "default"},
            "spec": {"clusterIP": "10.143.0.9", "ports": [{"port": 5432}]}}))
        .unwrap();
        machine.api.put(&service).unwrap();
        let script = "busybox hostname; busybox id -u; busybox id -G; busybox cat /etc/resolv.conf; \
                      busybox tail -n 1 /etc/hosts; echo $MY_DB_SERVICE_HOST:$MY_DB_SERVICE_PORT; busybox pwd";
        let mut c = shell("c", script);
        c["workingDir"] = json!("/bin");
        c["command"][0] = json!("/bin/sh");
        machine.create(
            "named",
            json!({"restartPolicy": "Never", "hostname": "db-0", "subdomain": "db", "containers": [c],
                "securityContext": {"runAsUser": 1234, "runAsGroup": 99, "fsGroup": 77, "supplementalGroups": [55]},
                "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}, "dnsPolicy": "ClusterFirst"}),
        );
        machine.pod("named", "the end", is_phase("Succeeded")).await;
        let log = machine.log("named", "c", 0);
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[..3], ["db-0", "1234", "99 55 77"], "{log}");
        assert!(log.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{log}");
        assert!(log.contains("nameserver 10.43.0.10\noptions ndots:2\n"), "{log}");
        assert!(log.contains("\tdb-0.db.default.svc.cluster.local\tdb-0\n10.143.0.9:5432\n/bin\n"), "{log}");
        (machine, rk)
    });
}
