//! etcd's interface to the store of a real server, by Debian's etcdctl.
#![forbid(unsafe_code)]

use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::{Cluster, one_at_a_time};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NEEDS: &[Need] =
    &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter"), Need::Program("etcdctl")];

const PATIENCE: Duration = Duration::from_secs(90);

/// etcdctl on the server's host, with the certificate in `folder`.
fn etcdctl(cluster: &Cluster, folder: &Path, args: &[&str]) -> Command {
    let mut command = cluster.server.host.command("etcdctl");
    command.env("ETCDCTL_API", "3").arg("--endpoints=https://127.0.0.1:2379");
    for (flag, file) in [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")] {
        command.arg(flag).arg(folder.join(file));
    }
    command.args(args);
    command
}

#[test]
fn etcdctl_reads_watches_and_backs_up_what_kubectl_wrote_and_nobody_else_may() {
    let name = "etcdctl_reads_watches_and_backs_up_what_kubectl_wrote_and_nobody_else_may";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let cluster = Cluster::start(&["--disable-agent", "--etcd-listen=127.0.0.1:2379"]);
    let folder = cluster.server.data_dir().join("server/tls/etcd");
    let run = |args: &[&str]| {
        let text = check(&mut etcdctl(&cluster, &folder, args), None);
        text.unwrap_or_else(|error| panic!("{error:#}")).trim_end().to_owned()
    };
    cluster.kubectl(|kubectl| kubectl.ok(&["create", "configmap", "seen", "--from-literal=from=kubectl"]));
    let keys = run(&["get", "/registry/configmaps/default/", "--prefix", "--keys-only"]);
    assert!(keys.lines().any(|key| key.ends_with("/seen")), "{keys}");
    let members = run(&["member", "list"]);
    assert!(members.contains(", started, server, ") && members.contains("https://127.0.0.1:2379"), "{members}");
    assert!(run(&["endpoint", "status"]).contains(", 3.5.21, "));
    run(&["endpoint", "health"]);
    assert_eq!(run(&["put", "beside", "v"]), "OK");
    assert_eq!(run(&["del", "beside"]), "1");
    let backup = cluster.server.folder.join("backup.db");
    run(&["snapshot", "save", &backup.display().to_string()]);
    run(&["snapshot", "status", &backup.display().to_string()]);
    // It reads /metrics with the certificate, but trusts whom the machine trusts.
    let mut measured = etcdctl(&cluster, &folder, &["check", "datascale", "--load=s"]);
    let measured = check(measured.env("SSL_CERT_FILE", folder.join("ca.crt")), None);
    let measured = measured.unwrap_or_else(|error| panic!("{error:#}"));
    assert!(measured.contains("PASS: Approximate system memory used"), "{measured}");
    // As everywhere, it is the impersonated user who is asked about.
    let members = ["get", "--raw", "/rk/v1/members"];
    cluster.kubectl(|kubectl| kubectl.ok(&members));
    let refused = cluster.kubectl(|kubectl| kubectl.fails(&[&members[..], &["--as=jane"]].concat(), None));
    assert!(refused.contains("administrator's certificate"), "{refused}");

    // An administrator's certificate is of the same CA, and opens nothing here.
    let admin = cluster.server.folder.join("admin");
    std::fs::create_dir_all(&admin).expect("make a folder");
    std::fs::copy(folder.join("ca.crt"), admin.join("ca.crt")).expect("copy the CA");
    let field = |name: &str| {
        let path = format!("-o=jsonpath={{.users[0].user.{name}}}");
        cluster.kubectl(|kubectl| kubectl.ok(&["config", "view", "--raw", &path]))
    };
    for (name, file) in [("client-certificate-data", "client.crt"), ("client-key-data", "client.key")] {
        let mut decode = Command::new("base64");
        let text = check(decode.arg("-d"), Some(&field(name))).expect("decode base64");
        std::fs::write(admin.join(file), text).expect("write a file");
    }
    let mut refused = etcdctl(&cluster, &admin, &["--command-timeout=2s", "get", "/registry", "--prefix"]);
    let refused = output(&mut refused, None).expect("run etcdctl");
    assert!(!refused.status.success() && refused.stdout.is_empty(), "an administrator read the store");
}

#[test]
fn etcdctl_sees_checks_and_leads_a_cluster_of_three_servers() {
    let name = "etcdctl_sees_checks_and_leads_a_cluster_of_three_servers";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let flags = ["--disable-agent", "--etcd-listen=0.0.0.0:2379"];
    let mut cluster = Cluster::start(&flags);
    for further in ["second", "third"] {
        cluster.join_server(further, &flags);
    }
    let folder = cluster.server.data_dir().join("server/tls/etcd");
    let attempt = |args: &[&str]| {
        let text = check(&mut etcdctl(&cluster, &folder, args), None).map_err(|error| format!("{error:#}"))?;
        Ok::<_, String>(text.trim_end().to_owned())
    };
    let run = |args: &[&str]| attempt(args).unwrap_or_else(|error| panic!("{error}"));
    // A server becomes a voter a little after its API answers, and serves etcd's interface then.
    let listed = rk_tests::until("three voters with their URLs", PATIENCE, || {
        let listed = attempt(&["member", "list"])?;
        let whole = |line: &&str| line.contains(", https://") && line.ends_with(", false") && !line.contains(", , ");
        if listed.lines().filter(whole).count() == 3 { Ok(listed) } else { Err(listed) }
    });
    for server in ["server", "second", "third"] {
        assert!(listed.contains(&format!(", started, {server}, https://")), "{listed}");
    }
    // Found by the list alone, one certificate opens all.
    run(&["endpoint", "health", "--cluster"]);
    let status = run(&["endpoint", "status", "--cluster"]);
    assert_eq!(status.matches(", true, false, ").count(), 1, "{status}");
    assert_eq!(run(&["put", "beside", "v"]), "OK");
    let hashes = rk_tests::until("equal checksums", PATIENCE, || {
        let revision = attempt(&["get", "beside", "-w=fields"])?;
        let revision = revision.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap_or("0").to_owned();
        let hashed = attempt(&["endpoint", "hashkv", "--cluster", "--rev", &revision])?;
        let hashes: Vec<_> = hashed.lines().filter_map(|line| line.split(", ").nth(1)).collect();
        if hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]) { Ok(hashed) } else { Err(hashed) }
    });
    let leader = status.lines().find(|line| line.contains(", true, false, ")).expect("a leader");
    let heir =
        listed.lines().filter_map(|line| line.split(", ").next()).find(|id| !leader.contains(id)).expect("an heir");
    let endpoints: Vec<_> = hashes.lines().filter_map(|line| line.split(", ").next()).collect();
    let endpoints = format!("--endpoints={}", endpoints.join(","));
    let moved = run(&[&endpoints, "move-leader", heir]);
    assert!(moved.starts_with("Leadership transferred") && moved.ends_with(heir), "{moved}");
    assert_eq!(run(&["put", "beside", "w"]), "OK");
}
