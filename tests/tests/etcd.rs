//! etcd's interface to the store of a real server, by Debian's etcdctl.
#![forbid(unsafe_code)]

use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::{Cluster, one_at_a_time};
use std::path::Path;
use std::process::Command;

const NEEDS: &[Need] =
    &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter"), Need::Program("etcdctl")];

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
