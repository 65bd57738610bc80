//! Snapshots of real servers: what was deleted comes back, on the same box and on a new one, and everybody goes on.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a test that cannot go on fails")]

use nix::sys::signal::Signal;
use rk_tests::cluster::Server;
use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::{Cluster, one_at_a_time};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const NEEDS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(120);

fn ok(command: &mut Command) -> String {
    check(command, None).unwrap_or_else(|error| panic!("{error:#}"))
}

/// What a command that fails writes to standard error.
fn fails(command: &mut Command) -> String {
    let ended = output(command, None).expect("run it");
    assert!(!ended.status.success(), "it succeeded: {}", String::from_utf8_lossy(&ended.stdout));
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

fn list(server: &Server) -> Vec<Value> {
    let text = ok(&mut server.snapshot(&["ls", "-o", "json"]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The path of the snapshot that `save` tells of.
fn save(server: &Server, arguments: &[&str]) -> PathBuf {
    let text = ok(server.snapshot(&["save"]).args(arguments));
    text.split_once(": revision ").map(|(path, _)| path.into()).unwrap_or_else(|| panic!("{text}"))
}

fn restart(cluster: &mut Cluster, change: impl FnOnce(&mut Server)) {
    cluster.server.stop(Signal::SIGTERM);
    change(&mut cluster.server);
    cluster.server.start();
    cluster.api_answers();
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this suite is text")
}

#[test]
fn what_was_deleted_comes_back_and_pods_agents_and_tokens_go_on() {
    let name = "what_was_deleted_comes_back_and_pods_agents_and_tokens_go_on";
    if !need::met(name, need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::ready();
    cluster.agent_with("edge", &[], |machine| {
        let images = machine.data_dir().join("agent/images");
        std::fs::create_dir_all(&images).expect("make the images folder");
        rk_tests::image::busybox(&images.join("busybox.tar"), rk_tests::image::NAME);
    });
    cluster.node_ready("edge");
    let id = "-o=jsonpath={.status.containerStatuses[0].containerID}";
    let (token, container) = cluster.kubectl(|kubectl| {
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"on-edge"}},"spec":{{"nodeName":"edge",
            "terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"{}",
            "command":["sh","-c","echo up; exec sleep 100000"]}}]}}}}"#,
            rk_tests::image::NAME
        );
        kubectl.ok_with(&["apply", "-f", "-"], &pod);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/on-edge", "--timeout=60s"]);
        kubectl.ok(&["create", "configmap", "kept", "--from-literal=from=before"]);
        (kubectl.ok(&["create", "token", "default"]), kubectl.ok(&["get", "pod", "on-edge", id]))
    });
    let path = save(&cluster.server, &[]);
    let seen = cluster.kubectl(|kubectl| {
        kubectl.ok(&["delete", "configmap", "kept"]);
        kubectl.ok(&["create", "configmap", "later"]);
        kubectl.ok(&["get", "--raw", "/api/v1/namespaces/default/configmaps"])
    });
    let seen: Value = serde_json::from_str(&seen).expect("a list is JSON");
    let seen = seen["metadata"]["resourceVersion"].as_str().expect("a list has a version").to_owned();

    let refused = fails(&mut cluster.server.snapshot(&["restore", text(&path)]));
    assert!(refused.contains("is running: stop it first"), "{refused}");
    cluster.kubectl(|kubectl| kubectl.ok(&["get", "configmap", "later"]));
    restart(&mut cluster, |server| {
        let told = ok(&mut server.snapshot(&["restore", text(path.file_name().expect("it has a name").as_ref())]));
        assert!(told.contains("what was there before is in"), "{told}");
    });
    cluster.kubectl(|kubectl| {
        assert_eq!(kubectl.ok(&["get", "configmap", "kept", "-o=jsonpath={.data.from}"]), "before");
        assert!(kubectl.fails(&["get", "configmap", "later"], None).contains("NotFound"));
        let now = kubectl.ok(&["get", "--raw", "/api/v1/namespaces/default/configmaps"]);
        let now: Value = serde_json::from_str(&now).expect("a list is JSON");
        let version = |text: &str| text.parse::<u64>().expect("a version of rk is a number");
        let now = version(now["metadata"]["resourceVersion"].as_str().expect("a list has a version"));
        assert!(now > version(&seen) + 1_000_000, "{now} after {seen}");
        let watch = format!("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5&resourceVersion={seen}");
        let stale = kubectl.ok(&["get", "--raw", &watch]);
        assert!(stale.contains("\"code\":410"), "a watch of the state that is gone must start anew: {stale}");

        let url = format!("--server={}", cluster.server.url());
        let mut whoami = cluster.server.host.command("kubectl");
        whoami.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &url, "--token", &token]);
        let user = ok(whoami.args(["auth", "whoami", "-o=jsonpath={.status.userInfo.username}"]));
        assert_eq!(user, "system:serviceaccount:default:default");
        // The agent is a member still, with its certificate, its tunnel and its pod.
        kubectl.until(LATER, &["logs", "on-edge"], |text| text == "up\n");
        assert_eq!(kubectl.ok(&["get", "pod", "on-edge", id]), container);
        // A pod made now shows that its watches are back.
        let pod = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"new"}},"spec":{{"nodeName":"edge",
            "terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"{}","command":["sleep","100000"]}}]}}}}"#,
            rk_tests::image::NAME
        );
        kubectl.ok_with(&["apply", "-f", "-"], &pod);
        kubectl.ok(&["wait", "--for=condition=Ready", "pod/new", "--timeout=120s"]);
    });
}

