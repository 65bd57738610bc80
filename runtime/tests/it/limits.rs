//! Resources: limits, their changes, what exceeds them, and statistics.

use crate::sessions::{command, outcome};
use crate::support::{Host, able, eventually, log_text, shell, sleeper};
use runtime::spec::{LogLimits, PodSpec, Resources};
use runtime::{ContainerSpec, RuntimeError};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_beyond_its_memory_is_killed_and_called_so() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("oom").await;
    let resources = Resources { memory_limit: Some(16 << 20), ..Resources::default() };
    // dd's buffer alone is larger than the limit.
    let spec = ContainerSpec { resources, ..shell("hog", "exec dd if=/dev/zero of=/dev/null bs=64M count=1") };
    let (status, _) = host.run(&pod, spec).await;
    let exit = status.exit.unwrap();
    assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_changed_and_measured() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("limits").await;
    let resources = Resources {
        memory_limit: Some(64 << 20),
        pids_limit: Some(20),
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        oom_score_adj: Some(900),
        ..Resources::default()
    };
    let script = "cat /proc/self/oom_score_adj; dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; \
                  while :; do sleep 0.05; done";
    let log = host.log_path("l");
    let spec = ContainerSpec { resources, log_path: Some(log.clone()), ..shell("c", script) };
    let id = host.start(&pod, spec).await;
    eventually("the score is read", || log_text(&log).contains("900")).await;
    let session = host.runtime.exec(&id, command(&["cat", "/proc/self/oom_score_adj"])).await.unwrap();
    assert_eq!(outcome(session).await.1, "900\n");
    let stats = host.runtime.stats(&id).await.unwrap();
    assert_eq!((stats.memory.limit, stats.pids_limit), (Some(64 << 20), Some(20)));
    assert!(stats.cpu.usage_ns > 0 && stats.memory.working_set > 0 && stats.pids > 0);
    let changed = Resources { memory_limit: Some(32 << 20), ..Resources::default() };
    host.runtime.update_resources(&id, &changed).await.unwrap();
    assert_eq!(host.runtime.stats(&id).await.unwrap().memory.limit, Some(32 << 20));
    let mut bytes = 0;
    for _ in 0..200 {
        bytes = host.runtime.stats(&id).await.unwrap().filesystem.used_bytes;
        if bytes >= 3 << 20 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(bytes >= 3 << 20, "{bytes}");
    let whole = host.runtime.pod_stats(&pod).await.unwrap();
    assert!(whole.memory.usage >= stats.memory.rss && whole.containers.len() == 1);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_oom_score_does_not_keep_a_container_from_running() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("score").await;
    let resources = Resources { oom_score_adj: Some(-997), ..Resources::default() };
    let (status, _) = host.run(&pod, ContainerSpec { resources, ..shell("c", "true") }).await;
    assert_eq!(status.exit.unwrap().code, 0);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_are_the_pods_own() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let sysctls = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned()),
        ("kernel.shm_rmid_forced".into(), "1".into()),
    ];
    let spec = PodSpec { id: "sysctl".into(), sysctls: sysctls.into(), ..PodSpec::default() };
    let pod = host.pod_with(spec).await;
    let files = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
    let (_, log) = host.run(&pod, shell("c", files)).await;
    assert_eq!(log, "stdout F 77\nstdout F 1\n");
    let bad = PodSpec { id: "bad".into(), sysctls: [("net.no.such".into(), "1".into())].into(), ..PodSpec::default() };
    let error = host.runtime.run_pod(bad).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::ShimStart(text) if text.contains("net.no.such")), "{error}");
    assert!(!host.dir.path().join("run/pods/bad").exists());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_rotated_while_a_container_writes() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("rotate").await;
    let log_limits = LogLimits { max_bytes: 64 << 10, max_files: 3 };
    let (_, log) = host.run(&pod, ContainerSpec { log_limits, ..shell("c", "seq 1 20000") }).await;
    assert!(log.ends_with("stdout F 20000\n"));
    let files = std::fs::read_dir(host.log_path("")).unwrap().flatten();
    let sizes: Vec<u64> = files.map(|f| f.metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 128 << 10), "{sizes:?}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_shim_is_small() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("small").await;
    host.start(&pod, sleeper("c")).await;
    let shim = host.runtime.pod_status(&pod).unwrap().shim_pid;
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let private: u64 = rollup
        .lines()
        // Clean pages are the executable's, which rk itself maps too.
        .filter(|l| l.starts_with("Private_Dirty"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    println!("private memory of an idle shim: {private} kB");
    assert!(private < 2048, "{rollup}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn making_and_starting_a_container_takes_milliseconds() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("speed").await;
    let mut times = Vec::new();
    for count in 0..10 {
        let begin = std::time::Instant::now();
        host.start(&pod, sleeper(&format!("c{count}"))).await;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("create+start: median {:?}, worst {:?}", times[5], times[9]);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_start_side_by_side() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let begin = std::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for count in 0..25 {
        let runtime = host.runtime.clone();
        tasks.spawn(async move {
            let id = format!("many{count}").as_str().into();
            let pod = runtime.run_pod(PodSpec { id, ..PodSpec::default() }).await.unwrap().spec.id.clone();
            let container = runtime.create_container(&pod, sleeper("c")).await.unwrap();
            runtime.start_container(&container).await.unwrap();
            let session = runtime.exec(&container, command(&["true"])).await.unwrap();
            assert_eq!(outcome(session).await.0, 0);
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    println!("25 pods with a container and an exec each: {:?}", begin.elapsed());
    host.close().await;
}
