//! `install.sh` against a release served on loopback, the files it writes, and what its uninstall leaves: nothing.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a broken expectation ends the test that has it")]

use rk_tests::image::digest;
use rk_tests::need::{self, Need};
use rk_tests::process::{Background, check, output};
use rk_tests::site::{Pages, Site};
use rk_tests::{Host, Network, one_at_a_time, until};
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const NEEDS: &[Need] = &[Need::Root, Need::Program("curl"), Need::Program("sha256sum")];
/// Stands for rk where only the installing matters.
const FAKE: &[u8] = b"#!/bin/sh\necho fake rk\n";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../install.sh")
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Folders that stand for those of the machine, and a release.
struct Place {
    folder: TempDir,
    site: Site,
}

impl Place {
    /// A release `v1` and a latest one, of `rk`; `sum` is the digest they claim.
    fn new(rk: &[u8], sum: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("rkinstall").tempdir_in("/tmp").expect("make a folder");
        for name in ["bin", "systemd", "config"] {
            fs::create_dir(folder.path().join(name)).expect("make a folder");
        }
        let mut pages = Pages::default();
        for release in ["/latest/download", "/download/v1"] {
            let sums = format!("{sum}  rk-{}\n", arch());
            pages.add(format!("{release}/sha256sum-{}.txt", arch()), "text/plain", sums);
            pages.add(format!("{release}/rk-{}", arch()), "application/octet-stream", rk);
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        Self { folder, site: Site::start(listener, pages) }
    }

    fn fake() -> Self {
        Self::new(FAKE, &digest(FAKE))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
    }

    /// `cat install.sh | sh -s - arguments`, with `variables` and nothing of this process's own.
    fn command(&self, variables: &[(&str, &str)], arguments: &str) -> Command {
        let mut command = Command::new("sh");
        let script = script();
        command.args(["-c", &format!("cat {} | sh -s - {arguments}", script.display())]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("INSTALL_RK_BASE_URL", format!("http://{}", self.site.address));
        command.env("INSTALL_RK_SKIP_START", "true").env("INSTALL_RK_SKIP_ENABLE", "true");
        command.env("INSTALL_RK_BIN_DIR", self.path("bin")).env("INSTALL_RK_SYSTEMD_DIR", self.path("systemd"));
        command.env("INSTALL_RK_CONFIG_DIR", self.path("config"));
        command.envs(variables.iter().copied());
        command
    }

    fn install(&self, variables: &[(&str, &str)], arguments: &str) -> String {
        check(&mut self.command(variables, arguments), None).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn refused(&self, variables: &[(&str, &str)]) -> String {
        let output = output(&mut self.command(variables, ""), None).expect("run the script");
        assert!(!output.status.success(), "the script succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn the_script_is_clean() {
    if !need::met("the_script_is_clean", &[Need::Program("shellcheck")]) {
        return;
    }
    check(Command::new("shellcheck").arg("--shell=sh").arg(script()), None).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn a_piped_script_installs_the_latest_server() {
    if !need::met("a_piped_script_installs_the_latest_server", NEEDS) {
        return;
    }
    let place = Place::fake();
    place.install(&[("RK_TOKEN", "it's a secret")], "--tls-san=example.org");
    assert_eq!(place.read("bin/rk").as_bytes(), FAKE);
    let unit = place.read("systemd/rk.service");
    let start = format!("ExecStart={} server --tls-san=example.org\n", place.path("bin/rk").display());
    for line in [&start, "Type=notify\n", "KillMode=process\n", "Delegate=yes\n", "Restart=always\n"] {
        assert!(unit.contains(line), "no {line} in {unit}");
    }
    assert!(unit.contains(&format!("EnvironmentFile=-{}\n", place.path("config/rk.env").display())), "{unit}");
    let environment = place.path("config/rk.env");
    let mode = fs::metadata(&environment).expect("there is an environment file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut shell = Command::new("sh");
    shell.args(["-c", ". \"$0\"; printf %s \"$RK_TOKEN\""]).arg(&environment);
    assert_eq!(check(&mut shell, None).expect("read it with sh"), "it's a secret");
    assert!(place.site.asked().iter().all(|asked| asked.starts_with("GET /latest/download/")));
    for name in ["bin/rk-killall.sh", "bin/rk-uninstall.sh"] {
        check(Command::new("sh").arg("-n").arg(place.path(name)), None).expect("a script that sh can read");
    }
}

#[test]
fn a_download_with_another_digest_is_refused_and_nothing_installed() {
    if !need::met("a_download_with_another_digest_is_refused_and_nothing_installed", NEEDS) {
        return;
    }
    let place = Place::new(FAKE, &"0".repeat(64));
    let error = place.refused(&[]);
    assert!(error.contains("sha256") && error.contains("nothing was installed"), "{error}");
    for name in ["bin", "systemd", "config"] {
        assert_eq!(fs::read_dir(place.path(name)).expect("list the folder").count(), 0, "{name} stays empty");
    }
    let error = place.refused(&[("INSTALL_RK_VERSION", "v9")]);
    assert!(error.contains("download failed") && error.contains("/download/v9/"), "{error}");
}

#[test]
fn variables_choose_version_role_and_command() {
    if !need::met("variables_choose_version_role_and_command", NEEDS) {
        return;
    }
    let place = Place::fake();
    place.install(&[("INSTALL_RK_VERSION", "v1"), ("INSTALL_RK_EXEC", "server --disable-agent")], "--node-name=x");
    assert!(place.site.asked().iter().all(|asked| asked.starts_with("GET /download/v1/")));
    assert!(place.read("systemd/rk.service").contains("/rk server --disable-agent --node-name=x\n"));
    let error = place.refused(&[("RK_URL", "https://192.0.2.1:6443")]);
    assert!(error.contains("an agent needs RK_TOKEN"), "{error}");
    let asked = place.site.asked().len();
    let variables = [
        ("RK_URL", "https://192.0.2.1:6443,https://192.0.2.2:6443"),
        ("RK_TOKEN", "t"),
        ("INSTALL_RK_SKIP_DOWNLOAD", "true"),
    ];
    place.install(&variables, "");
    assert_eq!(place.site.asked().len(), asked, "nothing is downloaded");
    assert!(place.read("systemd/rk-agent.service").contains("/rk agent\n"));
    assert!(place.read("config/rk-agent.env").contains("RK_URL='https://192.0.2.1:6443,https://192.0.2.2:6443'"));
    let joining = [("RK_URL", "https://192.0.2.1:6443"), ("INSTALL_RK_SKIP_DOWNLOAD", "true")];
    let error = place.refused(&[&joining[..], &[("INSTALL_RK_EXEC", "server")]].concat());
    assert!(error.contains("a server that joins needs RK_TOKEN"), "{error}");
    place.install(&[&joining[..], &[("RK_TOKEN", "t")]].concat(), "server");
    let unit = place.read("systemd/rk.service");
    assert!(unit.contains("/rk server\n") && unit.contains("RestartPreventExitStatus=78\n"), "{unit}");
    assert!(place.read("config/rk.env").contains("RK_URL='https://192.0.2.1:6443'"));
    place.install(&[("INSTALL_RK_SKIP_DOWNLOAD", "true")], "server --node-name=y");
    assert!(place.read("systemd/rk.service").contains("/rk server --node-name=y\n"), "the role as an argument");
    let error = place.refused(&[("INSTALL_RK_EXEC", "serve")]);
    assert!(error.contains("must begin with server or agent, not 'serve'"), "{error}");
    fs::remove_file(place.path("bin/rk")).expect("remove the executable");
    let error = place.refused(&[("INSTALL_RK_SKIP_DOWNLOAD", "true")]);
    assert!(error.contains("INSTALL_RK_SKIP_DOWNLOAD is set"), "{error}");
}

/// An executable script.
fn script_at(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("make it executable");
}

#[test]
fn openrc_starts_rk_again_until_it_has_ended_for_good() {
    if !need::met("openrc_starts_rk_again_until_it_has_ended_for_good", NEEDS) {
        return;
    }
    let place = Place::fake();
    let folder = place.path("openrc").display().to_string();
    place.install(&[("INSTALL_RK_OPENRC_DIR", &folder), ("INSTALL_RK_SYSTEMD_DIR", "")], "server --node-name=x");
    let service = place.read("openrc/rk");
    let supervised = place.path("bin/rk-supervised.sh");
    let command = format!("command=\"{}\"\n", supervised.display());
    let arguments = format!("command_args=\"rk {} server --node-name=x\"\n", place.path("bin/rk").display());
    for line in
        [&command, &arguments, "supervisor=supervise-daemon\n", "respawn_max=0\n", "retry=\"SIGTERM/60/SIGKILL/5\"\n"]
    {
        assert!(service.contains(line), "no {line} in {service}");
    }
    for script in [&place.path("openrc/rk"), &supervised] {
        check(Command::new("sh").arg("-n").arg(script), None).expect("a script that sh can read");
    }

    // Stands for openrc's: at first the start is not over yet, then it is told.
    let (tried, told) = (place.path("tried"), place.path("told"));
    let fails_once = format!(
        "[ -e {tried} ] || {{ touch {tried}; exit 1; }}\necho \"$*\" >>{told}",
        tried = tried.display(),
        told = told.display()
    );
    script_at(&place.path("bin/rc-service"), &fails_once);
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").expect("there is a PATH"));
    let run = |rk: &str| {
        script_at(&place.path("bin/rk"), rk);
        let mut command = Command::new(&supervised);
        command.arg("rk").arg(place.path("bin/rk")).arg("server").env("PATH", &path);
        Background::start(command, &place.path("rk.log"))
    };
    let ended = |process: &mut Background| {
        until("it ends", Duration::from_secs(60), || process.ended().ok_or("it runs")).code()
    };
    assert_eq!(ended(&mut run("exit 3")), Some(3), "supervise-daemon starts it again");
    assert!(!told.exists());
    let mut last = run("exit 78");
    let stopped = until("openrc is told", Duration::from_secs(60), || fs::read_to_string(&told));
    assert_eq!(stopped, "--quiet rk stop\n");
    assert!(last.ended().is_none(), "it would be started again");
    assert_eq!(last.end(nix::sys::signal::Signal::SIGTERM).code(), Some(78));
    assert!(place.read("rk.log").contains("exit status 78"));
    // Nothing of the script stays behind: whatever it started has its environment.
    let own = format!("PATH={path}");
    until("all of it has ended", Duration::from_secs(60), || {
        let entries = fs::read_dir("/proc").expect("list the processes").flatten();
        let environment = |entry: &fs::DirEntry| fs::read(entry.path().join("environ")).unwrap_or_default();
        let left =
            entries.filter(|entry| environment(entry).split(|byte| *byte == 0).any(|pair| pair == own.as_bytes()));
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });

    let (ready, done) = (place.path("ready"), place.path("done"));
    let tidy = format!(
        "trap 'sleep 1; touch {}; exit 0' TERM\ntouch {}\nwhile :; do sleep 1; done",
        done.display(),
        ready.display()
    );
    let mut orderly = run(&tidy);
    until("rk runs", Duration::from_secs(60), || fs::metadata(&ready));
    assert_eq!(orderly.end(nix::sys::signal::Signal::SIGTERM).code(), Some(0));
    assert!(done.exists(), "rk was told, and waited for");
}

#[test]
fn uninstall_leaves_nothing() {
    let needs = [NEEDS, need::CLUSTER, &[Need::Program("nft")]].concat();
    if !need::met("uninstall_leaves_nothing", &needs) {
        return;
    }
    let _turn = one_at_a_time();
    let mut network = Network::new();
    let host = network.host();
    let place = Place::fake();
    let cgroup = place.folder.path().file_name().expect("a folder has a name").to_string_lossy().into_owned();
    let before = traces(&host, place.folder.path(), &cgroup);
    fs::copy(rk_tests::rk(), place.path("bin/rk")).expect("copy rk");
    let (data, state, log) = (place.path("data"), place.path("run"), place.path("log"));
    let data_flag = format!("--data-dir={}", data.display());
    let variables = [
        ("INSTALL_RK_SKIP_DOWNLOAD", "true"),
        ("INSTALL_RK_EXEC", &format!("server --node-name=box {data_flag}")),
        ("RK_STATE_DIR", &state.display().to_string()),
        ("RK_LOG_DIR", &log.display().to_string()),
        ("RK_CGROUP_ROOT", &format!("/{cgroup}")),
    ];
    place.install(&variables, "");
    fs::create_dir_all(data.join("agent/images")).expect("make the images folder");
    rk_tests::image::busybox(&data.join("agent/images/busybox.tar"), "rk.local/busybox:test");

    let _cleaner = Cleaner { host: &host, data: &data, state: &state, cgroup: &cgroup };
    let mut server = Background::start(service(&host, &place), &place.path("rk.log"));
    let kubectl = |arguments: &[&str], input: Option<&str>| {
        let mut command = host.command("kubectl");
        check(command.arg("--kubeconfig").arg(place.path("config/rk.yaml")).args(arguments), input)
            .map_err(|error| format!("{error:#}"))
    };
    until("the API is ready", Duration::from_secs(60), || kubectl(&["get", "--raw", "/readyz"], None));
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: 'rk.local/busybox:test', imagePullPolicy: Never, command: [sleep, '1000']}]}}";
    until("the pod is made", Duration::from_secs(60), || kubectl(&["apply", "-f", "-"], Some(pod)));
    kubectl(&["wait", "--for=condition=Ready", "pod/p", "--timeout=60s"], None).expect("the pod runs");
    let during = traces(&host, place.folder.path(), &cgroup);
    for kind in ["cgroup ", "file ", "link ", "mount ", "process ", "table "] {
        assert!(during.difference(&before).any(|trace| trace.starts_with(kind)), "a running pod has a {kind}");
    }
    server.end(nix::sys::signal::Signal::SIGTERM);
    fs::remove_file(place.path("rk.log")).expect("remove the test's own log");
    check(&mut host.command(place.path("bin/rk-uninstall.sh")), None).unwrap_or_else(|error| panic!("{error:#}"));
    let mut after = traces(&host, place.folder.path(), &cgroup);
    // The folder for configuration is rk's own in any case.
    fs::create_dir_all(place.path("config")).expect("make the folder again");
    after.insert(format!("file {}", place.path("config").display()));
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "uninstall left {left:#?}");
}

/// Ends what is left when the test fails half-way; after an uninstall it finds nothing.
struct Cleaner<'a> {
    host: &'a Host,
    data: &'a Path,
    state: &'a Path,
    cgroup: &'a str,
}

impl Drop for Cleaner<'_> {
    fn drop(&mut self) {
        if !self.data.exists() {
            return;
        }
        let mut command = self.host.command(rk_tests::rk());
        command.arg("kill-all").arg("--data-dir").arg(self.data).arg("--state-dir").arg(self.state);
        if let Err(error) = check(command.arg(format!("--cgroup-root=/{}", self.cgroup)), None) {
            eprintln!("{error:#}");
        }
    }
}

