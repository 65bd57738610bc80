//! One remote command: a process joined to its client's streams, whatever wire these come from.

use std::error::Error;

use futures::future::BoxFuture;
use runtime::RuntimeError;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::resize;
use super::verdict::{Form, Verdict};
use crate::http::host::{Input, Output, Process};

/// What the client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// The client's ends. What it did not ask for is `None`.
pub(crate) struct Client {
    pub(crate) stdin: Option<Output>,
    pub(crate) stdout: Option<Input>,
    pub(crate) stderr: Option<Input>,
    pub(crate) resize: Option<Output>,
    pub(crate) error: Input,
    /// Cancelled when the connection is lost.
    pub(crate) gone: CancellationToken,
    pub(crate) form: Form,
}

/// What is run, and with it what its end means.
pub(crate) enum Kind {
    Exec(Vec<String>),
    /// The container's own end is not the attachment's failure.
    Attach,
}

/// A command about to run.
pub(crate) struct Command {
    pub(crate) kind: Kind,
    pub(crate) wanted: Wanted,
    pub(crate) start: BoxFuture<'static, Result<Process, RuntimeError>>,
}

/// Runs it to its end and tells the client how it went. Returns early when the client is gone; dropping the process'
/// streams is then all the process hears of it.
pub(crate) async fn run(command: Command, client: Client) {
    let gone = client.gone.clone();
    let Client { stdin, stdout, stderr, resize, mut error, form, gone: _ } = client;
    let talk = async {
        let verdict = match command.start.await {
            Ok(process) => match converse(process, Streams { stdin, stdout, stderr, resize }).await {
                Ok(code) => judge(command.kind, code),
                Err(error) => failed(&error),
            },
            Err(error) => failed(&error),
        };
        let told = async {
            error.write_all(&verdict.encode(form)).await?;
            error.shutdown().await
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "nobody is left to tell how the command ended");
        }
    };
    if gone.run_until_cancelled(talk).await.is_none() {
        tracing::debug!("client of a remote command is gone");
    }
}

fn judge(kind: Kind, code: i32) -> Verdict {
    match kind {
        Kind::Exec(command) if code != 0 => Verdict::Exit { command, code },
        Kind::Exec(_) | Kind::Attach => Verdict::Done,
    }
}

fn failed(error: &RuntimeError) -> Verdict {
    let mut why = format!("error executing command in container: {error}");
    let mut source = error.source();
    while let Some(inner) = source {
        why.push_str(": ");
        why.push_str(&inner.to_string());
        source = inner.source();
    }
    Verdict::Failed(why)
}

struct Streams {
    stdin: Option<Output>,
    stdout: Option<Input>,
    stderr: Option<Input>,
    resize: Option<Output>,
}

/// Copies until the process has ended and its output is delivered.
async fn converse(process: Process, streams: Streams) -> Result<i32, RuntimeError> {
    let Process { stdin, stdout, stderr, resize, exit, resizing } = process;
    let inputs = async {
        let sizes = async {
            if let Some(input) = streams.resize {
                resize::forward(input, resize).await;
            }
        };
        // The process goes on without input: carrying sizes never ends.
        tokio::join!(copy(streams.stdin, stdin), sizes, resizing);
    };
    let outputs = async {
        tokio::join!(copy(stdout, streams.stdout), copy(stderr, streams.stderr));
        exit.await
    };
    tokio::select! {
        code = outputs => code,
        () = inputs => Err(RuntimeError::Refused("input ended the session".into())),
    }
}

/// Copies one stream and passes its end on. What nobody wants is read and dropped, so that the other side never waits.
async fn copy(from: Option<impl AsyncRead + Unpin>, to: Option<impl AsyncWrite + Unpin>) {
    let copied = match (from, to) {
        (Some(mut from), Some(mut to)) => match tokio::io::copy(&mut from, &mut to).await {
            Ok(_) => to.shutdown().await,
            Err(error) => Err(error),
        },
        (Some(mut from), None) => tokio::io::copy(&mut from, &mut tokio::io::sink()).await.map(drop),
        (None, Some(mut to)) => to.shutdown().await,
        (None, None) => Ok(()),
    };
    if let Err(error) = copied {
        tracing::debug!(%error, "stream of a remote command broke off");
    }
}