#[test]
fn a_new_box_takes_over_with_the_token_and_with_no_other() {
    let name = "a_new_box_takes_over_with_the_token_and_with_no_other";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(&["--disable-agent", "--snapshot-interval=0", "--service-cidr=10.55.0.0/16"]);
    cluster.kubectl(|kubectl| kubectl.ok(&["create", "secret", "generic", "kept", "--from-literal=a=b"]));
    let old = cluster.server.data_dir();
    let token = std::fs::read_to_string(old.join("server/token")).expect("read the token");
    let kubeconfig = cluster.server.folder.join("before.yaml");
    std::fs::copy(cluster.server.kubeconfig(), &kubeconfig).expect("keep the kubeconfig");
    let elsewhere = cluster.server.folder.join("usb");
    let path = save(&cluster.server, &["--dir", text(&elsewhere)]);
    assert_eq!(path.parent(), Some(elsewhere.as_path()));
    cluster.server.stop(Signal::SIGKILL);

    let new = cluster.server.folder.join("new-box");
    let restore = |given: Option<&str>| {
        let mut command = cluster.server.rk(&["snapshot", "--node-name=server", "--data-dir", text(&new)]);
        command.args(["restore", text(&path)]);
        given.map(|token| command.args(["--token", token]));
        command
    };
    let refused = fails(&mut restore(None));
    assert!(refused.contains("--token"), "{refused}");
    let refused = fails(&mut restore(Some("a-guess")));
    assert!(refused.contains("does not open the snapshot's keys"), "{refused}");
    let foreign = format!("K10{}::server:{}", "0".repeat(64), "guess");
    let refused = fails(&mut restore(Some(&foreign)));
    assert!(refused.contains("another cluster's"), "{refused}");
    assert!(!new.join("server/db").exists() && !new.join("server/tls").exists(), "nothing was made");
    ok(&mut restore(Some(token.trim())));
    // Not over another cluster.
    let other = cluster.server.folder.join("other");
    std::fs::create_dir_all(other.join("server/tls")).expect("make a folder");
    let its_ca = include_str!("snapshots/other-ca.crt");
    std::fs::write(other.join("server/tls/ca.crt"), its_ca).expect("write a CA");
    let mut over = cluster.server.rk(&["snapshot", "--node-name=server", "--data-dir", text(&other)]);
    let refused = fails(over.args(["restore", text(&path), "--token", token.trim()]));
    assert!(refused.contains("move") && refused.contains("aside"), "{refused}");

    cluster.server.drop_flags("--service-cidr");
    cluster.server.set_flag(&format!("--data-dir={}", new.display()));
    cluster.server.start();
    cluster.api_answers();
    // By the certificates of before, and at the addresses of before.
    let mut get = cluster.server.host.command("kubectl");
    get.arg("--kubeconfig").arg(&kubeconfig).args(["get", "secret", "kept", "-o=jsonpath={.data.a}"]);
    assert_eq!(ok(&mut get), "Yg==");
    let address = "-o=jsonpath={.spec.clusterIP}";
    assert_eq!(cluster.kubectl(|kubectl| kubectl.ok(&["get", "service", "kubernetes", address])), "10.55.0.1");
    for kept in ["token", "node-token", "tls/ca.crt", "tls/ca.key", "tls/service-account.key"] {
        let read = |folder: &Path| std::fs::read_to_string(folder.join("server").join(kept)).expect("read a key");
        assert_eq!(read(&new), read(&old), "{kept}");
    }
}

