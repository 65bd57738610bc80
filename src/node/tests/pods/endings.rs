//! How pods and containers end: by themselves, by crashing, by deletion, by the node's decision.

use std::fs;

use client::Api;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;

use crate::machine::{SERVE, container, is_phase, is_ready, on_a_machine, shell, waits_for};

#[test]
fn a_job_succeeds_and_its_log_stays() {
    on_a_machine(|machine, rk| async move {
        let script = "echo done; echo result > /dev/termination-log";
        machine.create("job", json!({"restartPolicy": "Never", "containers": [shell("c", script)]}));
        machine.pod("job", "success", is_phase("Succeeded")).await;
        let pod = machine.api.get::<Pod>("default", "job").unwrap();
        let ended = container(&pod).unwrap().state.clone().unwrap().terminated.unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
        assert_eq!(ended.message.as_deref(), Some("result\n"));
        assert_eq!(machine.log("job", "c", 0), "done\n");
        // What it wrote into its own file system takes no room any more.
        let id = container(&pod).unwrap().container_id.clone().unwrap();
        let files = machine.path("runtime/containers").join(id.strip_prefix("rk://").unwrap());
        crate::machine::vanishes(&files).await;
        assert!(rk.node.container("default", "job", None, "c", false).is_ok_and(|c| !c.running));
        // A restarted node neither runs it again nor forgets it.
        let rk = machine.restart(rk, |_| {}).await;
        assert!(rk.node.container("default", "job", None, "c", false).is_ok_and(|c| !c.running && c.attempt == 0));
        (machine, rk)
    });
}

#[test]
fn a_crashing_container_backs_off() {
    on_a_machine(|machine, rk| async move {
        machine.create("crash", json!({"containers": [shell("c", "echo oops >&2; exit 3")]}));
        let message = machine.pod("crash", "the back-off", waits_for("CrashLoopBackOff")).await;
        let pod = format!("crash_default({})", machine.uid("crash"));
        assert_eq!(message, format!("back-off 10s restarting failed container=c pod={pod}"));
        let pod = machine.api.get::<Pod>("default", "crash").unwrap();
        let status = container(&pod).unwrap();
        assert_eq!(status.restart_count, 1);
        assert_eq!(status.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
        machine.event("crash", "BackOff", "Back-off restarting failed container c in pod crash_default").await;
        (machine, rk)
    });
}

#[test]
fn deletion_runs_pre_stop_then_ends_sidecars_last() {
    on_a_machine(|machine, rk| async move {
        let record = machine.path("record");
        fs::create_dir(&record).unwrap();
        let on_term = |name: &str| {
            format!("trap 'echo {name} >> /record/order; exit 0' TERM; while :; do busybox sleep 0.05; done")
        };
        let mount = json!([{"name": "record", "mountPath": "/record"}]);
        let mut main = shell("main", &on_term("main"));
        main["volumeMounts"] = mount.clone();
        let hook = json!({"exec": {"command": ["sh", "-c", "echo hook >> /record/order"]}});
        main["lifecycle"] = json!({"preStop": hook});
        let mut side = shell("side", &on_term("side"));
        side["volumeMounts"] = mount;
        side["restartPolicy"] = json!("Always");
        machine.create(
            "web",
            json!({"terminationGracePeriodSeconds": 10, "initContainers": [side], "containers": [main],
                "volumes": [{"name": "record", "hostPath": {"path": record, "type": "Directory"}}]}),
        );
        machine.pod("web", "readiness", is_ready).await;
        machine.api.delete::<Pod>("default", "web").unwrap();
        machine.gone("web").await;
        assert_eq!(fs::read_to_string(record.join("order")).unwrap(), "hook\nmain\nside\n");
        machine.event("web", "Killing", "Stopping container main").await;
        (machine, rk)
    });
}

#[test]
fn a_shortened_grace_period_cuts_the_waiting_short() {
    on_a_machine(|machine, rk| async move {
        let deaf = "trap 'echo asked' TERM; while :; do busybox sleep 0.05; done";
        machine.create("deaf", json!({"terminationGracePeriodSeconds": 300, "containers": [shell("c", deaf)]}));
        machine.pod("deaf", "readiness", is_ready).await;
        let api: Api<Pod> = Api::namespaced(machine.api.client(), "default");
        api.delete("deaf", &DeleteParams::default().grace_period(300)).await.unwrap();
        let log = machine.path("logs/pods").join(format!("default_deaf_{}/c/0.log", machine.uid("deaf")));
        machine.event("deaf", "Killing", "Stopping container c").await;
        assert!(log.exists());
        // As the API server stores it when a second deletion gives less time.
        let mut pod = machine.api.get::<Pod>("default", "deaf").unwrap();
        pod.metadata.deletion_grace_period_seconds = Some(1);
        machine.api.put(&pod).unwrap();
        machine.gone("deaf").await;
        (machine, rk)
    });
}

#[test]
fn a_pod_deleted_while_rk_was_away_is_cleared() {
    on_a_machine(|machine, rk| async move {
        machine.create("orphan", json!({"containers": [shell("c", SERVE)]}));
        machine.create("stays", json!({"containers": [shell("c", SERVE)]}));
        machine.pod("orphan", "readiness", is_ready).await;
        let (kept, _) = machine.pod("stays", "readiness", is_ready).await;
        let rk = machine
            .restart(rk, |api| {
                // The API forgets the pod at once, as with a forced deletion.
                let mut pod = api.get::<Pod>("default", "orphan").unwrap();
                pod.spec.as_mut().unwrap().node_name = Some("elsewhere".into());
                api.put(&pod).unwrap();
            })
            .await;
        let folder = machine.path("agent/pods").join(machine.uid("orphan"));
        let began = std::time::Instant::now();
        while folder.exists() || rk.runtime.list_pods().len() > 1 {
            assert!(began.elapsed() < crate::machine::DEADLINE, "the orphan is still there");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(machine.pod("stays", "readiness", is_ready).await, (kept, 0));
        let mut pod = machine.api.get::<Pod>("default", "orphan").unwrap();
        pod.spec.as_mut().unwrap().node_name = None;
        machine.api.put(&pod).unwrap();
        (machine, rk)
    });
}

#[test]
fn a_deadline_fails_the_pod() {
    on_a_machine(|machine, rk| async move {
        machine.create("late", json!({"activeDeadlineSeconds": 1, "containers": [shell("c", SERVE)]}));
        machine.pod("late", "failure", is_phase("Failed")).await;
        let status = machine.api.get::<Pod>("default", "late").unwrap().status.unwrap();
        assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
        (machine, rk)
    });
}

#[test]
fn a_pod_that_does_not_fit_is_rejected() {
    on_a_machine(|machine, rk| async move {
        let mut big = shell("c", SERVE);
        big["resources"] = json!({"requests": {"cpu": "4000"}});
        machine.create("big", json!({"containers": [big]}));
        machine.pod("big", "rejection", is_phase("Failed")).await;
        let status = machine.api.get::<Pod>("default", "big").unwrap().status.unwrap();
        assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
        assert!(status.message.unwrap().starts_with("Pod was rejected: Node didn't have enough resource: cpu"));
        (machine, rk)
    });
}

#[test]
fn sidecars_do_not_keep_a_finished_pod_alive() {
    on_a_machine(|machine, rk| async move {
        let mut side = shell("side", SERVE);
        side["restartPolicy"] = json!("Always");
        machine.create(
            "job",
            json!({"restartPolicy": "Never", "initContainers": [side], "containers": [shell("c", "exit 0")]}),
        );
        machine.pod("job", "success", is_phase("Succeeded")).await;
        (machine, rk)
    });
}
