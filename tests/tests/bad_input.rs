//! Bad input gets an error that names what is wrong and the way out.
#![forbid(unsafe_code)]

use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::{Cluster, one_at_a_time};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn refused(arguments: &[&str]) -> String {
    let mut command = Command::new(rk_tests::rk());
    let output = output(command.args(arguments), None).expect("run rk");
    assert!(!output.status.success(), "rk {arguments:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_flag_names_the_nearest() {
    let error = refused(&["server", "--cluster-cdir=10.0.0.0/8"]);
    assert!(error.contains("--cluster-cidr"), "{error}");
}

#[test]
fn an_unknown_key_in_the_file_names_file_and_nearest() {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, "servce-cidr: 10.43.0.0/16\n").expect("write the file");
    let error = refused(&["server", &format!("--config={}", path.display())]);
    assert!(error.contains("config.yaml") && error.contains("\"service-cidr\""), "{error}");
}

#[test]
fn a_taken_port_names_the_process_and_the_way_out() {
    if !need::met("a_taken_port_names_the_process_and_the_way_out", &[Need::Root]) {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("take a port");
    let port = taken.local_addr().expect("its address").port();
    let folder = tempfile::tempdir().expect("make a folder");
    let error = refused(&[
        "server",
        "--disable-agent",
        "--bind-address=127.0.0.1",
        &format!("--https-listen-port={port}"),
        &format!("--data-dir={}", folder.path().display()),
    ]);
    assert!(error.contains(&format!("port {port} is in use by")), "{error}");
    assert!(error.contains(&format!("pid {}", std::process::id())) && error.contains("--https-listen-port"), "{error}");
}

#[test]
fn malformed_tokens_and_urls_are_named() {
    if !need::met("malformed_tokens_and_urls_are_named", &[Need::Root]) {
        return;
    }
    for (flags, wanted) in [
        (["--server=https://127.0.0.1:1", "--token=abc"], "does not start with K10"),
        (["--server=https://127.0.0.1:1", "--token=K10ff::node:x"], "64 hex digits"),
        (["--server=http://127.0.0.1", "--token=K10ff::node:x"], "https://ADDRESS:6443"),
    ] {
        let error = refused(&["agent", flags[0], flags[1]]);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_wrong_token_and_another_cluster_are_told_apart() {
    if !need::met("a_wrong_token_and_another_cluster_are_told_apart", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::start(&["--disable-agent"]);
    let token = std::fs::read_to_string(cluster.server.data_dir().join("server/node-token")).expect("read the token");
    let (cluster_part, _) = token.trim().rsplit_once(':').expect("a token has a secret");
    let folder = tempfile::tempdir().expect("make a folder");
    let join = |token: String| {
        let mut command = cluster.server.rk(&["agent", "--server=https://127.0.0.1:6443", "--node-name=x"]);
        command.arg(format!("--data-dir={}", folder.path().display())).arg(format!("--token={token}"));
        let output = output(&mut command, None).expect("run rk");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = join(format!("{cluster_part}:guess"));
    assert!(error.contains("the token is not this cluster's"), "{error}");
    let error = join(format!("K10{}::node:secret", "0".repeat(64)));
    assert!(error.contains("is another cluster"), "{error}");
    let mut create = cluster.server.rk(&["token", "create", "--ttl=1s"]);
    create.arg(format!("--kubeconfig={}", cluster.server.kubeconfig().display()));
    let short = rk_tests::process::check(&mut create, None).expect("make a token");
    let error = rk_tests::until("the token expires", rk_tests::cluster::START, || {
        let expired = now_seconds() > expires_at(&cluster, &short);
        if expired { Ok(join(short.trim().to_owned())) } else { Err("still good") }
    });
    assert!(error.contains("the token expired at"), "{error}");
}

/// The end of a token's life, in seconds since 1970, as the server has it.
fn expires_at(cluster: &Cluster, token: &str) -> u64 {
    let id = token.split("::").nth(1).and_then(|rest| rest.split(':').next()).expect("a token has an id");
    let path = "jsonpath={.data.expiration}";
    let name = format!("bootstrap-token-{id}");
    let encoded = cluster.kubectl(|kubectl| kubectl.ok(&["get", "secret", "-n", "kube-system", &name, "-o", path]));
    let mut decode = Command::new("sh");
    decode.args(["-c", &format!("date -d $(echo {encoded} | base64 -d) +%s")]);
    rk_tests::process::check(&mut decode, None).expect("read the time").trim().parse().expect("a number")
}

fn now_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn a_data_dir_of_a_newer_version_is_left_alone() {
    if !need::met("a_data_dir_of_a_newer_version_is_left_alone", &[Need::Root]) {
        return;
    }
    let folder = tempfile::tempdir().expect("make a folder");
    let data_dir = format!("--data-dir={}", folder.path().display());
    let kubeconfig = format!("--write-kubeconfig={}", folder.path().join("rk.yaml").display());
    let start =
        ["server", "--disable-agent", "--bind-address=127.0.0.1", "--https-listen-port=0", &data_dir, &kubeconfig];
    let mut first = Command::new(rk_tests::rk());
    first.args(start);
    let log = folder.path().join("log");
    let mut process = rk_tests::process::Background::start(first, &log);
    let version = folder.path().join("server/db/FORMAT");
    rk_tests::until("the store is made", rk_tests::cluster::START, || version.exists().then_some(()).ok_or("not yet"));
    process.end(nix::sys::signal::Signal::SIGTERM);
    std::fs::write(&version, r#"{"format":999,"written_by":"9.9.9","shape":"unknown"}"#).expect("write the version");
    let error = refused(&start);
    assert!(error.contains("999"), "{error}");
}

#[test]
fn whoever_is_not_root_is_told_so() {
    if !need::met("whoever_is_not_root_is_told_so", &[Need::Root, Need::Program("setpriv")]) {
        return;
    }
    let folder = tempfile::tempdir().expect("make a folder");
    // Where nobody may execute it: the build's own folder may be root's alone.
    let rk = folder.path().join("rk");
    std::fs::copy(rk_tests::rk(), &rk).expect("copy rk");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("open the folder");
    for command in ["server", "agent", "kill-all", "images ls"] {
        let mut run = Command::new("setpriv");
        run.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&rk).args(command.split(' '));
        if command == "agent" {
            run.arg("--server=https://127.0.0.1:6443").arg(format!("--token=K10{}::node:x", "0".repeat(64)));
        }
        let output = output(&mut run, None).expect("run rk");
        assert!(!output.status.success(), "rk {command} succeeded");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("must run as root") && error.contains("sudo"), "rk {command}: {error}");
    }
}

#[test]
fn a_missing_kernel_feature_is_named_with_the_way_out() {
    let name = "a_missing_kernel_feature_is_named_with_the_way_out";
    if !need::met(name, &[Need::Root, Need::Program("unshare"), Need::Program("ip")]) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::prepare(&[]);
    let folder = cluster.server.folder.display().to_string();
    // A kernel without cgroups looks like an empty folder where they are mounted.
    let script = format!(
        "mount -t tmpfs none /sys/fs/cgroup && exec {} server --data-dir={folder}/data --state-dir={folder}/run \
         --log-dir={folder}/log --write-kubeconfig={folder}/rk.yaml",
        rk_tests::rk().display()
    );
    let mut run = cluster.server.host.command("unshare");
    let output = output(run.args(["--mount", "sh", "-c", &script]), None).expect("run rk");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "rk started: {error}");
    assert!(error.contains("no memory cgroup at /sys/fs/cgroup: mount cgroup2 there"), "{error}");
}

#[test]
fn an_agent_waits_for_its_server_says_so_once_and_joins() {
    if !need::met("an_agent_waits_for_its_server_says_so_once_and_joins", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(&["--disable-agent"]);
    cluster.server.stop(nix::sys::signal::Signal::SIGTERM);
    let complaint = "server not reachable; trying until it is";
    cluster.agent("late", &[]);
    let agent = |cluster: &Cluster| cluster.agents.first().expect("there is an agent").log();
    rk_tests::until("the agent says so", rk_tests::cluster::START, || {
        agent(&cluster).contains(complaint).then_some(()).ok_or_else(|| agent(&cluster))
    });
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("late");
    let log = agent(&cluster);
    assert_eq!(log.matches(complaint).count(), 1, "{log}");
}

#[test]
fn an_invalid_manifest_is_answered_with_its_fields() {
    if !need::met("an_invalid_manifest_is_answered_with_its_fields", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::start(&["--disable-agent"]);
    for (manifest, wanted) in [
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: Upper}, spec: {containers: [{name: c, image: i}]}}",
            "The Pod \"Upper\" is invalid: metadata.name: Invalid value: \"Upper\": a lowercase RFC 1123 subdomain must consist of",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: []}}",
            "The Pod \"p\" is invalid: spec.containers: Required value",
        ),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {ports: [{port: 70000}]}}",
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, ports: [{containerPrt: 1}]}]}}",
            "strict decoding error: unknown field \"spec.containers[0].ports[0].containerPrt\"",
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}}",
            "`selector` does not match template `labels`",
        ),
        ("{apiVersion: v1, kind: Pood, metadata: {name: p}}", "no matches for kind \"Pood\" in version \"v1\""),
    ] {
        let error = cluster.kubectl(|kubectl| kubectl.fails(&["create", "-f", "-"], Some(&yaml(manifest))));
        assert!(error.contains(wanted), "{manifest}: {error}");
    }
}

