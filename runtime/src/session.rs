//! Live streams to a process in a container: exec and attach.

use crate::error::RuntimeError;
use crate::link::{read_frame, write_frame};
use crate::protocol::Kind;
use crate::spec::TtySize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// Bytes under way per stream.
const WINDOW: usize = 64 << 10;

/// An exec or attach in progress. Fields are public so that callers can hand each stream to its own task.
///
/// Dropping `stdin` (or shutting it down) ends the process' input; dropping an output discards what would follow.
/// Dropping `exit` abandons the session: a terminal is hung up, pipes break.
#[derive(Debug)]
pub struct Session {
    pub stdin: Option<DuplexStream>,
    pub stdout: Option<DuplexStream>,
    /// `None` with a terminal, where both streams are one.
    pub stderr: Option<DuplexStream>,
    pub control: SessionControl,
    pub exit: SessionExit,
}

/// Which streams a session has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Session {
    pub(crate) fn start(stream: UnixStream, wanted: Wanted) -> Self {
        let (read, write) = stream.into_split();
        let (stdin, input) = pair(wanted.stdin);
        let (stdout, out) = pair(wanted.stdout);
        let (stderr, err) = pair(wanted.stderr);
        let (commands, orders) = mpsc::channel(8);
        let (done_sender, done) = oneshot::channel();
        let sending = tokio::spawn(send(write, input, orders));
        tokio::spawn(async move {
            receive(read, [out, err], done_sender).await;
            sending.abort();
        });
        Self { stdin, stdout, stderr, control: SessionControl { commands }, exit: SessionExit { done } }
    }

    /// The exit code of an exec, or of the container for attach, after the outputs have ended.
    pub async fn wait(self) -> Result<i32, RuntimeError> {
        self.exit.wait().await
    }
}

fn pair(wanted: bool) -> (Option<DuplexStream>, Option<DuplexStream>) {
    if wanted {
        let (theirs, ours) = tokio::io::duplex(WINDOW);
        (Some(theirs), Some(ours))
    } else {
        (None, None)
    }
}

/// From the caller to the process, until the connection breaks or nothing can come any more.
async fn send(mut writer: OwnedWriteHalf, mut input: Option<DuplexStream>, mut orders: mpsc::Receiver<Command>) {
    let mut buffer = vec![0; 32 << 10];
    let mut orders_open = true;
    loop {
        let sent = tokio::select! {
            read = read_some(&mut input, &mut buffer) => match read {
                0 => {
                    input = None;
                    write_frame(&mut writer, Kind::StdinEnd, &[]).await
                }
                count => write_frame(&mut writer, Kind::Stdin, &buffer[..count]).await,
            },
            order = orders.recv(), if orders_open => match order {
                Some(Command::Resize(size)) => match serde_json::to_vec(&size) {
                    Ok(payload) => write_frame(&mut writer, Kind::Resize, &payload).await,
                    Err(error) => Err(error.into()),
                },
                Some(Command::Signal(signal)) => {
                    write_frame(&mut writer, Kind::Signal, signal.to_string().as_bytes()).await
                }
                None => {
                    orders_open = false;
                    Ok(())
                }
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Bytes read; 0 at the end. Never resolves without an input.
async fn read_some(input: &mut Option<DuplexStream>, buffer: &mut [u8]) -> usize {
    match input {
        Some(input) => input.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// From the process to the caller, up to the exit frame. Dropping both halves closes the connection.
async fn receive(
    mut reader: OwnedReadHalf,
    mut outputs: [Option<DuplexStream>; 2],
    mut done: oneshot::Sender<Result<i32, RuntimeError>>,
) {
    let result = loop {
        let frame = tokio::select! {
            frame = read_frame(&mut reader) => frame,
            () = done.closed() => return,
        };
        let (slot, payload) = match frame {
            Ok((Kind::Stdout, payload)) => (0, payload),
            Ok((Kind::Stderr, payload)) => (1, payload),
            Ok((Kind::Exit, payload)) => break parse_exit(&payload),
            Ok(_) => continue,
            Err(_) => break Err(cut_off()),
        };
        let written = match &mut outputs[slot] {
            Some(output) => tokio::select! {
                written = output.write_all(&payload) => written.is_ok(),
                () = done.closed() => return,
            },
            None => true,
        };
        if !written {
            // The reader is gone; what still comes is nobody's.
            outputs[slot] = None;
        }
    };
    drop(outputs);
    if done.send(result).is_err() {
        tracing::trace!("nobody waits for the session's end");
    }
}

fn parse_exit(payload: &[u8]) -> Result<i32, RuntimeError> {
    std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok()).ok_or_else(cut_off)
}

fn cut_off() -> RuntimeError {
    RuntimeError::Refused("the session was cut off".into())
}

/// Steers a session; cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionControl {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
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
    done: oneshot::Receiver<Result<i32, RuntimeError>>,
}

impl SessionExit {
    pub async fn wait(self) -> Result<i32, RuntimeError> {
        self.done.await.unwrap_or_else(|_| Err(cut_off()))
    }
}
