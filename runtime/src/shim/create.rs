//! Making a container, in a forked child of the shim: mount its root, resolve its user, write the bundle, set its
//! limits, and let libcontainer build it up to the point where it waits to be started.

use super::diagnostics::Diagnostics;
use super::executor::Launcher;
use super::job::Made;
use super::rootfs;
use super::streams::ChildEnds;
use crate::bundle::{self, Facts, ProcessPlan, device, user};
use crate::cgroup::Cgroups;
use crate::protocol::{Failure, FailureKind};
use crate::records::{self, ContainerDir, ContainerRecord, PodDir, PodRecord};
use crate::seccomp;
use crate::spec::{ContainerSpec, MountKind};
use crate::sys;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use std::error::Error;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// What a container is made from.
pub(super) struct Plan<'a> {
    pub pod_dir: &'a PodDir,
    pub pod: &'a PodRecord,
    pub dir: ContainerDir,
    pub cgroups: &'a Cgroups,
    pub process_holder: Option<i32>,
    pub ends: ChildEnds,
    pub status: RawFd,
}

/// Text of an error with its causes: libcontainer keeps the telling part in the innermost.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn cannot<E: Error>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(FailureKind::CannotRun, format!("{what}: {}", chain(&error)))
}

pub(super) fn run(plan: Plan<'_>) -> Result<Made, Failure> {
    let record: ContainerRecord = records::read(&plan.dir.record()).map_err(cannot("container record"))?;
    check_sources(&record.spec)?;
    let rootfs = rootfs::mount_overlay(&record).map_err(cannot("mounting the image"))?;
    let facts = gather(&plan, &record, rootfs)?;
    let process = bundle::plan(&plan.pod.spec, &record.spec, &record.image, &facts).map_err(cannot("container"))?;
    rootfs::ensure_folder(&facts.rootfs, &process.cwd).map_err(cannot("working directory"))?;
    write_bundle(&plan, &record, &process, &facts)?;
    limit(&plan, &record, &facts)?;
    build(plan, &record, process)
}

fn check_sources(spec: &ContainerSpec) -> Result<(), Failure> {
    for mount in &spec.mounts {
        if let MountKind::Bind { source, .. } = &mount.kind {
            fs::metadata(source).map_err(|error| {
                let text = format!("failed to mount {:?} at {:?}: {error}", source, mount.destination);
                Failure::new(FailureKind::CannotRun, text)
            })?;
        }
    }
    Ok(())
}

fn gather(plan: &Plan<'_>, record: &ContainerRecord, rootfs: PathBuf) -> Result<Facts, Failure> {
    let passwd = rootfs::read_text(&rootfs, "/etc/passwd").map_err(cannot("/etc/passwd"))?;
    let group = rootfs::read_text(&rootfs, "/etc/group").map_err(cannot("/etc/group"))?;
    let user =
        user::resolve(&record.spec.user, &record.image.user, &passwd, &group).map_err(cannot("container user"))?;
    let mut devices = if record.spec.privileged { device::host_devices() } else { Vec::new() };
    for wanted in &record.spec.devices {
        let nodes = device::inspect(wanted).map_err(|error| {
            Failure::new(FailureKind::CannotRun, format!("device {}: {error}", wanted.host_path.display()))
        })?;
        devices.retain(|d| !nodes.iter().any(|n| n.path == d.path));
        devices.extend(nodes);
    }
    Ok(Facts {
        rootfs,
        cgroup_path: record.cgroup_path.clone(),
        shm: plan.pod_dir.shm(),
        shared_pid: plan.process_holder.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/pid"))),
        available_capabilities: sys::caps::permitted().map_err(cannot("capabilities"))?,
        unified_cgroups: matches!(plan.cgroups, Cgroups::V2(_)),
        devices,
        user,
        oom_score_adj: settle_oom_score(record.spec.resources.oom_score_adj),
    })
}

/// Sets the score on this process, which its children inherit. What the kernel refuses is left out, with a word.
fn settle_oom_score(wanted: Option<i32>) -> Option<i32> {
    let wanted = wanted.unwrap_or(0);
    match fs::write("/proc/self/oom_score_adj", wanted.to_string()) {
        Ok(()) => Some(wanted),
        Err(error) => {
            eprintln!("oom_score_adj {wanted} is refused: {error}");
            None
        }
    }
}