/// kubectl takes what begins with a brace for JSON.
fn yaml(flow: &str) -> String {
    format!("---\n{flow}\n")
}

/// A small file system of its own, gone with the value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(place: &'a Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(place).expect("make the mount point");
        let size = format!("size={megabytes}m");
        check(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place), None).expect("mount it");
        Self(place)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        if let Err(error) = check(Command::new("umount").arg("--lazy").arg(self.0), None) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    if !need::met("a_full_disk_is_told_and_nothing_is_lost", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&["--disable-agent"]);
    let place = cluster.server.data_dir();
    let _disk = SmallDisk::mount(&place, 96);
    cluster.server.start();
    cluster.api_answers();
    cluster.kubectl(|kubectl| {
        kubectl.ok(&["create", "configmap", "before", "--from-literal=k=v"]);
        let ballast = place.join("ballast");
        let mut fill = Command::new("sh");
        fill.args(["-c", "cat /dev/zero > \"$0\""]).arg(&ballast);
        assert!(check(&mut fill, None).is_err(), "the disk is filled until it is full");
        // What the log has reserved for itself may still take some.
        let big = "x".repeat(500_000);
        let error = (0..400)
            .find_map(|n| {
                let manifest =
                    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: big{n}}}, data: {{k: {big}}}}}");
                check(&mut kubectl.command(&["create", "-f", "-"]), Some(&yaml(&manifest))).err()
            })
            .expect("a full disk takes no more");
        let error = format!("{error:#}");
        assert!(error.contains("no space left"), "{error}");
        assert_eq!(kubectl.ok(&["get", "configmap", "before", "-o", "jsonpath={.data.k}"]), "v", "reads go on");
        std::fs::remove_file(&ballast).expect("free space");
        kubectl.until(Duration::from_secs(60), &["create", "configmap", "after", "--from-literal=k=v"], |_| true);
    });
    cluster.server.stop(nix::sys::signal::Signal::SIGKILL);
    cluster.server.start();
    cluster.api_answers();
    cluster.kubectl(|kubectl| {
        kubectl.ok(&["get", "configmap", "before", "after"]);
    });
}
