//! Remote commands over SPDY: one stream per input or output, named by its `streamtype` header.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::command::{self, Client, Command, Wanted};
use super::spdy::{self, Session, Stream};
use super::verdict::Form;
use crate::http::host::{Input, Output};

/// How long the client may take to open its streams, as the kubelet has it.
const CREATION: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Streams {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    /// Files a stream; one that was not asked for, or is there already, is dropped, which ends it.
    fn take(&mut self, stream: Stream, wanted: Wanted, resizes: bool) {
        let (place, asked) = match stream.headers.get("streamtype") {
            Some("stdin") => (&mut self.stdin, wanted.stdin),
            Some("stdout") => (&mut self.stdout, wanted.stdout),
            Some("stderr") => (&mut self.stderr, wanted.stderr),
            Some("error") => (&mut self.error, true),
            Some("resize") => (&mut self.resize, resizes),
            other => {
                tracing::debug!(kind = ?other, "spdy stream of an unknown type");
                return;
            }
        };
        if asked && place.is_none() {
            *place = Some(stream);
        }
    }

    fn complete(&self, wanted: Wanted, resizes: bool) -> bool {
        let there = |place: &Option<Stream>, asked: bool| !asked || place.is_some();
        there(&self.stdin, wanted.stdin)
            && there(&self.stdout, wanted.stdout)
            && there(&self.stderr, wanted.stderr)
            && there(&self.resize, resizes)
            && self.error.is_some()
    }
}

/// Runs a command for a client on a connection upgraded to SPDY/3.1.
pub(crate) async fn serve<I>(io: I, protocol: &'static str, command: Command)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut session = match spdy::open(io) {
        Ok(session) => session,
        Err(error) => return tracing::warn!(%error, "spdy connection can't be set up"),
    };
    // Terminal sizes came with version 3.
    let resizes = command.wanted.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
    let streams = tokio::time::timeout(CREATION, collect(&mut session, command.wanted, resizes)).await;
    let Ok(Some(Streams { stdin, stdout, stderr, error: Some(error), resize })) = streams else {
        tracing::debug!("client did not open the streams of its remote command");
        return session.close().await;
    };
    // Streams opened later are refused.
    session.incoming.close();
    let writer = |stream: Option<Stream>| stream.map(|s| Box::new(s.writer) as Input);
    // The other halves live as long as the command: dropping one would end it.
    let (stdin, keep_stdin) = stdin.map(|s| (Box::new(s.reader) as Output, s.writer)).unzip();
    let (resize, keep_resize) = resize.map(|s| (Box::new(s.reader) as Output, s.writer)).unzip();
    let client = Client {
        stdin,
        stdout: writer(stdout),
        stderr: writer(stderr),
        resize,
        error: Box::new(error.writer),
        gone: session.gone.clone(),
        form: Form::of(protocol),
    };
    command::run(command, client).await;
    drop((keep_stdin, keep_resize));
    session.close().await;
}

async fn collect(session: &mut Session, wanted: Wanted, resizes: bool) -> Option<Streams> {
    let mut streams = Streams::default();
    while !streams.complete(wanted, resizes) {
        streams.take(session.incoming.recv().await?, wanted, resizes);
    }
    Some(streams)
}
