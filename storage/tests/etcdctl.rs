//! Debian's `etcdctl` (package etcd-client) against the endpoint, and its `etcd` (etcd-server) on a backup of ours.
//! Without them the tests say `SKIPPED` and pass.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster/net.rs"]
#[expect(dead_code, reason = "what else the tests of the cluster need")]
mod net;

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use storage::etcd::client::Client;
use storage::etcd::{Config, Endpoint, wire};
use storage::{Op, Store, Txn};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};

const PATIENCE: Duration = Duration::from_secs(120);

fn installed(tool: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()));
    if !found {
        drop(writeln!(std::io::stderr(), "SKIPPED: {tool} is not installed"));
    }
    found
}

struct Server {
    dir: tempfile::TempDir,
    store: Store,
    url: String,
}

async fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(storage::Config::new(dir.path().join("db"), 1)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // With `http://` before it etcdctl 3.4 sends an authority that is none, and HTTP/2 is refused; `https://` is well.
    let url = listener.local_addr().unwrap().to_string();
    let config = Config { name: "one".to_owned(), client_urls: vec![format!("https://{url}")], ..Config::default() };
    serve(listener, Endpoint::new(store.clone(), config).await.unwrap());
    Server { dir, store, url }
}

fn serve(listener: TcpListener, endpoint: Endpoint) {
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let endpoint = endpoint.clone();
            tokio::spawn(async move { endpoint.serve(connection).await });
        }
    });
}

