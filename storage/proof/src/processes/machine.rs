//! One machine: a small file system of its own where that can be had, and the process of a member on it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::member::{Identity, MEMBER};

/// Of each machine's file system.
const SIZE: &str = "size=24m";

/// How a member process is started: this executable with these arguments, [`super::member::main`] its only work.
#[derive(Clone, Debug)]
pub struct Program {
    pub executable: PathBuf,
    pub arguments: Vec<OsString>,
}

pub(super) struct Machine {
    pub(super) identity: Identity,
    mounted: bool,
    child: Option<Child>,
    pub(super) stopped_until: Option<Instant>,
    pub(super) full: bool,
}

impl Machine {
    /// A new machine below `root`. Without the right to mount it has no disk that can be filled.
    pub(super) fn new(root: &Path, mut identity: Identity) -> io::Result<Self> {
        let place = root.join(format!("disk-{}", identity.id));
        fs::create_dir_all(&place)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let mounted = mount(Some("rk-proof"), &place, Some("tmpfs"), flags, Some(SIZE)).is_ok();
        identity.dir = place.join("store");
        Ok(Self { identity, mounted, child: None, stopped_until: None, full: false })
    }

    pub(super) fn can_be_filled(&self) -> bool {
        self.mounted
    }

    fn ballast(&self) -> PathBuf {
        self.identity.dir.with_file_name("ballast")
    }

    /// Leaves no space on the disk.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        let mut file = File::create(self.ballast())?;
        for size in [1 << 20, 4096] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        self.full = true;
        Ok(())
    }

    pub(super) fn free(&mut self) -> io::Result<()> {
        if self.full {
            fs::remove_file(self.ballast())?;
        }
        self.full = false;
        Ok(())
    }

    pub(super) fn start(&mut self, program: &Program) -> io::Result<()> {
        let mut command = Command::new(&program.executable);
        command.args(&program.arguments).env(MEMBER, self.identity.encode());
        self.child = Some(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
        self.stopped_until = None;
        Ok(())
    }

    /// Whether the process lives; one that has ended by itself is no more.
    pub(super) fn runs(&mut self) -> bool {
        if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
            self.child = None;
        }
        self.child.is_some()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid {
            // One that has just ended needs no signal.
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    pub(super) fn stop_until(&mut self, until: Instant) {
        self.signal(Signal::SIGSTOP);
        self.stopped_until = Some(until);
    }

    pub(super) fn go_on(&mut self) {
        self.stopped_until = None;
        self.signal(Signal::SIGCONT);
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        self.stopped_until = None;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        if let Some(place) = self.identity.dir.parent().filter(|_| self.mounted) {
            umount2(place, MntFlags::MNT_DETACH).ok();
        }
    }
}
