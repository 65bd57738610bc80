//! Life of containers: create, start, logs, exit, limits, identity.

use crate::support::{Host, able, log_text, shell, sleeper};
use runtime::spec::{ContainerSpec, PodSpec};
use runtime::{ContainerState, Event, RuntimeError};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_ends() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let mut events = host.runtime.events();
    let pod = host.pod("one").await;
    let (status, log) = host.run(&pod, shell("c", "echo out; echo err >&2; exit 3")).await;
    assert_eq!(status.state, ContainerState::Exited);
    let exit = status.exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (3, "Error"));
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    assert!(matches!(events.recv().await, Ok(Event::ContainerStarted { .. })));
    assert!(matches!(events.recv().await, Ok(Event::ContainerExited { exit, .. }) if exit.code == 3));
    host.runtime.remove_container(&status.id).await.unwrap();
    assert!(matches!(host.runtime.container_status(&status.id), Err(RuntimeError::NoSuchContainer(_))));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_first_and_then_kills() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("stop").await;
    let log = host.log_path("s");
    let polite = host.start(&pod, ContainerSpec { log_path: Some(log.clone()), ..sleeper("polite") }).await;
    crate::support::eventually("the trap is set", || log_text(&log).contains("up")).await;
    host.runtime.stop_container(&polite, None, Duration::from_secs(10)).await.unwrap();
    assert_eq!(host.wait(&polite).await.exit.unwrap().code, 7);
    let deaf = host.start(&pod, shell("deaf", "trap '' TERM; while :; do sleep 0.05; done")).await;
    host.runtime.stop_container(&deaf, None, Duration::from_millis(200)).await.unwrap();
    let exit = host.wait(&deaf).await.exit.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_an_error_of_create() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("missing").await;
    let spec = ContainerSpec { args: vec!["nosuch".into()], ..shell("c", "") };
    let error = host.runtime.create_container(&pod, spec).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH");
    assert!(host.runtime.pod_status(&pod).unwrap().containers.is_empty());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_its_network_and_name_but_not_processes() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("shared").await;
    let script = "hostname; readlink /proc/self/ns/net; ip link show lo | head -n 1; ls /proc | grep -c '^[0-9]'";
    let (_, first) = host.run(&pod, shell("a", script)).await;
    let (_, second) = host.run(&pod, shell("b", script)).await;
    assert!(first.contains("stdout F shared\n"), "{first}");
    assert_eq!(first.lines().nth(1), second.lines().nth(1));
    assert!(first.contains("LOOPBACK,UP"), "{first}");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!first.contains(own.to_str().unwrap()));
    let netns = host.runtime.pod_status(&pod).unwrap().netns;
    assert!(netns.exists());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_shows_the_neighbours() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let spec = PodSpec { id: "pids".into(), share_process_namespace: true, ..PodSpec::default() };
    let pod = host.pod_with(spec).await;
    let long = host.start(&pod, sleeper("long")).await;
    let (_, log) = host.run(&pod, shell("ps", "ps | grep -c 'while :'; echo $$")).await;
    assert!(!log.contains("stdout F 0\n"), "{log}");
    assert!(!log.contains("stdout F 1\n") || log.matches("F 1\n").count() == 1, "{log}");
    host.runtime.stop_container(&long, None, Duration::ZERO).await.unwrap();
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debugger_lives_among_the_processes_of_its_target_alone() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("debugged").await;
    let target = host.start(&pod, shell("target", "exec sleep 1111")).await;
    let other = host.start(&pod, shell("other", "exec sleep 2222")).await;
    let debugger = ContainerSpec { processes_of: Some(target.clone()), ..shell("debugger", "ps") };
    let (_, log) = host.run(&pod, debugger.clone()).await;
    assert!(log.contains("sleep 1111") && !log.contains("sleep 2222"), "{log}");
    host.runtime.stop_container(&target, None, Duration::ZERO).await.unwrap();
    host.wait(&target).await;
    let refused = host.runtime.create_container(&pod, ContainerSpec { name: "late".into(), ..debugger }).await;
    assert!(refused.unwrap_err().to_string().contains("is not running"));
    host.runtime.stop_container(&other, None, Duration::ZERO).await.unwrap();
    host.close().await;
}
