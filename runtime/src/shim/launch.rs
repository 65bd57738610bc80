//! From the runtime's spawn to a shim that serves: detach, seal the executable, make the pod's namespaces, open the
//! socket, and only then report readiness on standard output; then enter the shim cgroup, and serve.

use super::server::Server;
use crate::cgroup::Cgroups;
use crate::records::{self, PodDir, PodRecord};
use crate::spec::PodSpec;
use crate::sys;
use crate::sys::process::Fork;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Second argument of the second execution, from the sealed view.
pub(super) const SEALED: &str = "--sealed";
/// What the runtime reads when all is well.
pub(crate) const READY: &str = "ready";
/// Line of the shim's log that parts what was noted on the way from what happens to a shim that serves.
pub(crate) const SERVING: &str = "serving";
const DEFAULT_SHM: u64 = 64 << 20;

/// First execution, as the runtime's child.
pub(super) fn from_runtime(folder: &Path) -> i32 {
    sys::process::reset_signals();
    if let (Err(error), _) =
        (std::env::set_current_dir("/"), nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022)))
    {
        return fail(&format!("cannot enter /: {error}"));
    }
    if let Err(error) = sys::process::close_from(3) {
        return fail(&format!("cannot close inherited files: {error}"));
    }
    let Ok(folder_arg) = CString::new(folder.as_os_str().as_bytes()) else { return fail("bad folder") };
    let error = sys::exe::reexec_sealed(&[c"rk".into(), c"shim".into(), folder_arg, c"--sealed".into()]);
    // Kernels before 5.12 cannot; the shim is as good, only its executable less well guarded.
    eprintln!("executable not sealed: {error}");
    sealed(folder)
}

fn fail(message: &str) -> i32 {
    if report(message).is_err() {
        eprintln!("{message}");
    }
    1
}

fn report(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush())
}

/// Second execution: detaches and becomes the shim.
pub(super) fn sealed(folder: &Path) -> i32 {
    match sys::process::fork() {
        Ok(Fork::Parent(_)) => 0,
        Ok(Fork::Child) => match become_shim(&PodDir::new(folder)) {
            Ok(server) => serve(server),
            Err(message) => fail(&message),
        },
        Err(error) => fail(&format!("cannot fork: {error}")),
    }
}

fn serve(mut server: Server) -> i32 {
    // The runtime that asked is gone. The next one takes a pod whose shim it did not reach for dead, and makes another.
    if let Err(error) = report(READY) {
        return fail(&format!("nobody waits for this shim: {error}"));
    }
    if let Err(error) = silence_stdout() {
        eprintln!("standard output stays open: {error}");
    }
    eprintln!("{SERVING}");
    // Late, because the kernel takes its time to move a process: meanwhile the runtime connects the pod's network.
    let moved = server.cgroups.join(&server.record.shim_cgroup);
    match moved.and_then(|()| server.run()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shim ends: {error}");
            1
        }
    }
}

fn silence_stdout() -> io::Result<()> {
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), 1)?;
    Ok(())
}

fn become_shim(dir: &PodDir) -> Result<Server, String> {
    let context = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    nix::unistd::setsid().map_err(|e| format!("setsid: {e}"))?;
    sys::process::set_name(c"rk-shim");
    sys::process::become_subreaper().map_err(context("subreaper"))?;
    let record: PodRecord = records::read(&dir.record()).map_err(context("pod record"))?;
    let cgroups = Cgroups::detect().map_err(context("cgroups"))?;
    protect_from_oom();
    enter_namespaces(&record).map_err(context("pod namespaces"))?;
    set_sysctls(&record.spec)?;
    mount_shm(dir, &record.spec).map_err(context("mounting /dev/shm"))?;
    let pid_holder = if record.spec.share_process_namespace && !record.spec.host_pid {
        Some(hold_pid_namespace().map_err(context("shared process namespace"))?)
    } else {
        None
    };
    let listener = listen(dir, &record).map_err(context("socket"))?;
    Server::new(dir.clone(), record, cgroups, listener, pid_holder).map_err(context("signals"))
}

/// Opens the socket in place of a former one, unless the pod has been made anew since this shim was started for it.
fn listen(dir: &PodDir, record: &PodRecord) -> io::Result<UnixListener> {
    let current: PodRecord = records::read(&dir.record())?;
    if current.created_at != record.created_at {
        return Err(io::Error::other("the pod has another shim by now"));
    }
    match fs::remove_file(dir.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sys::fd::bind_in(dir.path(), PodDir::SOCKET),
    }
}

/// Containers set their own value; without CAP_SYS_RESOURCE the shim stays as killable as its parent.
fn protect_from_oom() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-998") {
        eprintln!("oom_score_adj stays as it is: {error}");
    }
}

fn enter_namespaces(record: &PodRecord) -> io::Result<()> {
    let spec = &record.spec;
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS, !spec.host_network);
    flags.set(CloneFlags::CLONE_NEWIPC, !spec.host_ipc);
    unshare(flags)?;
    if spec.host_network {
        return Ok(());
    }
    if !spec.hostname.is_empty() {
        nix::unistd::sethostname(&spec.hostname)?;
    }
    sys::net::loopback_up()?;
    if let Some(path) = &record.netns {
        fs::write(path, "")?;
        let none: Option<&str> = None;
        mount(Some("/proc/self/ns/net"), path.as_path(), none, MsFlags::MS_BIND, none)?;
    }
    Ok(())
}

fn set_sysctls(spec: &PodSpec) -> Result<(), String> {
    for (name, value) in &spec.sysctls {
        if name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
            return Err(format!("sysctl {name:?} is malformed"));
        }
        // A slash in the name stands for a dot in a path component (net/ipv4/conf/eth0.1).
        let path: String = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        fs::write(Path::new("/proc/sys").join(path), value).map_err(|e| format!("sysctl {name}={value}: {e}"))?;
    }
    Ok(())
}

fn mount_shm(dir: &PodDir, spec: &PodSpec) -> io::Result<()> {
    fs::create_dir_all(dir.shm())?;
    let none: Option<&str> = None;
    if spec.host_ipc {
        mount(Some("/dev/shm"), &dir.shm(), none, MsFlags::MS_BIND, none)?;
        return Ok(());
    }
    let size = if spec.shm_size == 0 { DEFAULT_SHM } else { spec.shm_size };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), &dir.shm(), Some("tmpfs"), flags, Some(format!("mode=1777,size={size}").as_str()))?;
    Ok(())
}

/// A process that is number 1 of a new process namespace, reaps in it, and does nothing else.
fn hold_pid_namespace() -> io::Result<nix::unistd::Pid> {
    match sys::process::fork_with(CloneFlags::CLONE_NEWPID)? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => hold(),
    }
}

fn hold() -> ! {
    use nix::sys::signal::{SigSet, Signal};
    sys::process::set_name(c"rk-pause");
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    let blocked = signals.thread_block();
    let bound = sys::process::die_with_parent();
    if bound.is_err() || blocked.is_err() || sys::process::close_from(0).is_err() {
        sys::process::exit_now(1);
    }
    loop {
        use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
        if signals.wait().is_err() {
            sys::process::exit_now(1);
        }
    }
}
