//! Images: archives in and out by `rk images`, and pulls from registries on loopback.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a broken expectation ends the test that has it")]

use rk_tests::image::Image;
use rk_tests::need::{self, Need};
use rk_tests::process::{check, output};
use rk_tests::site::Site;
use rk_tests::{Cluster, one_at_a_time};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const BASIC: &str = "dXNlcjpwYXNz";

/// `rk images …` for the server's folders, run on its host.
fn images(cluster: &Cluster, arguments: &[&str]) -> Command {
    let folder = &cluster.server.folder;
    let mut command = cluster.server.rk(&["images"]);
    command.args(arguments).arg("--data-dir").arg(cluster.server.data_dir());
    command.arg("--state-dir").arg(folder.join("run")).arg("--registries").arg(folder.join("registries.yaml"));
    command
}

fn ok(cluster: &Cluster, arguments: &[&str]) -> String {
    check(&mut images(cluster, arguments), None).unwrap_or_else(|error| panic!("{error:#}"))
}

fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = output(&mut images(cluster, arguments), None).expect("run rk");
    assert!(!output.status.success(), "rk images {arguments:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(folder: &Path, name: &str, content: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, content).expect("write a file");
    path.display().to_string()
}

fn compressed(program: &str, path: &str) -> String {
    check(Command::new(program).args(["-kqf", path]), None).unwrap_or_else(|error| panic!("{error:#}"));
    let suffix = if program == "zstd" { "zst" } else { "gz" };
    PathBuf::from(format!("{path}.{suffix}")).display().to_string()
}

/// Imports every format, lists, removes, and shows what a broken archive is answered.
fn archives_come_and_go(cluster: &Cluster) {
    let folder = tempfile::tempdir().expect("make a folder");
    let image = Image::busybox();
    let plain = write(folder.path(), "docker.tar", &image.docker_archive("rk.local/docker:1"));
    let oci = write(folder.path(), "oci.tar", &image.oci_archive("rk.local/oci:1"));
    let packed = write(folder.path(), "gzip.tar", &image.docker_archive("rk.local/gzip:1"));
    let dense = write(folder.path(), "zstd.tar", &image.oci_archive("rk.local/zstd:1"));
    for (file, name) in [
        (plain.clone(), "rk.local/docker:1"),
        (oci, "rk.local/oci:1"),
        (compressed("gzip", &packed), "rk.local/gzip:1"),
        (compressed("zstd", &dense), "rk.local/zstd:1"),
    ] {
        assert_eq!(ok(cluster, &["import", &file]), format!("{name}\n"), "{file}");
        let listed = ok(cluster, &["ls"]);
        assert!(listed.lines().any(|line| line.starts_with(&format!("{name} "))), "{listed}");
    }
    let piped = write(folder.path(), "stdin.tar", &image.docker_archive("rk.local/stdin:1"));
    let mut import = images(cluster, &["import", "-"]);
    import.stdin(Stdio::from(fs::File::open(piped).expect("open the archive")));
    let output = import.output().expect("run rk");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "rk.local/stdin:1\n", "{output:?}");

    assert_eq!(
        ok(cluster, &["rm", "rk.local/oci:1", "rk.local/gzip:1"]),
        "removed rk.local/oci:1\nremoved rk.local/gzip:1\n"
    );
    let listed = ok(cluster, &["ls"]);
    assert!(!listed.contains("rk.local/oci:1") && listed.contains("rk.local/zstd:1"), "{listed}");
    let error = refused(cluster, &["rm", "rk.local/oci:1"]);
    assert!(error.contains("rk.local/oci:1"), "{error}");

    let whole = fs::read(&plain).expect("read the archive");
    let torn = write(folder.path(), "torn.tar", &whole[..whole.len() / 2]);
    let noise = write(folder.path(), "noise.tar", &[7; 4096]);
    let page = write(folder.path(), "page.tar", b"404 page not found\n");
    let empty = write(folder.path(), "empty.tar", b"");
    // More than a socket holds: the answer comes through all the same.
    let large = write(folder.path(), "large.tar", &[8; 4 << 20]);
    for (file, words) in [
        (torn, "broken archive: entry"),
        (noise, "not an image archive but binary data beginning 07 07"),
        (page, "not an image archive but text beginning \"404 page not found\""),
        (empty, "not an image archive but empty"),
        (large, "not an image archive but binary data beginning 08 08"),
        (folder.path().join("absent.tar").display().to_string(), "No such file"),
    ] {
        let error = refused(cluster, &["import", &file]);
        assert!(error.contains(&file) && error.contains(words), "{error}");
    }
}

