//! Services of many kinds: over TLS with an authority of their own, with the bucket in the host's name, with files that go
//! up in parts; services that fail for a while, and those that refuse.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a test that cannot go on fails")]

use base64::Engine;
use hyper::{Method, StatusCode};
use nix::sys::signal::Signal;
use rk_s3_tests::{ACCESS_KEY, BUCKET, Bucket, Fault, How, SECRET_KEY};
use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::{Cluster, one_at_a_time};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const NEEDS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
/// The smallest that services take.
const PART: u64 = 5 << 20;

/// Other settings, and words of the refusal.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

/// A stopped server, whose snapshots are taken of the folder at rest.
struct Site {
    cluster: Cluster,
}

impl Site {
    /// With so many Secrets that nothing makes smaller.
    fn with_secrets(count: usize) -> Self {
        let mut cluster = Cluster::start(&["--disable-agent", "--snapshot-interval=0"]);
        for number in 0..count {
            let noise: Vec<u8> = (0..900_000).map(|_| rand::random()).collect();
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("noise-{number}")},
                "data": {"noise": base64::engine::general_purpose::STANDARD.encode(noise)}});
            let file = cluster.server.folder.join("secret.json");
            std::fs::write(&file, secret.to_string()).expect("write a Secret");
            cluster.kubectl(|kubectl| kubectl.ok(&["create", "-f", file.to_str().expect("a plain path")]));
        }
        cluster.server.stop(Signal::SIGTERM);
        Self { cluster }
    }

    fn bucket(&self) -> Bucket {
        Bucket::serve_tls(self.cluster.server.host.listen())
    }

    /// An `rk snapshot` command with the bucket's settings, some of them others.
    fn snapshot(&self, bucket: &Bucket, other: &[(&str, &str)], arguments: &[&str]) -> Command {
        let folder = &self.cluster.server.folder;
        let authority = folder.join("authority.crt");
        std::fs::write(&authority, bucket.authority_pem.as_deref().expect("the service speaks TLS")).expect("write");
        let (endpoint, authority) = (bucket.address.to_string(), authority.display().to_string());
        let mut settings = vec![
            ("s3", "true"),
            ("s3-endpoint", endpoint.as_str()),
            ("s3-endpoint-ca", authority.as_str()),
            ("s3-bucket", BUCKET),
            ("s3-folder", "lab"),
            ("s3-access-key", ACCESS_KEY),
            ("s3-secret-key", SECRET_KEY),
            ("s3-part-size", "5Mi"),
        ];
        settings.retain(|(name, _)| other.iter().all(|(changed, _)| changed != name));
        settings.extend(other.iter().filter(|(_, value)| !value.is_empty()));
        let text: String = settings.iter().map(|(name, value)| format!("{name}: \"{value}\"\n")).collect();
        let config = folder.join("s3.yaml");
        std::fs::write(&config, text).expect("write the configuration");
        let mut command = self.cluster.server.snapshot(&["--config", config.to_str().expect("a plain path")]);
        command.args(arguments);
        command
    }

    fn ok(&self, bucket: &Bucket, other: &[(&str, &str)], arguments: &[&str]) -> String {
        check(&mut self.snapshot(bucket, other, arguments), None).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What is said on standard error by a command that must fail.
    fn refusal(&self, bucket: &Bucket, other: &[(&str, &str)], arguments: &[&str]) -> String {
        let output = output(&mut self.snapshot(bucket, other, arguments), None).expect("run rk");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{told}");
        assert!(!told.contains(SECRET_KEY) && !told.contains("X-Amz-"), "{told}");
        told
    }

    /// The one snapshot on this machine whose name begins so.
    fn file(&self, base: &str) -> PathBuf {
        let folder = self.cluster.server.data_dir().join("server/snapshots");
        let entries = std::fs::read_dir(&folder).expect("read the folder of snapshots");
        let found = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found = found.filter(|path| name(path).starts_with(base));
        found.next().unwrap_or_else(|| panic!("no {base} in {}", folder.display()))
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Requests of a method whose URI holds a text, of those since the last look.
fn count(seen: &[rk_s3_tests::Seen], method: &Method, uri_holds: &str) -> usize {
    seen.iter().filter(|one| one.method == *method && one.uri.contains(uri_holds)).count()
}

#[test]
fn a_large_snapshot_goes_up_in_parts_over_tls_and_comes_back() {
    let test = "a_large_snapshot_goes_up_in_parts_over_tls_and_comes_back";
    if !need::met(test, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let site = Site::with_secrets(14);
    let bucket = site.bucket();

    let told = site.ok(&bucket, &[], &["save", "--name=whole"]);
    assert!(told.ends_with("uploaded\n"), "{told}");
    let file = site.file("whole");
    let size = file.metadata().expect("look at the snapshot").len();
    let parts = usize::try_from(size.div_ceil(PART)).expect("few parts");
    assert!(parts >= 2, "only {size} bytes");
    let seen = bucket.seen();
    assert_eq!(count(&seen, &Method::PUT, "partNumber="), parts, "{seen:?}");
    assert_eq!((count(&seen, &Method::POST, "uploads"), count(&seen, &Method::POST, "uploadId=")), (1, 1), "{seen:?}");
    let object = format!("lab/{}", name(&file));
    assert!(std::fs::read(bucket.object(&object)).expect("read the object") == std::fs::read(&file).expect("read"));
    assert_eq!(bucket.parts(), Vec::<String>::new());

    // Trouble that passes costs further tries, of that part alone.
    let busy = How::Refuse(StatusCode::SERVICE_UNAVAILABLE);
    bucket.fail(Fault { method: Method::POST, uri_holds: "uploads", times: 1, how: How::HangUp });
    bucket.fail(Fault { method: Method::PUT, uri_holds: "partNumber=2", times: 2, how: busy });
    bucket.fail(Fault { method: Method::POST, uri_holds: "uploadId=", times: 1, how: busy });
    site.ok(&bucket, &[], &["save", "--name=patient"]);
    let seen = bucket.seen();
    assert_eq!(count(&seen, &Method::PUT, "partNumber=1"), 1, "{seen:?}");
    assert_eq!(count(&seen, &Method::PUT, "partNumber=2"), 3, "{seen:?}");
    let patient = site.file("patient");
    assert!(bucket.object(&format!("lab/{}", name(&patient))).metadata().expect("an object").len() > PART);

    // Trouble that stays ends the upload, and leaves nothing in the bucket that costs money.
    for (how, tries) in [(How::Refuse(StatusCode::INTERNAL_SERVER_ERROR), 5), (How::Refuse(StatusCode::FORBIDDEN), 1)] {
        bucket.fail(Fault { method: Method::PUT, uri_holds: "partNumber=2", times: tries, how });
        let base = format!("given-up-{tries}");
        let told = site.refusal(&bucket, &[], &["save", &format!("--name={base}")]);
        assert!(
            told.contains("is on this box, but not in the bucket") && told.contains("Told: told to fail"),
            "{told}"
        );
        let seen = bucket.seen();
        assert_eq!(count(&seen, &Method::PUT, "partNumber=2"), usize::try_from(tries).expect("few"), "{seen:?}");
        assert_eq!(count(&seen, &Method::DELETE, "uploadId="), 1, "{seen:?}");
        assert_eq!(bucket.parts(), Vec::<String>::new());
        assert!(!bucket.object(&format!("lab/{}", name(&site.file(&base)))).exists());
    }

    // Back again, on a box that has nothing.
    let server = &site.cluster.server;
    let token = std::fs::read_to_string(server.data_dir().join("server/token")).expect("read the token");
    let new = server.folder.join("new-box");
    let place = format!("s3://{BUCKET}/{object}");
    bucket.fail(Fault { method: Method::GET, uri_holds: "whole", times: 1, how: busy });
    let mut restore = site.snapshot(&bucket, &[], &["restore", &place, "--token", token.trim()]);
    check(restore.arg("--data-dir").arg(&new), None).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(new.join("server/db").is_dir());
}

#[test]
fn a_bucket_may_be_a_part_of_the_host_name() {
    let test = "a_bucket_may_be_a_part_of_the_host_name";
    if !need::met(test, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let site = Site::with_secrets(0);
    let bucket = site.bucket();
    let endpoint = format!("localhost:{}", bucket.address.port());
    let by_name = [("s3-endpoint", endpoint.as_str()), ("s3-bucket-lookup", "dns")];
    site.ok(&bucket, &by_name, &["save", "--name=named"]);
    let file = site.file("named");
    let object = bucket.object(&format!("lab/{}", name(&file)));
    assert!(std::fs::read(&object).expect("read the object") == std::fs::read(&file).expect("read"));
    let listed: Vec<Value> = serde_json::from_str(&site.ok(&bucket, &by_name, &["ls", "-o=json"])).expect("JSON");
    let location = format!("s3://{BUCKET}/lab/{}", name(&file));
    let entry = listed.iter().find(|entry| entry["location"] == location.as_str());
    let entry = entry.unwrap_or_else(|| panic!("no {location} in {listed:?}"));
    assert!(entry["revision"].as_u64().is_some_and(|revision| revision > 0), "{entry}");
    site.ok(&bucket, &by_name, &["delete", &name(&file)]);
    assert!(!object.exists());
    let host = format!("{BUCKET}.{endpoint}");
    let seen = bucket.seen();
    assert!(seen.iter().all(|one| one.host == host && !one.uri.starts_with("/backups")), "{seen:?}");
}

#[test]
fn a_service_that_refuses_is_quoted_and_one_that_cannot_be_trusted_is_told_nothing() {
    let test = "a_service_that_refuses_is_quoted_and_one_that_cannot_be_trusted_is_told_nothing";
    if !need::met(test, NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let site = Site::with_secrets(0);
    let bucket = site.bucket();
    let cases: [Case; 4] = [
        (&[("s3-secret-key", "another-key")], &["403", "SignatureDoesNotMatch", "upload to s3://backups/lab/"]),
        (
            &[("s3-access-key", "nobody")], // What this service says of a key that it does not know.
            &["403", "NotSignedUp"],
        ),
        (&[("s3-bucket", "absent")], &["404", "NoSuchBucket", "upload to s3://absent/lab/"]),
        (&[("s3-endpoint-ca", "")], &["certificate is not to be trusted", "--s3-endpoint-ca"]),
    ];
    for (other, words) in cases {
        let told = site.refusal(&bucket, other, &["save", "--name=refused"]);
        assert!(words.iter().all(|word| told.contains(word)), "{other:?}: {told}");
        println!("{other:?}: {told}");
        let seen = bucket.seen();
        let tries = usize::from(!other.iter().any(|(name, _)| *name == "s3-endpoint-ca"));
        assert_eq!(seen.len(), tries, "a refusal is final: {seen:?}");
        let told = site.refusal(&bucket, other, &["ls"]);
        assert!(words[..2].iter().all(|word| told.contains(word)), "{other:?}: {told}");
        bucket.seen();
    }
}