fn write_bundle(
    plan: &Plan<'_>,
    record: &ContainerRecord,
    process: &ProcessPlan,
    facts: &Facts,
) -> Result<(), Failure> {
    let spec = bundle::runtime_spec(&plan.pod.spec, &record.spec, process, facts).map_err(cannot("runtime spec"))?;
    fs::create_dir_all(plan.dir.bundle()).map_err(cannot("bundle"))?;
    spec.save(plan.dir.bundle().join("config.json")).map_err(cannot("bundle"))?;
    records::write(&plan.dir.plan(), process).map_err(cannot("process record"))
}

fn limit(plan: &Plan<'_>, record: &ContainerRecord, facts: &Facts) -> Result<(), Failure> {
    let path = &record.cgroup_path;
    plan.cgroups.create(path).map_err(cannot("making the cgroup"))?;
    plan.cgroups.apply(path, &record.spec.resources).map_err(cannot("setting resource limits"))?;
    let rules = device::rules(&facts.devices, record.spec.privileged);
    plan.cgroups.limit_devices(path, &rules).map_err(cannot("setting device rules"))
}

fn build(plan: Plan<'_>, record: &ContainerRecord, process: ProcessPlan) -> Result<Made, Failure> {
    let filters = seccomp::compile(&process.seccomp, process.capabilities).map_err(cannot("seccomp profile"))?;
    let binds = record.spec.mounts.iter().filter(|m| matches!(m.kind, MountKind::Bind { .. }));
    let propagation = binds.map(|m| (m.destination.clone(), m.propagation)).collect();
    let launcher = Launcher::new(process, filters, plan.status).with_propagation(propagation);
    let diagnostics = Diagnostics::start(plan.dir.path().join("create.log")).map_err(cannot("diagnostics"))?;
    let console = if record.spec.tty { Some(Console::listen(plan.dir.path())?) } else { None };
    let mut builder = ContainerBuilder::new(record.id.to_string(), SyscallType::default())
        .with_root_path(plan.pod_dir.oci_root())
        .map_err(cannot("runtime state"))?
        .with_executor(launcher)
        .with_console_socket(console.as_ref().map(|c| c.path.clone()));
    if let Some(stdin) = plan.ends.stdin {
        builder = builder.with_stdin(stdin);
    }
    if let Some(stdout) = plan.ends.stdout {
        builder = builder.with_stdout(stdout);
    }
    if let Some(stderr) = plan.ends.stderr {
        builder = builder.with_stderr(stderr);
    }
    let container = builder
        .as_init(plan.dir.bundle())
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| Failure::new(FailureKind::CannotRun, user_words(&chain(&error), &diagnostics)))?;
    diagnostics.discard();
    let master = console.map(|console| console.receive()).transpose()?;
    Ok(Made { pid: first_process(&container)?, master })
}

fn first_process(container: &Container) -> Result<i32, Failure> {
    container
        .pid()
        .map(nix::unistd::Pid::as_raw)
        .ok_or_else(|| Failure::new(FailureKind::Refused, "the container has no process"))
}

/// libcontainer wraps what our executor says about a missing program; the user needs only that. Of other failures the
/// first cause is the telling one.
fn user_words(text: &str, diagnostics: &Diagnostics) -> String {
    match (text.find("exec: \""), diagnostics.innermost()) {
        (Some(start), _) => text[start..].to_owned(),
        (None, Some(cause)) => format!("{text}: {cause}"),
        (None, None) => text.to_owned(),
    }
}

/// Where libcontainer sends the master of the terminal it opens inside the container.
struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    fn listen(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("console.sock");
        let listener = sys::fd::bind_in(folder, "console.sock").map_err(cannot("console socket"))?;
        Ok(Self { listener, path })
    }

    fn receive(self) -> Result<OwnedFd, Failure> {
        let (stream, _) = self.listener.accept().map_err(cannot("console socket"))?;
        let mut buffer = [0; 256];
        let (_, master) = sys::fd::receive_message(&stream, &mut buffer).map_err(cannot("console socket"))?;
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("console socket {} of {} stays: {error}", self.path.display(), stream.as_raw_fd());
        }
        master.ok_or_else(|| Failure::new(FailureKind::Refused, "the container sent no terminal"))
    }
}