/// The command that the unit's ExecStart is, with the variables of its EnvironmentFile.
fn service(host: &Host, place: &Place) -> Command {
    let unit = place.read("systemd/rk.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("the unit starts something");
    let mut command = host.command("sh");
    let environment = place.path("config/rk.env");
    command.args(["-c", &format!("set -a; . {}; exec {start}", environment.display())]);
    command
}

/// Whatever rk might leave: files below `folder`, its mounts, processes, cgroups; links, routes, nftables tables of `host`.
fn traces(host: &Host, folder: &Path, cgroup: &str) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    walk(folder, &mut |path| traces.extend([format!("file {}", path.display())]));
    let top = folder.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    traces.extend(mounts.lines().filter(|line| line.contains(&top)).map(|line| format!("mount {line}")));
    // Version 2 has one tree, version 1 a tree for each controller.
    let top_cgroups = fs::read_dir("/sys/fs/cgroup").expect("list the cgroups").flatten().map(|entry| entry.path());
    for tree in
        top_cgroups.chain([PathBuf::from("/sys/fs/cgroup")]).map(|tree| tree.join(cgroup)).filter(|tree| tree.is_dir())
    {
        traces.insert(format!("cgroup {}", tree.display()));
    }
    for entry in fs::read_dir("/proc").expect("list the processes").flatten() {
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains(&top) {
            traces.insert(format!("process {}", command.replace('\0', " ")));
        }
    }
    for (kind, command) in
        [("link", "ip -o link"), ("route", "ip route"), ("rule", "ip rule"), ("table", "nft list tables")]
    {
        let mut words = command.split(' ');
        let mut command = host.command(words.next().expect("a program"));
        let listed = check(command.args(words), None).unwrap_or_else(|error| panic!("{error:#}"));
        // Of a link the name is enough: its counters and states change.
        let short = |line: &str| {
            if kind == "link" { line.split(": ").nth(1).unwrap_or(line).to_owned() } else { line.to_owned() }
        };
        traces.extend(listed.lines().map(|line| format!("{kind} {}", short(line))));
    }
    traces
}

fn walk(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        see(&entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), see);
        }
    }
}

/// No interpreter and no needed library: the ELF headers say whether the executable stands alone.
#[test]
fn the_executable_is_static() {
    let elf = fs::read(rk_tests::rk()).expect("read rk");
    assert_eq!(&elf[..5], b"\x7fELF\x02", "a 64-bit ELF file");
    let number = |at: usize, length: usize| {
        elf[at..at + length].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let place = |at: usize, length: usize| usize::try_from(number(at, length)).expect("offsets fit");
    let (table, entry, count) = (place(32, 8), place(54, 2), place(56, 2));
    assert!(count > 0, "the file has program headers");
    for header in (0..count).map(|index| table + index * entry) {
        let kind = number(header, 4);
        assert_ne!(kind, 3, "PT_INTERP: the executable wants a dynamic loader");
        if kind == 2 {
            let (start, length) = (place(header + 8, 8), place(header + 32, 8));
            let needed = (start..start + length).step_by(16).any(|at| number(at, 8) == 1);
            assert!(!needed, "DT_NEEDED: the executable wants a shared library");
        }
    }
}
