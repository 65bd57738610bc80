//! A WebSocket as a server sees it after the handshake (RFC 6455): messages in, messages out.
//!
//! Reading belongs to one owner ([`Messages`]); any number of tasks may send ([`Sender`]), and one task writes, in the
//! order of sending. Pings are answered while the owner reads.

pub(crate) mod frame;

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::frame::{FrameError, MAX_MESSAGE, Opcode};

/// Messages that wait for a slow client.
const AHEAD: usize = 16;
/// Written at once, when many small messages wait.
const BATCH: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(Bytes),
    Binary(Bytes),
}

#[derive(Debug)]
pub(crate) enum Outgoing {
    Data(Message),
    Pong(Bytes),
    /// The last thing sent.
    Close(u16),
}

/// Close codes of RFC 6455, section 7.4.1.
pub(crate) mod close {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const TOO_BIG: u16 = 1009;
}

pub(crate) type Sender = mpsc::Sender<Outgoing>;

/// The reading end.
pub(crate) struct Messages<I> {
    input: BufReader<ReadHalf<I>>,
    sender: Sender,
}

/// Takes over an upgraded connection. The task ends after a close message, when all senders are gone, or when the
/// connection is lost.
pub(crate) fn open<I>(io: I) -> (Messages<I>, Sender, JoinHandle<io::Result<()>>)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let (input, output) = tokio::io::split(io);
    let (sender, queue) = mpsc::channel(AHEAD);
    let writer = tokio::spawn(write(output, queue));
    (Messages { input: BufReader::new(input), sender: sender.clone() }, sender, writer)
}

async fn write(mut output: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    let mut batch = Vec::new();
    while let Some(mut next) = queue.recv().await {
        let closes = loop {
            if encode(&mut batch, &next) {
                break true;
            }
            match queue.try_recv() {
                Ok(more) if batch.len() < BATCH => next = more,
                Ok(more) => {
                    output.write_all(&batch).await?;
                    batch.clear();
                    next = more;
                }
                Err(_) => break false,
            }
        };
        output.write_all(&batch).await?;
        output.flush().await?;
        batch.clear();
        batch.shrink_to(BATCH);
        if closes {
            break;
        }
    }
    output.shutdown().await
}

/// True for the message that ends the conversation.
fn encode(batch: &mut Vec<u8>, message: &Outgoing) -> bool {
    match message {
        Outgoing::Data(Message::Text(text)) => frame::encode(batch, Opcode::Text, text),
        Outgoing::Data(Message::Binary(data)) => frame::encode(batch, Opcode::Binary, data),
        Outgoing::Pong(data) => frame::encode(batch, Opcode::Pong, data),
        Outgoing::Close(code) => frame::encode(batch, Opcode::Close, &code.to_be_bytes()),
    }
    matches!(message, Outgoing::Close(_))
}

impl<I: AsyncRead + AsyncWrite> Messages<I> {
    /// The next message; `None` when the client has closed, or the connection has ended. A client that breaks the rules
    /// is told so, and the conversation is over. Not cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        match self.read().await {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "websocket ended");
                if let Some(code) = error.close_code() {
                    self.send(Outgoing::Close(code)).await;
                }
                None
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Message>, FrameError> {
        let mut message: Option<(Opcode, Vec<u8>)> = None;
        loop {
            let room = MAX_MESSAGE - message.as_ref().map_or(0, |(_, data)| data.len());
            let Some(frame) = frame::read(&mut self.input, room).await? else { return Ok(None) };
            match (frame.opcode, &mut message) {
                (Opcode::Ping, _) => self.send(Outgoing::Pong(frame.payload.into())).await,
                (Opcode::Pong, _) => {}
                (Opcode::Close, _) => {
                    self.send(Outgoing::Close(close::NORMAL)).await;
                    return Ok(None);
                }
                (Opcode::Continuation, Some((_, data))) => data.extend_from_slice(&frame.payload),
                (opcode @ (Opcode::Text | Opcode::Binary), None) => message = Some((opcode, frame.payload)),
                _ => return Err(FrameError::Protocol("a fragment out of order")),
            }
            let done = frame.fin && frame.opcode.is_data();
            if done && let Some((opcode, data)) = message.take() {
                let data = Bytes::from(data);
                return Ok(Some(if opcode == Opcode::Text { Message::Text(data) } else { Message::Binary(data) }));
            }
        }
    }

    async fn send(&mut self, message: Outgoing) {
        if self.sender.send(message).await.is_err() {
            tracing::trace!("websocket is closed already");
        }
    }
}