fn etcdctl(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg("--endpoints").arg(url).args(args).kill_on_drop(true);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

async fn finished(mut command: Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    tokio::time::timeout(PATIENCE, output).await.expect("the command ends").unwrap()
}

impl Server {
    async fn run(&self, args: &[&str]) -> String {
        let output = finished(etcdctl(&self.url, args)).await;
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn fails(&self, args: &[&str]) -> String {
        let output = finished(etcdctl(&self.url, args)).await;
        assert!(!output.status.success(), "{args:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Starts a command that goes on until it is dropped.
    fn start(&self, args: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = etcdctl(&self.url, args).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        (child, BufReader::new(output).lines())
    }
}

async fn lines(from: &mut Lines<BufReader<ChildStdout>>, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let line = tokio::time::timeout(PATIENCE, from.next_line()).await;
        seen.push(line.unwrap_or_else(|_| unreachable!("no more after {seen:?}")).unwrap().unwrap());
    }
    seen
}

#[tokio::test]
async fn the_memory_that_data_takes_is_measured() {
    if !installed("etcdctl") {
        return;
    }
    let told = server().await.run(&["check", "datascale", "--load=s"]).await;
    assert!(told.contains("PASS: Approximate system memory used"), "{told}");
}

#[tokio::test]
#[ignore = "takes a minute, and a machine that does little else"]
async fn the_endpoint_is_quick_enough_for_etcds_own_check() {
    if !installed("etcdctl") {
        return;
    }
    let told = server().await.run(&["--command-timeout=90s", "check", "perf", "--load=s"]).await;
    assert!(told.contains("PASS: Throughput") && !told.contains("FAIL"), "{told}");
}

#[tokio::test]
async fn keys_are_put_read_and_deleted() {
    if !installed("etcdctl") {
        return;
    }
    let server = server().await;
    for (key, value) in [("k/1", "c"), ("k/2", "a"), ("k/3", "b"), ("other", "x")] {
        assert_eq!(server.run(&["put", key, value]).await, "OK");
    }
    assert_eq!(server.run(&["put", "--prev-kv", "k/2", "d"]).await, "OK\nk/2\na");
    assert_eq!(server.run(&["get", "k/2"]).await, "k/2\nd");
    assert_eq!(server.run(&["get", "k/2", "--rev=3"]).await, "k/2\na");
    let values =
        server.run(&["get", "k/", "--prefix", "--sort-by=VALUE", "--order=DESCEND", "--print-value-only"]).await;
    assert_eq!(values, "d\nc\nb");
    assert_eq!(server.run(&["get", "--prefix", "k/", "--limit=2", "--keys-only"]).await, "k/1\n\nk/2");
    assert_eq!(server.run(&["get", "--from-key", "k/3", "--print-value-only"]).await, "b\nx");
    assert_eq!(server.run(&["put", "--ignore-value", "k/2"]).await, "OK");
    assert!(server.fails(&["put", "--ignore-value", "none"]).await.contains("etcdserver: key not found"));
    assert!(server.fails(&["get", "k/1", "--rev=99"]).await.contains("mvcc: required revision is a future revision"));
    assert_eq!(server.run(&["del", "k/", "--prefix", "--prev-kv"]).await.lines().next(), Some("3"));
    assert_eq!(server.run(&["get", "", "--prefix", "--keys-only"]).await, "other");
    assert_eq!(server.run(&["compact", "5"]).await, "compacted revision 5");
    assert!(server.fails(&["compact", "5"]).await.contains("mvcc: required revision has been compacted"));
    assert!(server.fails(&["get", "k/1", "--rev=4"]).await.contains("mvcc: required revision has been compacted"));
}

#[tokio::test]
async fn transactions_and_leases_work() {
    if !installed("etcdctl") {
        return;
    }
    let server = server().await;
    server.run(&["put", "k", "1"]).await;
    let mut command = etcdctl(&server.url, &["txn"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = b"mod(\"k\") = \"2\"\nvalue(\"k\") < \"2\"\n\nput won yes\nget won\n\nput won no\n\n";
    let mut input = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut input, asked).await.unwrap();
    drop(input);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(text(&output.stdout).split_whitespace().collect::<Vec<_>>(), ["SUCCESS", "OK", "won", "yes"]);
    let granted = server.run(&["lease", "grant", "600"]).await;
    let lease = granted.split_whitespace().nth(1).unwrap();
    server.run(&["put", "--lease", lease, "leased", "v"]).await;
    let told = server.run(&["lease", "timetolive", lease, "--keys"]).await;
    assert!(told.contains("granted with TTL(600s)") && told.contains("attached keys([leased])"), "{told}");
    assert!(server.run(&["lease", "list"]).await.contains(lease));
    assert!(server.run(&["lease", "keep-alive", "--once", lease]).await.contains("keepalived with TTL(600)"));
    server.run(&["lease", "revoke", lease]).await;
    assert_eq!(server.run(&["get", "leased"]).await, "");
    assert!(server.fails(&["lease", "revoke", lease]).await.contains("requested lease not found"));
}

#[tokio::test]
async fn watches_show_the_past_and_the_present() {
    if !installed("etcdctl") {
        return;
    }
    let server = server().await;
    server.run(&["put", "k/1", "old"]).await;
    server.run(&["put", "k/1", "new"]).await;
    let (_child, mut shown) = server.start(&["watch", "--prefix", "k/", "--rev=2", "--prev-kv"]);
    assert_eq!(lines(&mut shown, 8).await.concat(), "PUTk/1oldPUTk/1oldk/1new");
    server.run(&["del", "k/1"]).await;
    assert_eq!(lines(&mut shown, 5).await.concat(), "DELETEk/1newk/1");
    server.run(&["compact", "4"]).await;
    assert!(server.fails(&["watch", "k/1", "--rev=2"]).await.contains("required revision has been compacted"));
}

#[tokio::test]
async fn locks_exclude_and_elections_elect() {
    if !installed("etcdctl") {
        return;
    }
    let server = server().await;
    let (mut holder, mut held) = server.start(&["lock", "mutex"]);
    assert!(lines(&mut held, 1).await[0].starts_with("mutex/"));
    let (_waiter, mut waiting) = server.start(&["lock", "mutex", "echo", "mine"]);
    // It waits in the queue: its key is there, and the lock is not its own.
    tokio::time::timeout(PATIENCE, async {
        while server.store.range(&storage::RangeRequest::prefix("mutex/")).unwrap().count < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let pid = holder.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    assert!(tokio::time::timeout(PATIENCE, holder.wait()).await.is_ok());
    assert_eq!(lines(&mut waiting, 1).await, ["mine"]);
    let (_leader, mut elected) = server.start(&["elect", "post", "me"]);
    assert_eq!(lines(&mut elected, 2).await[1], "me");
    let (_observer, mut observed) = server.start(&["elect", "--listen", "post"]);
    assert_eq!(lines(&mut observed, 2).await[1], "me");
}

#[tokio::test]
async fn the_cluster_is_described() {
    if !installed("etcdctl") {
        return;
    }
    let server = server().await;
    server.run(&["put", "k", "v"]).await;
    let members = server.run(&["member", "list"]).await;
    assert_eq!(members, format!("1, started, one, , https://{}, false", server.url));
    let status = server.run(&["endpoint", "status"]).await;
    assert!(status.contains(", 3.5.21, ") && status.contains(", true, false, "), "{status}");
    server.run(&["endpoint", "health"]).await;
    assert!(server.run(&["endpoint", "hashkv"]).await.starts_with(&format!("{}, ", server.url)));
    assert!(server.run(&["defrag"]).await.contains("Finished defragmenting"));
    assert_eq!(server.run(&["alarm", "list"]).await, "");
    assert!(
        server.fails(&["member", "add", "x", "--peer-urls=http://127.0.0.1:1"]).await.contains("rk server --server")
    );
    assert!(server.fails(&["auth", "enable"]).await.contains("client certificates decide"));
}

/// What etcdctl says as JSON, through the members at these addresses.
async fn json(urls: &[String], args: &[&str]) -> serde_json::Value {
    let output = finished(etcdctl(&urls.join(","), &[args, &["-w=json"]].concat())).await;
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_is_seen_checked_and_led_from_any_member() {
    if !installed("etcdctl") {
        return;
    }
    let members = net::Members::of(3).await;
    let mut urls = Vec::new();
    for store in members.stores() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = listener.local_addr().unwrap().to_string();
        let config = Config { client_urls: vec![url.clone()], peer_scheme: "https://", ..Config::default() };
        serve(listener, Endpoint::new(store, config).await.unwrap());
        urls.push(url);
    }
    let servers = members.stores().into_iter().zip(&urls);
    let servers: Vec<Server> =
        servers.map(|(store, url)| Server { dir: tempfile::tempdir().unwrap(), store, url: url.clone() }).collect();
    for (n, server) in servers.iter().enumerate() {
        assert_eq!(server.run(&["put", &format!("k{n}"), "v"]).await, "OK");
        let listed = server.run(&["member", "list"]).await;
        for (id, url) in (1..).zip(&urls) {
            assert!(
                listed.contains(&format!("{id}, started, m{id}, https://10.0.0.{id}:6443, {url}, false")),
                "{listed}"
            );
        }
    }
    let one = &urls[..1];
    let healthy = json(one, &["endpoint", "health", "--cluster"]).await;
    let healthy = healthy.as_array().unwrap();
    assert!(healthy.len() == 3 && healthy.iter().all(|one| one["health"] == true), "{healthy:?}");
    let revision = servers[0].store.read_barrier().await.unwrap().to_string();
    let hashed = json(one, &["endpoint", "hashkv", "--cluster", "--rev", &revision]).await;
    let hashes: Vec<_> = hashed.as_array().unwrap().iter().map(|one| one["HashKV"]["hash"].as_u64().unwrap()).collect();
    assert!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]), "{hashed}");
    let leaders = async || {
        let status = json(one, &["endpoint", "status", "--cluster"]).await;
        let of = |one: &serde_json::Value| one["Status"]["leader"].as_u64().unwrap();
        status.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let before = leaders().await;
    let heir = before[0] % 3 + 1;
    assert_eq!(before, [before[0]; 3]);
    let moved = finished(etcdctl(&urls.join(","), &["move-leader", &format!("{heir:x}")])).await;
    assert!(text(&moved.stdout).starts_with("Leadership transferred"), "{}", text(&moved.stderr));
    let deadline = std::time::Instant::now() + PATIENCE;
    while leaders().await != [heir; 3] {
        assert!(std::time::Instant::now() < deadline, "not led by the heir");
    }
    // Endpoints are found by the list of members alone.
    let table = servers[2].run(&["endpoint", "status", "--cluster", "-w=table"]).await;
    assert!(urls.iter().all(|url| table.contains(url)), "{table}");
    let updated = servers[1].run(&["member", "update", "2", "--peer-urls=https://10.0.0.22:6443"]).await;
    assert!(updated.contains("updated"), "{updated}");
    let removed = servers[1].run(&["member", "remove", "3"]).await;
    assert!(removed.contains("removed"), "{removed}");
    assert_eq!(servers[0].run(&["member", "list"]).await.lines().count(), 2);
}

/// A free port; somebody else may take it, which fails the test with a clear message.
async fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn etcd(dir: &Path) -> (Child, String) {
    let (port, peer) = (port().await, port().await);
    let url = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new("etcd");
    command.args(["--name=restored", "--data-dir"]).arg(dir);
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let address = url.trim_start_matches("http://").to_owned();
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Ok(connection) = TcpStream::connect(&address).await
            && let Ok(client) = Client::connect(connection).await
            && let Ok(status) = client.call::<wire::StatusResponse>("Maintenance/Status", &wire::Empty {}).await
            && status.leader != 0
        {
            return (child, url);
        }
        if std::time::Instant::now() > deadline || child.try_wait().unwrap().is_some() {
            let mut said = String::new();
            child.start_kill().ok();
            child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
            unreachable!("etcd does not serve: {said}");
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_verified_by_etcdctl_and_restored_into_an_etcd() {
    if !installed("etcdctl") {
        return;
    }
    let server = server().await;
    // Enough for an index of several levels, values above a page, and deletions.
    for batch in 0..60 {
        let put = |n: usize| Op::put(format!("k/{:05}", batch * 100 + n), vec![b'a'; n * 3]);
        let success = (0..100).map(put).chain([Op::put("large", vec![b'x'; 20_000 + batch])]).collect();
        server.store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    }
    let lease = server.store.lease_grant(0x1234, Duration::from_secs(6000)).await.unwrap();
    let success = vec![
        Op::Put { key: "leased".into(), value: "v".into(), lease: lease.id, prev_kv: false },
        Op::Delete { key: "k/00100".into(), end: Some("k/00200".into()), prev_kv: false },
    ];
    let revision = server.store.txn(Txn { success, ..Txn::default() }).await.unwrap().revision;
    server.store.compact(30).await.unwrap();
    server.run(&["put", "k/00150", "again"]).await;
    let file = server.dir.path().join("backup.db");
    let file = file.to_str().unwrap();
    server.run(&["snapshot", "save", file]).await;
    let status = server.run(&["snapshot", "status", file]).await;
    assert!(status.contains(&format!(", {}, ", revision + 1)), "{status}");
    if !installed("etcd") {
        return;
    }
    let restored = server.dir.path().join("restored");
    server
        .run(&[
            "snapshot",
            "restore",
            file,
            "--name=restored",
            "--data-dir",
            restored.to_str().unwrap(),
            "--initial-cluster=restored=http://localhost:2380",
        ])
        .await;
    let (mut etcd, url) = etcd(&restored).await;
    let other = Server { dir: tempfile::tempdir().unwrap(), store: server.store.clone(), url };
    for args in [
        &["get", "", "--prefix", "-w=json"][..],
        &["get", "", "--prefix", "--rev=40", "-w=json"],
        &["get", "k/00150", "--rev=61", "-w=json"],
        &["get", "large", "--rev=30", "-w=json"],
    ] {
        let (ours, theirs) = (server.run(args).await, other.run(args).await);
        let keys = |text: &str| text.split_once("\"kvs\"").map(|(_, kvs)| kvs.to_owned());
        assert_eq!(keys(&ours), keys(&theirs), "{args:?}");
        assert!(keys(&ours).is_some() || args[1] == "k/00150");
    }
    assert!(other.run(&["lease", "list"]).await.contains("1234"));
    assert!(other.fails(&["get", "large", "--rev=29"]).await.contains("compacted"));
    etcd.kill().await.unwrap();
}
