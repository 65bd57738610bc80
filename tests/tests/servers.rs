//! Several servers, one cluster: growing and shrinking in place, any one of them lost, most of them lost, and whoever must
//! not get in. Every write that was acknowledged must be there in the end.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rk_tests::cluster::{START, Server};
use rk_tests::members::{all_well, leader, members};
use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::writer::Writer;
use rk_tests::{Cluster, one_at_a_time, until};
use std::time::{Duration, Instant};

const SERVERS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
/// These scenarios are about the store and the API: no pods.
const BARE: &[&str] = &["--disable-agent"];
/// The longest that writes on a living server may wait for another one that is lost.
const GAP: Duration = Duration::from_secs(20);

fn three() -> Cluster {
    let mut cluster = Cluster::start(BARE);
    for name in ["two", "three"] {
        cluster.join_server(name, BARE);
    }
    all_well(&cluster.server, 3);
    cluster
}

/// Stops a server in order, well before it gives up on requests that it would wait for.
fn stops_soon(server: &mut Server) {
    let before = Instant::now();
    server.stop(Signal::SIGTERM);
    println!("{}: an orderly stop took {:?}", server.name, before.elapsed());
    assert!(before.elapsed() < Duration::from_secs(4), "{}", server.log());
}

#[test]
fn one_becomes_three_and_five_and_three_again_in_place_and_no_write_is_lost() {
    if !need::met("one_becomes_three_and_five_and_three_again_in_place_and_no_write_is_lost", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(BARE);
    let writer = Writer::start(&cluster.server, "w");
    let before = Instant::now();
    cluster.join_server("two", BARE);
    println!("the second server joined and ready after {:?}", before.elapsed());
    // By a server that has only just joined itself.
    let through = format!("--server={}", cluster.servers.first().expect("just joined").url());
    cluster.join_server("three", &["--disable-agent", &through]);
    all_well(&cluster.server, 3);
    println!("one to three: longest wait of a write {:?}", writer.goes_on(3));
    for name in ["four", "five"] {
        cluster.further_server(name, BARE).start();
    }
    all_well(&cluster.server, 5);
    println!("three to five: longest wait of a write {:?}", writer.goes_on(3));
    let leading = leader(&cluster.server);
    let gone: Vec<String> = [leading.as_str(), "five", "four"]
        .iter()
        .filter(|name| **name != "server")
        .take(2)
        .map(|name| (*name).into())
        .collect();
    for name in &gone {
        let text = check(&mut cluster.server.member(&["remove", name]), None).expect("remove a member");
        assert!(text.contains("rk kill-all") && text.contains(&format!("kubectl delete node {name}")), "{text}");
        let removed = cluster.named(name);
        let process = removed.process.as_mut().expect("it was running");
        let status = until("the removed server ends", START, || process.ended().ok_or("it runs"));
        assert_eq!(status.code(), Some(78), "{}", removed.log());
        removed.process = None;
        assert!(removed.log().contains("was removed from its cluster"), "{}", removed.log());
        let again = removed.refused();
        assert!(again.contains("was removed from its cluster"), "{again}");
    }
    all_well(&cluster.server, 3);
    println!("five to three: longest wait of a write {:?}", writer.goes_on(3));
    let staying: Vec<_> =
        cluster.all_servers().filter(|server| !gone.contains(&server.name)).map(|server| &*server).collect();
    assert_eq!(staying.len(), 3);
    let table = check(&mut staying[1].member(&["list"]), None).expect("list the members");
    assert!(table.starts_with("NAME") && table.lines().count() == 4, "{table}");
    writer.end(staying);
}

/// What may happen to a server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mishap {
    Killed,
    Stopped,
    Cut,
}

