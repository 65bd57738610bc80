//! What a test needs of the machine. Absent: the test is skipped, and says so on standard error.

use std::io::Write as _;
use std::path::Path;

/// Something a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Root,
    Kubectl,
    /// A program on the PATH.
    Program(&'static str),
    /// A file, such as Debian's static busybox.
    File(&'static str),
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "not root".to_owned()),
            Self::Kubectl => Self::Program("kubectl").missing(),
            Self::Program(name) => (!on_path(name)).then(|| format!("no {name} on the PATH")),
            Self::File(path) => (!Path::new(path).exists()).then(|| format!("no {path}")),
        }
    }
}

/// Whether the machine has all `needs`; says loudly what it lacks when not.
pub fn met(test: &str, needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter_map(|need| need.missing()).collect();
    if !missing.is_empty() {
        // Not `eprintln!`, whose output is shown for tests that fail only.
        drop(writeln!(std::io::stderr(), "SKIPPED {test}: {}", missing.join(", ")));
    }
    missing.is_empty()
}

/// What a scenario with pods needs.
pub const CLUSTER: &[Need] =
    &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter"), Need::File("/bin/busybox")];

fn on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()))
}
