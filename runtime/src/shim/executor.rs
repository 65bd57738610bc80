//! The last steps of every container process: capabilities, seccomp, environment, execve.
//!
//! libcontainer calls it for a container's first process, `exec` for the others, so that both end up confined alike.
//! Installing a filter without no_new_privs takes CAP_SYS_ADMIN, so the process arrives here with all its
//! capabilities, and they are dropped only afterwards.

use crate::bundle::ProcessPlan;
use crate::spec::Propagation;
use crate::sys::{self, process};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::mount::{MsFlags, mount};
use nix::unistd::{AccessFlags, access};
use seccompiler::BpfProgram;
use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone)]
pub(super) struct Launcher {
    plan: Arc<ProcessPlan>,
    filters: Arc<Vec<BpfProgram>>,
    last_capability: u32,
    /// Mounts and how they take part in mounts made elsewhere: libcontainer leaves all as their source is.
    propagation: Arc<Vec<(PathBuf, Propagation)>>,
    /// Close-on-exec: its closing says that the program runs; text says why it does not.
    status: RawFd,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("exec: \"{0}\": executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: \"{path}\": stat {path}: {text}")]
    Stat { path: String, text: String },
    #[error("exec: \"{0}\": is a directory")]
    Directory(String),
    #[error("exec: \"{0}\": permission denied")]
    NotExecutable(String),
    #[error("exec {path}: {text}")]
    Exec { path: String, text: String },
    #[error("an argument or variable contains a NUL byte")]
    Nul,
    #[error("{step}: {source}")]
    Confine { step: &'static str, source: io::Error },
}

impl Launcher {
    /// `filters` are the plan's profile, compiled where its file can still be read.
    pub(super) fn new(plan: ProcessPlan, filters: Vec<BpfProgram>, status: RawFd) -> Self {
        let last_capability = sys::caps::last_capability();
        let propagation = Arc::default();
        Self { plan: Arc::new(plan), filters: Arc::new(filters), last_capability, propagation, status }
    }

    pub(super) fn with_propagation(self, mounts: Vec<(PathBuf, Propagation)>) -> Self {
        Self { propagation: Arc::new(mounts), ..self }
    }

    fn settle_propagation(&self) -> Result<(), ExecutorValidationError> {
        for (path, propagation) in self.propagation.iter() {
            let flag = match propagation {
                Propagation::Private => MsFlags::MS_PRIVATE,
                Propagation::HostToContainer => MsFlags::MS_SLAVE,
                Propagation::Bidirectional => MsFlags::MS_SHARED,
            };
            let none: Option<&str> = None;
            mount(none, path, none, flag | MsFlags::MS_REC, none).map_err(|errno| {
                ExecutorValidationError::ArgValidationError(format!("propagation of {}: {errno}", path.display()))
            })?;
        }
        Ok(())
    }

    /// Becomes the program. The process already is the right user, in the right folder and namespaces.
    pub(super) fn launch(&self) -> Result<Infallible, LaunchError> {
        let program = self.find_program()?;
        let path = c_string(&program.to_string_lossy())?;
        let args = c_strings(&self.plan.args)?;
        let env = c_strings(&self.plan.env)?;
        process::reset_signals();
        self.confine()?;
        let errno = match nix::unistd::execve(&path, &args, &env) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        Err(LaunchError::Exec { path: program.display().to_string(), text: describe(errno) })
    }

    fn confine(&self) -> Result<(), LaunchError> {
        let step = |step: &'static str| move |source: io::Error| LaunchError::Confine { step, source };
        let keep = self.plan.capabilities;
        sys::caps::limit_bounding(keep, self.last_capability).map_err(step("limiting capabilities"))?;
        for filter in self.filters.iter() {
            sys::seccomp::install(filter).map_err(step("installing the seccomp filter"))?;
        }
        sys::caps::clear_ambient().map_err(step("clearing ambient capabilities"))?;
        sys::caps::set(keep, keep, 0).map_err(step("dropping capabilities"))
    }

    pub(super) fn find_program(&self) -> Result<PathBuf, LaunchError> {
        let name = self.plan.args.first().map_or("", String::as_str);
        if name.contains('/') {
            return check_program(Path::new(name)).map(|()| PathBuf::from(name));
        }
        let path = self.plan.env.iter().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("");
        path.split(':')
            .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name))
            .find(|candidate| check_program(candidate).is_ok())
            .ok_or_else(|| LaunchError::NotInPath(name.to_owned()))
    }

    /// Says on the status pipe why there is no program.
    pub(super) fn report(&self, error: &LaunchError) {
        self.report_text(&error.to_string());
    }

    pub(super) fn report_text(&self, text: &str) {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match nix::unistd::write(sys::fd::borrow(self.status), rest) {
                Ok(written) => rest = &rest[written..],
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn check_program(path: &Path) -> Result<(), LaunchError> {
    let shown = || path.display().to_string();
    let metadata = fs::metadata(path).map_err(|error| LaunchError::Stat { path: shown(), text: plain(&error) })?;
    if metadata.is_dir() {
        return Err(LaunchError::Directory(shown()));
    }
    access(path, AccessFlags::X_OK).map_err(|_| LaunchError::NotExecutable(shown()))
}

fn plain(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| describe(nix::errno::Errno::from_raw(code)))
}

/// The system's words, as other runtimes show them.
fn describe(errno: nix::errno::Errno) -> String {
    match errno {
        nix::errno::Errno::ENOENT => "no such file or directory".to_owned(),
        nix::errno::Errno::ENOEXEC => "exec format error".to_owned(),
        nix::errno::Errno::EACCES => "permission denied".to_owned(),
        other => other.desc().to_lowercase(),
    }
}

fn c_string(text: &str) -> Result<CString, LaunchError> {
    CString::new(text).map_err(|_| LaunchError::Nul)
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, LaunchError> {
    texts.iter().map(|text| c_string(text)).collect()
}

impl Executor for Launcher {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        match self.launch() {
            Ok(never) => match never {},
            Err(error) => {
                self.report(&error);
                Err(ExecutorError::Other(error.to_string()))
            }
        }
    }

    /// Runs inside the container while it is being created, so that a missing program is an error of that.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.settle_propagation()?;
        self.find_program().map(drop).map_err(|error| ExecutorValidationError::ArgValidationError(error.to_string()))
    }

    /// The environment is handed to execve.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