#[test]
fn any_one_server_may_be_lost_and_the_others_go_on() {
    if !need::met("any_one_server_may_be_lost_and_the_others_go_on", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three();
    for (mishap, leads) in [
        (Mishap::Killed, true),
        (Mishap::Stopped, true),
        (Mishap::Cut, true),
        (Mishap::Killed, false),
        (Mishap::Stopped, false),
        (Mishap::Cut, false),
    ] {
        let leading = leader(&cluster.server);
        let names: Vec<String> = cluster.all_servers().map(|server| server.name.clone()).collect();
        let victim = names.iter().find(|name| (**name == leading) == leads).expect("there is one").clone();
        let witness = names.iter().find(|name| **name != victim).expect("there is one").clone();
        let other = names.iter().find(|name| **name != victim && **name != witness).expect("there is one").clone();
        let writer = Writer::start(cluster.named(&witness), &format!("{mishap:?}-{leads}").to_lowercase());
        writer.goes_on(3);
        let host = cluster.named(&victim).host.clone();
        match mishap {
            Mishap::Killed => cluster.named(&victim).stop(Signal::SIGKILL),
            Mishap::Stopped => signal(cluster.named(&victim), Signal::SIGSTOP),
            Mishap::Cut => cluster.network().set_link(&host, false),
        }
        let gap = writer.goes_on(5);
        println!("{mishap:?}, {}: longest wait of a write {gap:?}", if leads { "the leader" } else { "a follower" });
        assert!(gap < GAP, "{gap:?}");
        cluster.named(&other).api_answers();
        match mishap {
            Mishap::Killed => cluster.named(&victim).start(),
            Mishap::Stopped => signal(cluster.named(&victim), Signal::SIGCONT),
            Mishap::Cut => cluster.network().set_link(&host, true),
        }
        all_well(cluster.named(&witness), 3);
        cluster.named(&victim).api_answers();
        writer.end(cluster.all_servers().map(|server| &*server).collect::<Vec<_>>());
    }
}

fn signal(server: &Server, signal: Signal) {
    server.process.as_ref().expect("it runs").signal(signal);
}

#[test]
fn after_a_power_cut_of_all_servers_nothing_is_missing_and_one_alone_says_what_it_waits_for() {
    if !need::met("after_a_power_cut_of_all_servers_nothing_is_missing", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three();
    let writer = Writer::start(&cluster.server, "w");
    writer.goes_on(5);
    cluster.all_servers().for_each(|server| server.stop(Signal::SIGKILL));
    // Neither the flags nor the others are needed to start; for serving, one more is.
    let two = cluster.named("two");
    two.drop_flags("--server=");
    two.drop_flags("--token=");
    std::fs::remove_file(two.folder.join("rk.log")).expect("start a new log");
    two.start();
    until("it says what it waits for", START, || {
        let log = two.log();
        let told = log.contains("waiting for a leader: 1 of 3 servers can be reached (not ");
        if told && log.contains("server") && log.contains("three") { Ok(()) } else { Err(log) }
    });
    let ready = two.kubectl(|kubectl| kubectl.fails(&["get", "--raw", "/readyz"], None));
    assert!(ready.contains("waits for a leader: 1 of 3 servers"), "{ready}");
    assert_eq!(two.kubectl(|kubectl| kubectl.ok(&["get", "--raw", "/livez"])), "ok");
    assert_eq!(members(two).expect("it still lists the members").len(), 3);
    cluster.server.start();
    cluster.named("two").api_answers();
    cluster.server.api_answers();
    cluster.named("three").start();
    all_well(&cluster.server, 3);
    writer.goes_on(3);
    writer.end(cluster.all_servers().map(|server| &*server).collect::<Vec<_>>());
    // An orderly stop waits for nobody, a follower's as little as the leader's: what it has in hand is still carried out.
    let leading = leader(&cluster.server);
    let follower = cluster.all_servers().find(|server| server.name != leading).expect("there is one").name.clone();
    stops_soon(cluster.named(&follower));
    cluster.named(&follower).start();
    cluster.named(&follower).api_answers();
    all_well(&cluster.server, 3);
    // The leader hands over: the others do not wait for silence.
    let leading = leader(&cluster.server);
    stops_soon(cluster.named(&leading));
    let witness = cluster.all_servers().find(|server| server.name != leading).expect("there is one");
    let before = Instant::now();
    witness.kubectl(|kubectl| kubectl.ok(&["create", "configmap", "after-hand-over", "--request-timeout=10s"]));
    println!("an orderly stop of the leader: the next write took {:?}", before.elapsed());
}

#[test]
fn a_lost_majority_is_overcome_by_one_command_and_the_others_come_back_by_themselves() {
    if !need::met("a_lost_majority_is_overcome_by_one_command_and_the_others_come_back_by_themselves", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = three();
    let writer = Writer::start(&cluster.server, "w");
    writer.goes_on(5);
    for name in ["two", "three"] {
        cluster.named(name).stop(Signal::SIGKILL);
    }
    let recover = |cluster: &Cluster| {
        let mut command = cluster.server.rk(&["member", "recover", "--data-dir"]);
        command.arg(cluster.server.data_dir());
        output(&mut command, None).expect("run rk")
    };
    let running = recover(&cluster);
    let error = String::from_utf8_lossy(&running.stderr);
    assert!(!running.status.success() && error.contains("stop it first"), "{error}");
    cluster.server.stop(Signal::SIGKILL);
    let done = recover(&cluster);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("generation 1") && text.contains("before-generation-1"), "{text}");
    cluster.server.start();
    cluster.api_answers();
    all_well(&cluster.server, 1);
    writer.goes_on(2);
    for name in ["two", "three"] {
        let server = cluster.named(name);
        server.drop_flags("--server=");
        server.drop_flags("--token=");
        server.start();
    }
    all_well(&cluster.server, 3);
    for name in ["two", "three"] {
        let server = cluster.named(name);
        server.api_answers();
        assert!(server.data_dir().join("server/db.old-1").exists(), "what it had is kept");
        assert_eq!(server.log().matches("the cluster went on without this server").count(), 1, "{}", server.log());
    }
    writer.goes_on(2);
    writer.end(cluster.all_servers().map(|server| &*server).collect::<Vec<_>>());
}

#[test]
fn who_must_not_become_a_server_is_told_why_and_gets_nothing() {
    if !need::met("who_must_not_become_a_server_is_told_why_and_gets_nothing", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(BARE);
    let node_token = std::fs::read_to_string(cluster.server.data_dir().join("server/node-token")).expect("read it");
    let own_token = std::fs::read_to_string(cluster.server.data_dir().join("server/token")).expect("read it");
    let (node_token, own_token) = (node_token.trim().to_owned(), own_token.trim().to_owned());
    let shown = check(cluster.server.rk(&["token", "server", "--data-dir"]).arg(cluster.server.data_dir()), None);
    assert_eq!(shown.expect("show the token").trim(), own_token);
    let new = cluster.further_server("new", BARE);
    for (flag, wanted) in [
        (format!("--token={node_token}"), "lets agents in, not servers"),
        (format!("--token={own_token}x"), "the token is not this cluster's"),
        (format!("--token=K10{}::server:x", "0".repeat(64)), "is another cluster than the token's"),
        ("--token=secret".to_owned(), "joins with the whole token"),
        (format!("--token={own_token}"), "member of the cluster already"),
        ("--cluster-cidr=10.44.0.0/16".to_owned(), "the cluster has 10.42.0.0/16"),
    ] {
        if wanted.contains("already") {
            new.set_flag("--node-name=server");
        }
        new.set_flag(&flag);
        let log = new.refused();
        assert!(log.contains(wanted), "{flag}: {log}");
        assert!(!new.data_dir().join("server/tls").exists(), "{flag}: it got keys");
        new.drop_flags("--node-name=server");
        // The name that it had before is dropped with it, if it began so.
        new.set_flag("--node-name=new");
    }
    // A data folder with a cluster of its own stays as it is.
    new.drop_flags("--cluster-cidr");
    new.drop_flags("--server=");
    new.drop_flags("--token=");
    new.start();
    new.api_answers();
    new.stop(Signal::SIGTERM);
    let url = cluster.server.url();
    let new = cluster.servers.first_mut().expect("it is there");
    new.set_flag(&format!("--server={url}"));
    let log = new.refused();
    assert!(log.contains("holds a cluster of its own"), "{log}");
    new.set_flag(&format!("--token={own_token}"));
    let log = new.refused();
    assert!(log.contains("holds the data of another cluster"), "{log}");
    // Moved away, it joins; a join that is cut anywhere goes on at the next start.
    std::fs::rename(new.data_dir().join("server"), new.data_dir().join("removed")).expect("move it away");
    for pause in [50, 150, 300, 450, 600] {
        new.start();
        std::thread::park_timeout(Duration::from_millis(pause));
        new.stop(Signal::SIGKILL);
    }
    new.start();
    new.api_answers();
    all_well(&cluster.server, 2);
    let new = cluster.servers.first_mut().expect("it is there");
    // Nobody but a server speaks to the store, and nobody but an administrator changes the membership.
    for (path, wanted) in
        [("/rk/v1/raft", "forbidden"), ("/rk/v1/members", "forbidden"), ("/rk/v1/servers", "must be logged in")]
    {
        let answer = new.kubectl(|kubectl| kubectl.fails(&["create", "--raw", path, "-f", "/dev/null"], None));
        assert!(answer.to_lowercase().contains(wanted), "{path}: {answer}");
    }
    let error = new.member(&["remove", "nobody"]);
    let error = output(&mut { error }, None).expect("run rk");
    assert!(String::from_utf8_lossy(&error.stderr).contains("is no member"), "{error:?}");
}
