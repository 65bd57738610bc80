//! What happens when rk, or a shim, dies.

use crate::support::{Host, able, eventually, log_text, shell};
use runtime::spec::ContainerSpec;
use runtime::{ContainerState, Event, PodPhase};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_runtime_takes_over_what_runs() {
    if !able() {
        return;
    }
    let mut host = Host::new().await;
    let pod = host.pod("adopt").await;
    let log = host.log_path("a");
    let script = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 9";
    let id = host.start(&pod, ContainerSpec { log_path: Some(log.clone()), ..shell("c", script) }).await;
    let before = host.runtime.container_status(&id).unwrap();
    let ended = host.runtime.create_container(&pod, shell("gone", "exit 2")).await.unwrap();
    host.runtime.start_container(&ended).await.unwrap();
    host.wait(&ended).await;

    host.runtime = host.reopen().await;
    let after = host.runtime.container_status(&id).unwrap();
    assert_eq!((after.state, after.pid), (ContainerState::Running, before.pid));
    assert_eq!(after.started_at, before.started_at);
    assert_eq!(host.runtime.container_status(&ended).unwrap().exit.unwrap().code, 2);
    let lines = log_text(&log).lines().count();
    eventually("the log grows", || log_text(&log).lines().count() > lines).await;
    let spec = crate::sessions::command(&["touch", "/tmp/stop"]);
    crate::sessions::outcome(host.runtime.exec(&id, spec).await.unwrap()).await;
    assert_eq!(host.wait(&id).await.exit.unwrap().code, 9);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_shim_dies_is_gone_and_leaves_nothing() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let mut events = host.runtime.events();
    let pod = host.pod("dies").await;
    let id = host.start(&pod, crate::support::sleeper("c")).await;
    let status = host.runtime.container_status(&id).unwrap();
    let shim = host.runtime.pod_status(&pod).unwrap().shim_pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    loop {
        let event = tokio::time::timeout(crate::support::DEADLINE, events.recv()).await.unwrap().unwrap();
        if matches!(event, Event::PodGone { .. }) {
            break;
        }
    }
    assert!(matches!(host.runtime.pod_status(&pod).unwrap().phase, PodPhase::Gone { .. }));
    let exit = host.runtime.container_status(&id).unwrap().exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (137, "ContainerStatusUnknown"));
    // A zombie nobody has reaped yet has no executable either.
    assert!(std::fs::read_link(format!("/proc/{}/exe", status.pid)).is_err());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_runtimes_process_harms_no_container() {
    if !able() {
        return;
    }
    use tokio::io::AsyncBufReadExt;
    let mut host = Host::new().await;
    let mut holder = tokio::process::Command::new(env!("CARGO_BIN_EXE_rk-shim-test"))
        .arg("hold")
        .args([host.dir.path().to_str().unwrap(), &host.cgroup, crate::support::IMAGE])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(holder.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(crate::support::DEADLINE, lines.next_line()).await.unwrap().unwrap();
    let id = runtime::ContainerId::new(line.unwrap());
    holder.kill().await.unwrap();

    host.runtime = host.reopen().await;
    let pod = host.runtime.list_pods().pop().unwrap();
    assert_eq!(pod.phase, PodPhase::Ready);
    assert_eq!(host.runtime.container_status(&id).unwrap().state, ContainerState::Running);
    let shim = nix::unistd::Pid::from_raw(pod.shim_pid);
    assert_eq!(nix::unistd::getsid(Some(shim)).unwrap(), shim, "a session of its own");
    let groups = std::fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
    assert!(groups.contains(&format!(":pids:{}/shims\n", host.cgroup)) || groups.contains("0::/rkrt"), "{groups}");
    let spec = crate::sessions::command(&["touch", "/tmp/stop"]);
    crate::sessions::outcome(host.runtime.exec(&id, spec).await.unwrap()).await;
    assert_eq!(host.wait(&id).await.exit.unwrap().code, 6);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_still_being_made_can_be_removed() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("half-made").await;
    let remove = async {
        loop {
            let containers = host.runtime.pod_status(&pod).unwrap().containers;
            if let Some(container) = containers.first() {
                return host.runtime.remove_container(&container.id).await;
            }
            tokio::task::yield_now().await;
        }
    };
    let (made, removed) = tokio::join!(host.runtime.create_container(&pod, crate::support::sleeper("c")), remove);
    removed.unwrap();
    // Whether it was made in time or not: nothing of it is left.
    drop(made);
    assert!(host.runtime.pod_status(&pod).unwrap().containers.is_empty());
    host.close().await;
}
