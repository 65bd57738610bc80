//! Live streams to a process in a container: exec and attach.

use crate::error::RuntimeError;
use crate::spec::TtySize;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};

/// An exec or attach in progress. Fields are public so that callers can hand each stream to its own task.
///
/// Dropping `stdin` (or shutting it down) ends the process' input; dropping an output discards what would follow.
#[derive(Debug)]
pub struct Session {
    pub stdin: Option<DuplexStream>,
    pub stdout: Option<DuplexStream>,
    /// `None` with a terminal, where both streams are one.
    pub stderr: Option<DuplexStream>,
    pub control: SessionControl,
    pub exit: SessionExit,
}

impl Session {
    /// The exit code of an exec, or of the container for attach, after the outputs have ended.
    pub async fn wait(self) -> Result<i32, RuntimeError> {
        self.exit.wait().await
    }
}

/// Steers a session; cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionControl {
    pub(crate) commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Resize(TtySize),
    Signal(i32),
}

impl SessionControl {
    /// Tells the terminal its size; nothing happens without one, or when the session is over.
    pub async fn resize(&self, size: TtySize) {
        self.send(Command::Resize(size)).await;
    }

    /// Signals an exec's process (not the container of an attach).
    pub async fn kill(&self, signal: i32) {
        self.send(Command::Signal(signal)).await;
    }

    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::trace!("session is over");
        }
    }
}

/// Resolves when the process has ended and its output was delivered.
#[derive(Debug)]
pub struct SessionExit {
    pub(crate) done: oneshot::Receiver<Result<i32, RuntimeError>>,
}

impl SessionExit {
    pub async fn wait(self) -> Result<i32, RuntimeError> {
        self.done.await.unwrap_or_else(|_| Err(RuntimeError::Refused("the session was cut off".into())))
    }
}
