//! Port-forward over the channels of a WebSocket: for the n-th port of the query, channel 2n carries data and 2n+1
//! errors. The server's first message on each is the port's number, little-endian.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::Destination;
use crate::streaming::channels::{ChannelWriter, Coding};
use crate::streaming::websocket::{self, Messages, Outgoing, close};

/// Bytes that wait for a slow pod, per port.
const AHEAD: usize = 64 << 10;
/// Channel numbers are one byte.
pub(crate) const MAX_PORTS: usize = 127;

/// Serves the ports until the client closes. There is one connection for each port.
pub(crate) async fn serve<I>(io: I, protocol: &'static str, ports: Vec<u16>, destination: Destination)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let coding = Coding::of(protocol);
    let (messages, sender, writer) = websocket::open(io);
    let _writer = AbortOnDropHandle::new(writer);
    let mut connections = JoinSet::new();
    let mut inputs = Vec::new();
    for (port, data) in ports.into_iter().take(MAX_PORTS).zip((0u8..).step_by(2)) {
        for channel in [data, data + 1] {
            let greeting = coding.encode(channel, &port.to_le_bytes());
            if sender.send(Outgoing::Data(greeting)).await.is_err() {
                return;
            }
        }
        let (input, from_client) = tokio::io::duplex(AHEAD);
        inputs.push(Some(input));
        let to_client = ChannelWriter::new(&sender, coding, data);
        let errors = ChannelWriter::new(&sender, coding, data + 1);
        connections.spawn(connection(destination.clone(), port, from_client, to_client, errors));
    }
    read(messages, coding, inputs).await;
    drop(connections);
    if sender.send(Outgoing::Close(close::NORMAL)).await.is_err() {
        tracing::trace!("port-forward client is gone");
    }
}

async fn connection(
    destination: Destination,
    port: u16,
    mut from_client: impl AsyncRead + Unpin,
    mut to_client: ChannelWriter,
    mut errors: ChannelWriter,
) {
    let problem = match destination.dial(port).await {
        Ok(stream) => {
            let (mut from_pod, mut to_pod) = stream.into_split();
            let outward = async {
                tokio::io::copy(&mut from_client, &mut to_pod).await?;
                to_pod.shutdown().await
            };
            let inward = async { tokio::io::copy(&mut from_pod, &mut to_client).await.map(drop) };
            tokio::try_join!(outward, inward).err().map(|e| e.to_string())
        }
        Err(text) => Some(text),
    };
    if let Some(text) = problem
        && errors.write_all(text.as_bytes()).await.is_err()
    {
        tracing::trace!("port-forward client is gone");
    }
}

async fn read<I: AsyncRead + AsyncWrite>(
    mut messages: Messages<I>,
    coding: Coding,
    mut inputs: Vec<Option<tokio::io::DuplexStream>>,
) {
    while let Some(message) = messages.next().await {
        let Some((channel, data)): Option<(u8, Bytes)> = coding.decode(&message) else { continue };
        // Clients send nothing on error channels.
        let place = if channel % 2 == 0 { inputs.get_mut(usize::from(channel) / 2) } else { None };
        if let Some(place @ Some(_)) = place
            && let Some(pipe) = place
            && pipe.write_all(&data).await.is_err()
        {
            *place = None;
        }
    }
}
