//! The join tokens are one thing of the cluster: replaced on one server, the old ones let nobody in on any, and no flag,
//! restart or snapshot brings them back.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a test that cannot go on fails")]

use nix::sys::signal::Signal;
use rk_tests::cluster::{Machine, START, Server};
use rk_tests::need::{self, Need};
use rk_tests::process::check;
use rk_tests::{Cluster, one_at_a_time, until};
use std::path::Path;
use std::process::Command;

const SERVERS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
/// These scenarios are about who is let in: no pods.
const BARE: &[&str] = &["--disable-agent"];
const OTHER: &str = "another-secret";

fn ok(command: &mut Command) -> String {
    check(command, None).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The tokens of servers and of agents in a server's files.
fn tokens(server: &Server) -> (String, String) {
    let read = |name: &str| {
        let text = std::fs::read_to_string(server.data_dir().join("server").join(name)).expect("read a token");
        text.trim().to_owned()
    };
    (read("token"), read("node-token"))
}

fn secret(token: &str) -> &str {
    token.rsplit_once(':').map(|(_, secret)| secret).expect("a token has a secret")
}

fn rotate(server: &Server, arguments: &[&str]) -> String {
    let mut command = server.rk(&["token", "rotate"]);
    ok(command.args(arguments).arg("--kubeconfig").arg(server.kubeconfig()))
}

/// What a machine is told that asks `door` to be let in as a server, and is not.
fn turned_away(asking: &mut Machine, door: &str, token: &str) -> String {
    asking.drop_flags("--server=");
    asking.drop_flags("--token=");
    asking.set_flag(&format!("--server={door}"));
    asking.set_flag(&format!("--token={token}"));
    asking.refused()
}

fn starts(server: &mut Server) {
    server.start();
    server.api_answers();
}

/// Files below a folder in which `text` stands.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("list a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn tokens_replaced_on_one_server_let_nobody_in_on_any() {
    if !need::met("tokens_replaced_on_one_server_let_nobody_in_on_any", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(BARE);
    for name in ["two", "three"] {
        cluster.join_server(name, BARE);
    }
    let (old_server, old_node) = tokens(&cluster.server);
    cluster.further_server("four", BARE);
    let told = rotate(&cluster.servers[0], &[]);
    let doors: Vec<_> = cluster.all_servers().take(3).map(|server| server.url()).collect();
    // At once, wherever they are shown.
    let four = cluster.servers.last_mut().expect("it is there");
    for door in &doors {
        for old in [&old_server, &old_node] {
            let log = turned_away(four, door, old);
            assert!(log.contains("the token is not this cluster's"), "{door}: {log}");
        }
    }
    // Every server's files follow.
    for server in cluster.all_servers().take(3) {
        until("the tokens are in the files", START, || {
            let (new_server, new_node) = tokens(server);
            let new = told.contains(&new_server) && told.contains(&new_node);
            let apart = secret(&new_server) != secret(&new_node);
            if new && apart { Ok(()) } else { Err(format!("{}: {new_server} {new_node}", server.name)) }
        });
    }
    let (new_server, new_node) = tokens(&cluster.server);
    assert!(new_server != old_server && new_node != old_node);
    let four = cluster.servers.last_mut().expect("it is there");
    let log = turned_away(four, &doors[2], &new_node);
    assert!(log.contains("lets agents in, not servers"), "known on a server that was not asked: {log}");
    four.drop_flags("--token=");
    four.set_flag(&format!("--token={new_server}"));
    starts(four);
    assert_eq!(tokens(four), (new_server.clone(), new_node));

    // One of them alone, by a given secret; a server that was away comes back with what it was started with.
    cluster.servers[1].stop(Signal::SIGTERM);
    rotate(&cluster.server, &["agent", "--new-token", OTHER]);
    let three = &mut cluster.servers[1];
    starts(three);
    let (server, node) = tokens(three);
    assert_eq!((server, secret(&node)), (new_server.clone(), OTHER));

    // Among several a flag must agree.
    cluster.server.stop(Signal::SIGTERM);
    for (flag, wanted) in [
        (format!("--token={old_server}"), "--token is a token of servers that `rk token rotate` has replaced"),
        ("--token=guess".to_owned(), "--token differs from the cluster's token of servers"),
        (format!("--token={}", secret(&new_server)), "--token differs from the cluster's token of agents"),
        ("--agent-token=guess".to_owned(), "--agent-token differs from the cluster's token of agents"),
    ] {
        cluster.server.set_flag(&flag);
        let log = cluster.server.refused();
        assert!(log.contains(wanted), "{flag}: {log}");
        cluster.server.drop_flags("--token=");
        cluster.server.drop_flags("--agent-token=");
    }
    cluster.server.set_flag(&format!("--token={}", secret(&new_server)));
    cluster.server.set_flag(&format!("--agent-token={OTHER}"));
    starts(&mut cluster.server);
    let two = &mut cluster.servers[0];
    two.stop(Signal::SIGTERM);
    two.set_flag("--agent-token=guess");
    assert!(two.refused().contains("--agent-token differs"), "a server that joined is checked as well");
}

#[test]
fn on_a_server_that_is_alone_a_flag_changes_the_tokens_but_brings_none_back() {
    if !need::met("on_a_server_that_is_alone_a_flag_changes_the_tokens_but_brings_none_back", SERVERS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(&["--disable-agent", "--token=the-first-secret"]);
    let server = &mut cluster.server;
    let both = |server: &Server| {
        let (server, node) = tokens(server);
        (secret(&server).to_owned(), secret(&node).to_owned())
    };
    assert_eq!(both(server), ("the-first-secret".to_owned(), "the-first-secret".to_owned()));
    server.stop(Signal::SIGTERM);
    server.set_flag("--agent-token=the-second-secret");
    starts(server);
    assert_eq!(both(server), ("the-first-secret".to_owned(), "the-second-secret".to_owned()));
    let saved = ok(server.snapshot(&["save"]).arg("--name=before"));
    let snapshot = saved.split_once(": revision ").map_or_else(|| panic!("{saved}"), |(path, _)| path.to_owned());
    rotate(server, &["server"]);
    let (replaced, _) = both(server);
    assert_ne!(replaced, "the-first-secret");
    until("it is said in time", START, || {
        let log = server.log();
        if log.contains("this server will not start again as it was started") { Ok(()) } else { Err(log) }
    });
    server.stop(Signal::SIGTERM);
    let log = server.refused();
    assert!(log.contains("has replaced"), "{log}");
    server.drop_flags("--token=");
    starts(server);
    assert_eq!(both(server).0, replaced);

    // The store is of no use to whoever would like to be let in.
    let db = server.data_dir().join("server/db");
    for text in ["the-first-secret", "the-second-secret", &replaced] {
        assert_eq!(files_with(&db, text), Vec::<String>::new(), "{text}");
    }

    // A snapshot of before does not bring back what was replaced since.
    server.stop(Signal::SIGTERM);
    ok(&mut server.snapshot(&["restore", &snapshot]));
    starts(server);
    assert_eq!(both(server), (replaced, "the-second-secret".to_owned()));
}
