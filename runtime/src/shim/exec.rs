//! A further process in a running container, made by a forked child of the shim: join the container's cgroup and
//! namespaces, fork once more into its process namespace, become the wanted user, and launch as the container's first
//! process did, seccomp included.

use super::executor::Launcher;
use super::job::Made;
use super::rootfs;
use super::streams::ChildEnds;
use crate::bundle::{self, ProcessPlan, user};
use crate::cgroup::Cgroups;
use crate::protocol::{Failure, FailureKind};
use crate::records::{self, ContainerDir, ContainerRecord};
use crate::seccomp;
use crate::spec::ExecSpec;
use crate::sys;
use crate::sys::process::{self, Fork};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Pid, Uid};
use std::fmt::Display;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

pub(super) struct Plan<'a> {
    pub dir: ContainerDir,
    pub cgroups: &'a Cgroups,
    pub init: i32,
    pub spec: &'a ExecSpec,
    pub ends: ChildEnds,
    pub status: RawFd,
}

fn cannot<E: Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(FailureKind::CannotRun, format!("{what}: {error}"))
}

pub(super) fn run(plan: Plan<'_>) -> Result<Made, Failure> {
    let record: ContainerRecord = records::read(&plan.dir.record()).map_err(cannot("container record"))?;
    let init: ProcessPlan = records::read(&plan.dir.plan()).map_err(cannot("process record"))?;
    // The profile's file is the host's; once inside the container it is out of sight.
    let filters = seccomp::compile(&init.seccomp, init.capabilities).map_err(cannot("seccomp profile"))?;
    let pidfd = process::pidfd_open(Pid::from_raw(plan.init)).map_err(cannot("container process"))?;
    process::set_undumpable().map_err(cannot("dumpable"))?;
    plan.cgroups.join(&record.cgroup_path).map_err(cannot("joining the cgroup"))?;
    if let Some(score) = init.oom_score_adj
        && let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        eprintln!("oom_score_adj {score} is refused: {error}");
    }
    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    namespaces.set(CloneFlags::CLONE_NEWCGROUP, matches!(plan.cgroups, Cgroups::V2(_)));
    process::join_namespaces(&pidfd, namespaces).map_err(cannot("joining the container"))?;
    drop(pidfd);
    let process = adapt(init, plan.spec, &record)?;
    let terminal = if plan.spec.tty { Some(sys::tty::open_pair().map_err(cannot("terminal"))?) } else { None };
    let (master, slave) = terminal.map_or((None, None), |(master, slave)| (Some(master), Some(slave)));
    let launcher = Launcher::new(process.clone(), filters, plan.status);
    launcher.find_program().map_err(|error| Failure::new(FailureKind::CannotRun, error.to_string()))?;
    // The shim shall be the parent, to learn of the end.
    match process::fork_with(CloneFlags::CLONE_PARENT).map_err(cannot("fork"))? {
        Fork::Parent(pid) => Ok(Made { pid: pid.as_raw(), master }),
        Fork::Child => {
            drop(master);
            match become_process(&process, plan.ends, slave) {
                Ok(()) => match launcher.launch() {
                    Ok(never) => match never {},
                    Err(error) => launcher.report_text(&error.to_string()),
                },
                Err(failure) => launcher.report_text(&failure.message),
            }
            process::exit_now(127)
        }
    }
}

/// The container's own plan with what the exec asks for instead.
fn adapt(mut plan: ProcessPlan, spec: &ExecSpec, record: &ContainerRecord) -> Result<ProcessPlan, Failure> {
    if spec.args.is_empty() {
        return Err(Failure::new(FailureKind::CannotRun, "no command specified"));
    }
    plan.args.clone_from(&spec.args);
    if spec.tty {
        bundle::overlay(&mut plan.env, "TERM=xterm");
    }
    for variable in &spec.env {
        bundle::overlay(&mut plan.env, variable);
    }
    if let Some(cwd) = &spec.cwd {
        plan.cwd.clone_from(cwd);
    }
    if let Some(wanted) = &spec.user {
        let root = Path::new("/");
        let passwd = rootfs::read_text(root, "/etc/passwd").map_err(cannot("/etc/passwd"))?;
        let group = rootfs::read_text(root, "/etc/group").map_err(cannot("/etc/group"))?;
        plan.user = user::resolve(wanted, &record.image.user, &passwd, &group).map_err(cannot("user"))?;
        bundle::overlay(&mut plan.env, &format!("HOME={}", plan.user.home));
    }
    Ok(plan)
}

