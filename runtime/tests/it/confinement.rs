//! What a process may and may not do, and who it is: for first processes and execs alike.

use crate::sessions::{command, outcome};
use crate::support::{Host, able, shell, sleeper};
use runtime::ContainerSpec;
use runtime::spec::{Capabilities, Device, Mount, MountKind, PodId, Propagation, SeccompProfile, UserSpec};

const STATUS: &str = "grep -E '^(CapBnd|CapEff|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/self/status; id";

/// Output of a script run as first process, and run by exec in a container of the same spec.
async fn both(host: &Host, pod: &PodId, name: &str, spec: ContainerSpec, script: &str) -> [String; 2] {
    let first = ContainerSpec { args: shell("", script).args, name: format!("{name}-first"), ..spec.clone() };
    let (_, log) = host.run(pod, first).await;
    let log: String = log.lines().map(|l| format!("{}\n", l.splitn(3, ' ').nth(2).unwrap_or_default())).collect();
    let second = ContainerSpec { args: sleeper("").args, name: format!("{name}-exec"), ..spec };
    let id = host.start(pod, second).await;
    let session = host.runtime.exec(&id, command(&["sh", "-c", &format!("{{ {script}; }} 2>&1")])).await.unwrap();
    let (_, out, _) = outcome(session).await;
    host.runtime.remove_container(&id).await.unwrap();
    [log, out]
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find_map(|l| l.strip_prefix(name)).map_or("", |v| v.trim_start_matches(':').trim())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_container_has_few_capabilities() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("caps").await;
    for text in both(&host, &pod, "a", shell("", ""), STATUS).await {
        assert_eq!(field(&text, "CapBnd"), "00000000a80425fb", "{text}");
        assert_eq!(field(&text, "CapEff"), "00000000a80425fb", "{text}");
        assert_eq!((field(&text, "NoNewPrivs"), field(&text, "Seccomp")), ("0", "0"), "{text}");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_container_is_so_in_every_process() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("restricted").await;
    let spec = ContainerSpec {
        user: UserSpec { uid: Some(1000), gid: Some(2000), supplementary: vec![3000], ..UserSpec::default() },
        capabilities: Capabilities { add: vec![], drop: vec!["ALL".into()] },
        no_new_privs: true,
        seccomp: SeccompProfile::RuntimeDefault,
        readonly_rootfs: true,
        ..shell("", "")
    };
    let script = format!("{STATUS}; touch /x || echo readonly");
    for text in both(&host, &pod, "r", spec, &script).await {
        assert_eq!(field(&text, "CapBnd"), "0000000000000000", "{text}");
        assert_eq!((field(&text, "NoNewPrivs"), field(&text, "Seccomp")), ("1", "2"), "{text}");
        assert!(text.contains("uid=1000 gid=2000 groups=2000,3000"), "{text}");
        assert!(text.contains("readonly"), "{text}");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_seccomp_profile_filters_without_no_new_privs() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("seccomp").await;
    let spec = ContainerSpec { seccomp: SeccompProfile::RuntimeDefault, ..shell("", "") };
    let script = format!("{STATUS}; unshare -m true 2>&1");
    for text in both(&host, &pod, "s", spec.clone(), &script).await {
        assert_eq!((field(&text, "NoNewPrivs"), field(&text, "Seccomp")), ("0", "2"), "{text}");
        assert!(text.contains("Operation not permitted"), "{text}");
    }
    // With the capability, the same profile lets the call through.
    let capabilities = Capabilities { add: vec!["SYS_ADMIN".into()], drop: vec![] };
    for text in both(&host, &pod, "t", ContainerSpec { capabilities, ..spec }, "unshare -m echo let through").await {
        assert_eq!(text, "let through\n");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_from_a_file_is_applied() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("profile").await;
    let path = host.dir.path().join("profile.json");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW",
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(&path, profile).unwrap();
    let spec = ContainerSpec { seccomp: SeccompProfile::Localhost(path), ..shell("", "") };
    for text in both(&host, &pod, "p", spec, "mkdir /tmp/x 2>&1").await {
        assert!(text.contains("No space left"), "{text}");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_container_has_what_the_machine_has() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("privileged").await;
    let spec = ContainerSpec { privileged: true, ..shell("", "") };
    let script = "mount -t tmpfs none /mnt 2>&1 || { mkdir /mnt && mount -t tmpfs none /mnt; } && echo mounted; \
                  test -c /dev/kmsg && echo kmsg; touch /sys/fs/cgroup/pids && echo writable";
    for text in both(&host, &pod, "p", spec, script).await {
        assert!(text.contains("mounted\nkmsg\nwritable"), "{text}");
    }
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_devices_are_where_they_are_asked_for() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("mounts").await;
    let source = host.dir.path().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("file"), "text\n").unwrap();
    let bind = |destination: &str, source: std::path::PathBuf, readonly| Mount {
        destination: destination.into(),
        kind: MountKind::Bind { source, recursive_readonly: false },
        readonly,
        propagation: Propagation::Private,
    };
    let tmpfs = Mount {
        destination: "/data/tmp".into(),
        kind: MountKind::Tmpfs { size: Some(1 << 20), mode: None },
        readonly: false,
        propagation: Propagation::Private,
    };
    let devices =
        vec![Device { host_path: "/dev/kmsg".into(), container_path: "/dev/messages".into(), permissions: "r".into() }];
    std::fs::create_dir_all(source.join("tmp")).unwrap();
    let spec = ContainerSpec {
        mounts: vec![tmpfs, bind("/data", source.clone(), false), bind("/etc/hosts", source.join("file"), true)],
        devices,
        ..shell("", "")
    };
    let script = "cat /etc/hosts; echo x > /etc/hosts || echo ro; echo y > /data/new; echo z > /data/tmp/z; \
                  test -c /dev/messages && echo there; echo w > /dev/messages || echo denied; touch /dev/shm/$$";
    for text in both(&host, &pod, "m", spec, script).await {
        assert!(text.starts_with("text\n"), "{text}");
        assert!(text.contains("ro\n") && text.contains("there\n") && text.contains("denied"), "{text}");
    }
    assert_eq!(std::fs::read_to_string(source.join("new")).unwrap(), "y\n");
    assert!(!source.join("tmp/z").exists());
    let missing = ContainerSpec { mounts: vec![bind("/x", "/no/such".into(), false)], ..shell("gone", "true") };
    let error = host.runtime.create_container(&pod, missing).await.unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_made_later_on_the_host_show_when_asked_to() {
    if !able() {
        return;
    }
    let host = Host::new().await;
    let pod = host.pod("propagation").await;
    let source = host.dir.path().join("source");
    std::fs::create_dir_all(source.join("in")).unwrap();
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&source), &source, none, flags, none).unwrap();
    nix::mount::mount(none, &source, none, nix::mount::MsFlags::MS_SHARED, none).unwrap();
    let with = |name: &str, propagation| ContainerSpec {
        mounts: vec![Mount {
            destination: "/v".into(),
            kind: MountKind::Bind { source: source.clone(), recursive_readonly: false },
            readonly: false,
            propagation,
        }],
        privileged: true,
        ..sleeper(name)
    };
    let private = host.start(&pod, with("private", Propagation::Private)).await;
    let follows = host.start(&pod, with("follows", Propagation::HostToContainer)).await;
    let shares = host.start(&pod, with("shares", Propagation::Bidirectional)).await;
    nix::mount::mount(Some("none"), &source.join("in"), Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    std::fs::write(source.join("in/seen"), "").unwrap();
    for (id, expected) in [(&private, 1), (&follows, 0), (&shares, 0)] {
        let session = host.runtime.exec(id, command(&["test", "-e", "/v/in/seen"])).await.unwrap();
        assert_eq!(outcome(session).await.0, expected);
    }
    let script = "mkdir /v/back && mount -t tmpfs none /v/back && touch /v/back/here";
    let session = host.runtime.exec(&shares, command(&["sh", "-c", script])).await.unwrap();
    assert_eq!(outcome(session).await.0, 0);
    assert!(source.join("back/here").exists());
    let detach = nix::mount::MntFlags::MNT_DETACH;
    for path in [source.join("back"), source.join("in"), source.clone()] {
        nix::mount::umount2(&path, detach).unwrap();
    }
    host.close().await;
}
