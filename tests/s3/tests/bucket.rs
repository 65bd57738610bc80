//! Snapshots in a bucket: uploaded, listed, pruned, restored from, by the schedule and by hand; and what is said when the
//! bucket does not want them.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a test that cannot go on fails")]

use nix::sys::signal::Signal;
use rk_s3_tests::{ACCESS_KEY, BUCKET, Bucket, SECRET_KEY};
use rk_tests::cluster::Server;
use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::{Cluster, one_at_a_time};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const NEEDS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
const SOON: Duration = Duration::from_secs(60);
const FOLDER: &str = "lab/one";

fn ok(command: &mut Command) -> String {
    check(command, None).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A configuration file with the bucket: keys have no place among arguments.
fn configure(server: &Server, bucket: &Bucket, secret: &str) -> String {
    let path = server.folder.join("config.yaml");
    let text = format!(
        "disable-agent: true\ns3: true\ns3-endpoint: {}\ns3-insecure: true\ns3-bucket: {BUCKET}\ns3-folder: {FOLDER}\n\
         s3-access-key: {ACCESS_KEY}\ns3-secret-key: {secret}\n",
        bucket.address
    );
    std::fs::write(&path, text).expect("write the configuration");
    path.display().to_string()
}

fn snapshot(server: &Server, config: &str, arguments: &[&str]) -> Command {
    let mut command = server.snapshot(&["--config", config]);
    command.args(arguments);
    command
}

fn list(server: &Server, config: &str) -> Vec<Value> {
    let text = ok(&mut snapshot(server, config, &["ls", "-o=json"]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn names(entries: &[Value], place: &str) -> Vec<String> {
    let there = entries.iter().filter(|entry| entry["location"].as_str().is_some_and(|text| text.starts_with(place)));
    there.map(|entry| entry["name"].as_str().expect("an entry has a name").to_owned()).collect()
}

#[test]
fn snapshots_go_to_the_bucket_and_come_back_to_a_box_that_has_none() {
    let name = "snapshots_go_to_the_bucket_and_come_back_to_a_box_that_has_none";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::start(&["--disable-agent", "--snapshot-interval=0"]);
    let bucket = Bucket::serve(cluster.server.host.listen());
    let server = &cluster.server;
    let config = configure(server, &bucket, SECRET_KEY);
    cluster.kubectl(|kubectl| kubectl.ok(&["create", "configmap", "kept"]));
    for _ in 0..2 {
        let told = ok(&mut snapshot(server, &config, &["save"]));
        assert!(told.ends_with("uploaded\n"), "{told}");
    }
    let lost = bucket.object(&format!("{FOLDER}/photo"));
    std::fs::write(&lost, "jpeg").expect("put a foreign object there");
    let entries = list(server, &config);
    let (here, there) = (names(&entries, "/"), names(&entries, "s3://"));
    assert_eq!((here.len(), there.len()), (2, 3), "{entries:?}");
    assert!(here.iter().all(|name| there.contains(name)));
    let remote = |name: &str| {
        let found = entries.iter().find(|entry| entry["location"] == format!("s3://{BUCKET}/{FOLDER}/{name}"));
        found.unwrap_or_else(|| panic!("no {name} in {entries:?}"))
    };
    assert!(remote(&here[0])["revision"].as_u64().is_some_and(|revision| revision > 0));
    assert!(remote("photo")["error"].as_str().is_some_and(|error| error.contains("not a snapshot of rk")));

    let pruned = ok(&mut snapshot(server, &config, &["prune", "--keep=1"]));
    assert_eq!(pruned, format!("removed {0}\nremoved {0} from the bucket\n", here[1]));
    assert!(lost.exists() && !bucket.object(&format!("{FOLDER}/{}", here[1])).exists());

    let token = std::fs::read_to_string(server.data_dir().join("server/token")).expect("read the token");
    cluster.server.stop(Signal::SIGKILL);
    let new = cluster.server.folder.join("new-box");
    let mut restore = cluster.server.rk(&["snapshot", "--node-name=server", "--config", &config, "--data-dir"]);
    let place = format!("s3://{BUCKET}/{FOLDER}/{}", here[0]);
    restore.arg(&new).args(["restore", &place, "--token", token.trim()]);
    ok(&mut restore);
    let left: Vec<_> = std::fs::read_dir(new.join("server/snapshots")).expect("read the folder").collect();
    assert!(left.is_empty(), "the download goes when it is done: {left:?}");
    cluster.server.set_flag(&format!("--data-dir={}", new.display()));
    cluster.server.start();
    cluster.api_answers();
    cluster.kubectl(|kubectl| kubectl.ok(&["get", "configmap", "kept"]));

    // By its name alone, and once more: it is of the same cluster still.
    cluster.server.stop(Signal::SIGTERM);
    let mut again = cluster.server.rk(&["snapshot", "--node-name=server", "--config", &config, "--data-dir"]);
    ok(again.arg(&new).args(["restore", &here[0]]));
    ok(&mut snapshot(&cluster.server, &config, &["delete", &here[0]]));
    assert!(!bucket.object(&format!("{FOLDER}/{}", here[0])).exists());
}

#[test]
fn the_schedule_fills_the_bucket_and_says_so_when_it_cannot() {
    let name = "the_schedule_fills_the_bucket_and_says_so_when_it_cannot";
    if !need::met(name, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&["--snapshot-interval=1s", "--snapshot-retention=1"]);
    let bucket = Bucket::serve(cluster.server.host.listen());
    let wrong = configure(&cluster.server, &bucket, "another-secret-key");
    cluster.server.set_flag(&format!("--config={wrong}"));
    cluster.server.start();
    cluster.api_answers();
    let log = cluster.server.folder.join("rk.log");
    let complaint = rk_tests::until("the refusal is logged", SOON, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("did not get into the bucket")).map(str::to_owned);
        line.ok_or(text)
    });
    assert!(complaint.contains("SignatureDoesNotMatch") && complaint.contains("is kept here"), "{complaint}");
    let refused = output(&mut snapshot(&cluster.server, &wrong, &["save"]), None).expect("run rk");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("but not in the bucket"), "{told}");
    let entries: Vec<Value> =
        serde_json::from_str(&ok(&mut cluster.server.snapshot(&["ls", "-o=json"]))).expect("JSON");
    assert!(!entries.is_empty(), "what could not be uploaded is kept");

    cluster.server.stop(Signal::SIGTERM);
    let config = configure(&cluster.server, &bucket, SECRET_KEY);
    cluster.server.start();
    cluster.api_answers();
    let mut last = None;
    for number in 0..2 {
        cluster.kubectl(|kubectl| kubectl.ok(&["create", "configmap", &format!("change-{number}")]));
        let next = rk_tests::until("the newest one alone is in the bucket", SOON, || {
            let there = names(&list(&cluster.server, &config), "s3://");
            if there.len() == 1 && Some(&there[0]) != last.as_ref() {
                Ok(there[0].clone())
            } else {
                Err(format!("{there:?}"))
            }
        });
        last = Some(next);
    }
    let log = cluster.server.log();
    assert!(!log.contains(SECRET_KEY) && !log.contains("another-secret-key") && !log.contains("X-Amz-"), "{log}");
}