fn become_process(plan: &ProcessPlan, ends: ChildEnds, slave: Option<OwnedFd>) -> Result<(), Failure> {
    nix::unistd::setsid().map_err(cannot("setsid"))?;
    match slave {
        Some(slave) => {
            sys::tty::take_control(&slave).map_err(cannot("controlling terminal"))?;
            for target in 0..3 {
                nix::unistd::dup2(slave.as_raw_fd(), target).map_err(cannot("terminal"))?;
            }
            nix::unistd::fchown(0, Some(Uid::from_raw(plan.user.uid)), None).map_err(cannot("terminal owner"))?;
        }
        None => connect_pipes(&ends)?,
    }
    process::cloexec_from(3).map_err(cannot("open files"))?;
    for limit in &plan.rlimits {
        set_rlimit(limit)?;
    }
    nix::unistd::chdir(plan.cwd.as_str()).map_err(|errno| {
        Failure::new(FailureKind::CannotRun, format!("chdir to cwd ({:?}) set in exec: {}", plan.cwd, errno.desc()))
    })?;
    if plan.no_new_privs {
        process::set_no_new_privs().map_err(cannot("no_new_privs"))?;
    }
    let groups: Vec<Gid> = plan.user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(plan.user.uid), Gid::from_raw(plan.user.gid));
    sys::caps::keep_on_setuid(true).map_err(cannot("capabilities"))?;
    nix::unistd::setgroups(&groups).map_err(cannot("setgroups"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(cannot("setgid"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(cannot("setuid"))?;
    sys::caps::keep_on_setuid(false).map_err(cannot("capabilities"))?;
    // The change of user has emptied the effective set; the launcher still needs all of it.
    let all = sys::caps::permitted().map_err(cannot("capabilities"))?;
    sys::caps::set(all, all, 0).map_err(cannot("capabilities"))
}

fn connect_pipes(ends: &ChildEnds) -> Result<(), Failure> {
    let null;
    let stdin = match &ends.stdin {
        Some(stdin) => stdin.as_raw_fd(),
        None => {
            null = fs::File::open("/dev/null").map_err(cannot("/dev/null"))?;
            null.as_raw_fd()
        }
    };
    nix::unistd::dup2(stdin, 0).map_err(cannot("standard input"))?;
    for (end, target) in [(&ends.stdout, 1), (&ends.stderr, 2)] {
        if let Some(end) = end {
            nix::unistd::dup2(end.as_raw_fd(), target).map_err(cannot("standard output"))?;
        }
    }
    Ok(())
}

fn set_rlimit(limit: &crate::spec::Rlimit) -> Result<(), Failure> {
    use nix::sys::resource::{Resource, setrlimit};
    let resource = match limit.kind.as_str() {
        "RLIMIT_AS" => Resource::RLIMIT_AS,
        "RLIMIT_CORE" => Resource::RLIMIT_CORE,
        "RLIMIT_CPU" => Resource::RLIMIT_CPU,
        "RLIMIT_DATA" => Resource::RLIMIT_DATA,
        "RLIMIT_FSIZE" => Resource::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => Resource::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => Resource::RLIMIT_NICE,
        "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
        "RLIMIT_RSS" => Resource::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => Resource::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => Resource::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => Resource::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => Resource::RLIMIT_STACK,
        other => return Err(Failure::new(FailureKind::CannotRun, format!("rlimit {other:?} is unknown"))),
    };
    setrlimit(resource, limit.soft, limit.hard).map_err(cannot("rlimit"))
}
