//! The real kubectl against a server.

use crate::host::Host;
use crate::process::{check, output};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// kubectl on a host, with a kubeconfig.
#[derive(Debug)]
pub struct Kubectl<'a> {
    /// `None`: this machine itself.
    pub(crate) host: Option<&'a Host>,
    pub(crate) kubeconfig: &'a Path,
}

impl<'a> Kubectl<'a> {
    /// On a host.
    pub fn on(host: &'a Host, kubeconfig: &'a Path) -> Self {
        Self { host: Some(host), kubeconfig }
    }
}

impl Kubectl<'_> {
    /// A kubectl command, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.map_or_else(|| Command::new("kubectl"), |host| host.command("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig).args(arguments);
        command.env("HOME", self.kubeconfig.parent().unwrap_or(Path::new("/")));
        command
    }

    /// Runs it; anything but success is an error that shows its output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        check(&mut self.command(arguments), None)
    }

    /// Runs it and expects success.
    ///
    /// # Panics
    /// With kubectl's output, when it fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs it with a manifest on its standard input, and expects success.
    ///
    /// # Panics
    /// With kubectl's output, when it fails.
    pub fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        check(&mut self.command(arguments), Some(input)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs it and expects failure; returns what it wrote to standard error.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn fails(&self, arguments: &[&str], input: Option<&str>) -> String {
        let Output { status, stdout, stderr } =
            output(&mut self.command(arguments), input).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(!status.success(), "kubectl {arguments:?} succeeded: {}", String::from_utf8_lossy(&stdout));
        String::from_utf8_lossy(&stderr).into_owned()
    }

    /// Waits until its standard output satisfies `accept`, and returns it.
    pub fn until(&self, limit: Duration, arguments: &[&str], accept: impl Fn(&str) -> bool) -> String {
        crate::until(&format!("kubectl {}", arguments.join(" ")), limit, || {
            let text = self.run(arguments).map_err(|error| format!("{error:#}"))?;
            if accept(&text) { Ok(text) } else { Err(text) }
        })
    }
}