#[test]
fn lists_tell_damage_and_pruning_leaves_it() {
    let name = "lists_tell_damage_and_pruning_leaves_it";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(&["--disable-agent", "--snapshot-interval=0"]);
    let token = cluster.kubectl(|kubectl| kubectl.ok(&["create", "token", "default"]));
    let url = format!("--server={}", cluster.server.url());
    let mut post = cluster.server.host.command("kubectl");
    post.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &url, "--token", token.trim()]);
    post.args(["create", "--raw", "/rk/v1/snapshots", "-f", "-"]);
    let asked = output(&mut post, Some(r#"{"base":"stolen"}"#)).expect("run kubectl");
    let refusal = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && refusal.contains("Forbidden"), "{refusal}");
    let server = &mut cluster.server;
    let running = save(server, &["--name", "running"]);
    assert!(running.exists() && list(server).len() == 1);
    server.stop(Signal::SIGTERM);
    let saved: Vec<_> = (0..3).map(|_| save(server, &[])).collect();
    let mut bytes = std::fs::read(&saved[0]).expect("read a snapshot");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&saved[0], bytes).expect("damage a snapshot");
    let folder = saved[0].parent().expect("it lies in a folder");
    std::fs::write(folder.join("holiday.jpg"), "a photograph").expect("write a foreign file");

    let found = list(server);
    let entry = |name: &str| {
        let named = |entry: &&Value| entry["name"] == name;
        found.iter().find(named).unwrap_or_else(|| panic!("no {name} in {found:?}")).clone()
    };
    let name_of = |path: &Path| path.file_name().expect("it has a name").to_string_lossy().into_owned();
    assert!(entry(&name_of(&saved[0]))["error"].as_str().is_some_and(|error| error.contains("damaged at offset")));
    assert!(entry("holiday.jpg")["error"].as_str().is_some_and(|error| error.contains("not a snapshot of rk")));
    assert!(entry(&name_of(&saved[2]))["revision"].as_u64().is_some_and(|revision| revision > 0));
    let table = ok(&mut server.snapshot(&["ls"]));
    assert!(table.starts_with("NAME ") && table.contains("damaged at offset"), "{table}");

    let refused = fails(&mut server.snapshot(&["restore", text(&saved[0])]));
    assert!(refused.contains(text(&saved[0])) && refused.contains("use another snapshot"), "{refused}");
    let refused = fails(&mut server.snapshot(&["restore", text(&folder.join("holiday.jpg"))]));
    assert!(refused.contains("not a snapshot of rk"), "{refused}");
    let refused = fails(&mut server.snapshot(&["restore", "nowhere"]));
    assert!(refused.contains("rk snapshot ls"), "{refused}");

    let pruned = ok(&mut server.snapshot(&["prune", "--keep=1"]));
    assert_eq!(pruned, format!("removed {}\n", name_of(&saved[1])));
    let refused = fails(&mut server.snapshot(&["delete", "holiday.jpg"]));
    assert!(refused.contains("by hand"), "{refused}");
    ok(&mut server.snapshot(&["delete", &name_of(&running)]));
    let mut left: Vec<_> = list(server).iter().map(|entry| entry["name"].clone()).collect();
    left.sort_by_key(ToString::to_string);
    assert_eq!(left, ["holiday.jpg".to_owned(), name_of(&saved[0]), name_of(&saved[2])]);
}

#[test]
fn the_schedule_takes_snapshots_while_something_changes_and_keeps_the_newest() {
    let name = "the_schedule_takes_snapshots_while_something_changes_and_keeps_the_newest";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let flags = ["--disable-agent", "--snapshot-interval=1s", "--snapshot-retention=2", "-v"];
    let cluster = Cluster::start(&flags);
    let newest = || list(&cluster.server).first().and_then(|entry| entry["name"].as_str().map(str::to_owned));
    let mut last = None;
    for number in 0..4 {
        cluster.kubectl(|kubectl| kubectl.ok(&["create", "configmap", &format!("change-{number}")]));
        let next = rk_tests::until("a snapshot is taken", SOON, || {
            let next = newest();
            if next.is_some() && next != last { Ok(next) } else { Err(format!("{next:?} is the newest")) }
        });
        last = next;
    }
    rk_tests::until("old ones go", SOON, || {
        let count = list(&cluster.server).len();
        if count <= 2 { Ok(()) } else { Err(format!("{count} are there")) }
    });
    rk_tests::until("none is taken of what has not changed", SOON, || {
        let log = cluster.server.log();
        if log.contains("nothing has changed since the last snapshot") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn the_other_servers_of_a_restored_cluster_join_again() {
    let name = "the_other_servers_of_a_restored_cluster_join_again";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let flags = ["--disable-agent", "--snapshot-interval=0"];
    let mut cluster = Cluster::start(&flags);
    cluster.join_server("second", &flags);
    cluster.kubectl(|kubectl| kubectl.ok(&["create", "configmap", "kept"]));
    let path = save(&cluster.servers[0], &[]);
    cluster.servers[0].kubectl(|kubectl| kubectl.ok(&["delete", "configmap", "kept"]));
    cluster.servers[0].stop(Signal::SIGTERM);
    cluster.server.stop(Signal::SIGTERM);
    // On the one server a snapshot that the other one took.
    ok(&mut cluster.server.snapshot(&["restore", text(&path)]));
    cluster.server.start();
    cluster.api_answers();
    cluster.servers[0].start();
    cluster.servers[0].kubectl(|kubectl| {
        kubectl.until(LATER, &["get", "configmap", "kept", "-o=name"], |text| text == "configmap/kept\n");
    });
    rk_tests::until("both are members", LATER, || {
        let members = check(&mut cluster.server.member(&["list"]), None).map_err(|error| format!("{error:#}"))?;
        if members.matches("voter").count() == 2 { Ok(()) } else { Err(members) }
    });
}
