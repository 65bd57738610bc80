//! Remote commands over WebSocket: each message begins with the number of its channel. Versions 1, 4 and 5 of
//! `channel.k8s.io`, and the Base64 forms for clients that can only send text.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_util::sync::{CancellationToken, PollSender};
use tokio_util::task::AbortOnDropHandle;

use super::command::{self, Client, Command};
use super::verdict::Form;
use super::websocket::{self, Message, Messages, Outgoing, Sender, close};
use crate::http::host::{Input, Output};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Version 5: the channel named by the next byte has ended.
const CLOSE: u8 = 255;

/// Input that waits for a slow process.
const AHEAD: usize = 64 << 10;
const LONGEST: usize = 32 << 10;
/// How long a client may take to close after it was told the end.
const LINGER: Duration = Duration::from_secs(10);

/// How messages carry channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Binary,
    Base64,
}

impl Coding {
    pub(crate) fn of(protocol: &str) -> Coding {
        if protocol.contains("base64") { Coding::Base64 } else { Coding::Binary }
    }

    pub(crate) fn encode(self, channel: u8, data: &[u8]) -> Message {
        match self {
            Coding::Binary => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(channel);
                message.put_slice(data);
                Message::Binary(message.freeze())
            }
            Coding::Base64 => {
                let mut message = String::with_capacity(data.len() * 4 / 3 + 5);
                message.push(char::from(b'0' + channel));
                STANDARD.encode_string(data, &mut message);
                Message::Text(message.into())
            }
        }
    }

    /// Channel and data; `None` for what no client of the protocol sends.
    pub(crate) fn decode(self, message: &Message) -> Option<(u8, Bytes)> {
        let (Message::Binary(data) | Message::Text(data)) = message;
        let (channel, rest) = data.split_first()?;
        match self {
            Coding::Binary => Some((*channel, data.slice(1..))),
            Coding::Base64 => Some((channel.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into())),
        }
    }
}

/// The writing end of one channel. Ending it sends nothing: the protocol has no such message from a server.
pub(crate) struct ChannelWriter {
    sender: PollSender<Outgoing>,
    coding: Coding,
    channel: u8,
}

impl ChannelWriter {
    pub(crate) fn new(sender: &Sender, coding: Coding, channel: u8) -> Self {
        Self { sender: PollSender::new(sender.clone()), coding, channel }
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
        let taken = data.len().min(LONGEST);
        let message = self.coding.encode(self.channel, &data[..taken]);
        self.sender.send_item(Outgoing::Data(message)).map_err(gone)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a command for a client on an upgraded connection.
pub(crate) async fn serve<I>(io: I, protocol: &'static str, command: Command)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let coding = Coding::of(protocol);
    let (messages, sender, writer) = websocket::open(io);
    let _writer = AbortOnDropHandle::new(writer);
    let wanted = command.wanted;
    let output = |channel| -> Input { Box::new(ChannelWriter::new(&sender, coding, channel)) };
    let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(AHEAD)).unzip();
    let (stdin_in, stdin) = pipe(wanted.stdin);
    let (resize_in, resize) = pipe(wanted.tty);
    let gone = CancellationToken::new();
    let client = Client {
        stdin: stdin.map(|s| Box::new(s) as Output),
        stdout: wanted.stdout.then(|| output(STDOUT)),
        stderr: wanted.stderr.then(|| output(STDERR)),
        resize: resize.map(|r| Box::new(r) as Output),
        error: output(ERROR),
        gone: gone.clone(),
        form: Form::of(protocol),
    };
    let inputs = Inputs { stdin: stdin_in, resize: resize_in };
    let reader = AbortOnDropHandle::new(tokio::spawn(async move {
        read(messages, coding, inputs).await;
        gone.cancel();
    }));
    // An empty message tells clients that the connection stands. Those of version 5 need none, and complain of one that
    // comes before they have set up their channels.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    if protocol != "v5.channel.k8s.io" && sender.send(Outgoing::Data(coding.encode(first, &[]))).await.is_err() {
        return;
    }
    command::run(command, client).await;
    let farewell = async {
        if sender.send(Outgoing::Close(close::NORMAL)).await.is_ok() {
            // The client's own close, or the end of the connection.
            drop(reader.await);
        }
    };
    if tokio::time::timeout(LINGER, farewell).await.is_err() {
        tracing::debug!("websocket client did not close");
    }
}

struct Inputs {
    stdin: Option<DuplexStream>,
    resize: Option<DuplexStream>,
}

/// Hands input to its channels until the client closes.
async fn read<I: AsyncRead + AsyncWrite>(mut messages: Messages<I>, coding: Coding, mut inputs: Inputs) {
    while let Some(message) = messages.next().await {
        let Some((channel, data)) = coding.decode(&message) else { continue };
        let input = match (channel, data.first()) {
            (STDIN, _) => &mut inputs.stdin,
            (RESIZE, _) => &mut inputs.resize,
            (CLOSE, Some(&STDIN)) => {
                inputs.stdin = None;
                continue;
            }
            _ => continue,
        };
        // A process that reads no more has ended its input: what follows is dropped.
        if let Some(pipe) = input
            && pipe.write_all(&data).await.is_err()
        {
            *input = None;
        }
    }
}
