//! Bad input gets an error that names what is wrong and the way out.
#![forbid(unsafe_code)]

use rk_tests::need::{self, Need};
use rk_tests::process::output;
use rk_tests::{Cluster, one_at_a_time};
use std::net::TcpListener;
use std::process::Command;

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