#[test]
fn archives_are_imported_with_the_server_stopped_and_running() {
    let needs = [need::CLUSTER, &[Need::Program("gzip"), Need::Program("zstd")]].concat();
    if !need::met("archives_are_imported_with_the_server_stopped_and_running", &needs) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]);
    archives_come_and_go(&cluster);
    let site = Site::start(cluster.server.host.listen(), Image::busybox().pages("team/busybox", "1"));
    let name = format!("{}/team/busybox:1", site.address);
    ok(&cluster, &["pull", &name]);
    assert!(ok(&cluster, &["ls"]).contains(&name));
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    assert!(ok(&cluster, &["ls"]).contains(&name), "the server has the same store");
    ok(&cluster, &["rm", &name]);
    ok(&cluster, &["pull", &name]);
    archives_come_and_go(&cluster);
}

fn pod(name: &str, image: &str, policy: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - name: main\n    image: {image}\n    imagePullPolicy: {policy}\n    command: [sleep, '1000']\n{more}"
    )
}

#[test]
fn pods_pull_by_policy_and_with_their_secrets() {
    if !need::met("pods_pull_by_policy_and_with_their_secrets", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]);
    cluster.server.start();
    cluster.api_answers();
    cluster.node_ready("server");
    let image = Image::busybox();
    let open = Site::start(cluster.server.host.listen(), image.pages("team/busybox", "1"));
    let mut pages = image.pages("team/secret", "1");
    pages.basic = Some(BASIC.to_owned());
    let guarded = Site::start(cluster.server.host.listen(), pages);
    let public = format!("{}/team/busybox:1", open.address);
    let private = format!("{}/team/secret:1", guarded.address);
    let manifests = |site: &Site| site.asked().iter().filter(|asked| asked.contains("/manifests/")).count();
    cluster.kubectl(|kubectl| {
        let apply = |manifest: &str| kubectl.ok_with(&["apply", "-f", "-"], manifest);
        let ready =
            |name: &str| kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        apply(&pod("never", &public, "Never", ""));
        kubectl.until(SOON, &["get", "pod", "never", "--no-headers"], |text| text.contains("ErrImageNeverPull"));
        assert_eq!(manifests(&open), 0, "Never asks no registry");
        apply(&pod("first", &public, "IfNotPresent", ""));
        ready("first");
        let asked = manifests(&open);
        assert!(asked > 0);
        apply(&pod("second", &public, "IfNotPresent", ""));
        ready("second");
        assert_eq!(manifests(&open), asked, "an image that is here is not asked for");
        apply(&pod("third", &public, "Always", ""));
        ready("third");
        assert!(manifests(&open) > asked, "Always asks again");
        let events = kubectl.ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}"]);
        assert!(events.contains(&format!("Successfully pulled image \"{public}\" in ")), "{events}");
        assert!(events.contains(&format!("Container image \"{public}\" already present on machine")), "{events}");

        let unknown = format!("{}/team/nothing:1", open.address);
        apply(&pod("unknown", &unknown, "IfNotPresent", ""));
        kubectl.until(SOON, &["get", "pod", "unknown", "--no-headers"], |text| text.contains("ImagePullBackOff"));
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
        let message = kubectl.ok(&["get", "pod", "unknown", "-o", path]);
        assert!(message.starts_with(&format!("Back-off pulling image \"{unknown}\": ErrImagePull: ")), "{message}");
        assert!(message.contains("not found"), "{message}");

        let secret =
            ["create", "secret", "docker-registry", "pull", "--docker-username=user", "--docker-password=pass"];
        kubectl.ok(&[&secret[..], &[&format!("--docker-server={}", guarded.address)]].concat());
        apply(&pod("locked-out", &private, "IfNotPresent", ""));
        kubectl.until(SOON, &["get", "pod", "locked-out", "--no-headers"], |text| text.contains("ImagePullBackOff"));
        apply(&pod("let-in", &private, "IfNotPresent", "  imagePullSecrets: [{name: pull}]\n"));
        ready("let-in");
        // Both are names of one image, which all these pods use.
        ok(&cluster, &["rm", &public]);
        let refusal = refused(&cluster, &["rm", &private]);
        assert!(refusal.contains("default/first (main)") && refusal.contains("--force"), "{refusal}");
        assert!(ok(&cluster, &["ls"]).contains(&private));
        let forced = ok(&cluster, &["rm", "--force", &private]);
        assert!(forced.contains("its layers stay for default/first (main)"), "{forced}");
        assert!(!ok(&cluster, &["ls"]).contains("team/"), "both names are gone");
        let said = kubectl.ok(&["exec", "first", "--", "busybox", "echo", "alive"]);
        assert_eq!(said, "alive\n", "the layers of a removed image stay while a container has them");
    });
}
