//! Both ends of a tunnel over a pipe.

use super::agent::accept;
use super::server::{Stream, TunnelError, Tunnels};
use super::{MAX_STREAMS, pulse};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

fn serve(tunnels: &Tunnels, end: DuplexStream) -> JoinHandle<()> {
    let tunnels = tunnels.clone();
    tokio::spawn(async move { tunnels.serve("edge".into(), end).await })
}

async fn open(tunnels: &Tunnels) -> Stream {
    loop {
        match tunnels.open("edge").await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// An agent that sends back, reversed, the four bytes that each stream brings.
fn reversing(end: DuplexStream) -> JoinHandle<Result<(), yamux::ConnectionError>> {
    tokio::spawn(accept(end, |mut stream| {
        tokio::spawn(async move {
            let mut got = [0; 4];
            if stream.read_exact(&mut got).await.is_ok() {
                got.reverse();
                stream.write_all(&got).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
    }))
}

async fn asks_and_hears(mut stream: Stream) {
    stream.write_all(b"ping").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "gnip");
}

#[tokio::test]
async fn streams_reach_the_agent_and_end_with_the_tunnel() {
    let (server_end, agent_end) = tokio::io::duplex(64 * 1024);
    let tunnels = Tunnels::default();
    assert!(matches!(tunnels.open("edge").await, Err(TunnelError::NotConnected(_))));
    let served = serve(&tunnels, server_end);
    let agent = reversing(agent_end);
    asks_and_hears(open(&tunnels).await).await;
    agent.abort();
    served.await.unwrap();
    assert!(matches!(tunnels.open("edge").await, Err(TunnelError::NotConnected(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_given_up_and_with_it_what_waits_for_it() {
    let (server_end, _cut) = tokio::io::duplex(64 * 1024);
    let tunnels = Tunnels::default();
    let started = Instant::now();
    let served = serve(&tunnels, server_end);
    let mut stream = open(&tunnels).await;
    stream.write_all(b"ping").await.unwrap();
    assert!(stream.read_u8().await.is_err());
    served.await.unwrap();
    let silence = started.elapsed();
    assert!(silence >= pulse::SILENCE && silence <= Duration::from_secs(30), "{silence:?}");
    assert!(matches!(tunnels.open("edge").await, Err(TunnelError::NotConnected(_))));
}

#[tokio::test(start_paused = true)]
async fn an_agent_gives_up_a_silent_server() {
    let (_cut, agent_end) = tokio::io::duplex(64 * 1024);
    let ended = tokio::time::timeout(Duration::from_secs(30), reversing(agent_end)).await.unwrap().unwrap();
    assert!(ended.unwrap_err().to_string().contains("nothing was heard"));
}

#[tokio::test]
async fn a_node_that_connects_again_ends_its_former_tunnel() {
    let tunnels = Tunnels::default();
    let (former_end, _cut) = tokio::io::duplex(64 * 1024);
    let former = serve(&tunnels, former_end);
    let mut waiting = open(&tunnels).await;
    let (server_end, agent_end) = tokio::io::duplex(64 * 1024);
    let _served = serve(&tunnels, server_end);
    let _agent = reversing(agent_end);
    former.await.unwrap();
    assert!(waiting.read_u8().await.is_err());
    asks_and_hears(open(&tunnels).await).await;
}

#[tokio::test]
async fn one_stream_too_many_is_refused_and_harms_no_other() {
    async fn greeted(tunnels: &Tunnels) -> Stream {
        let mut stream = open(tunnels).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'h');
        stream
    }
    let (server_end, agent_end) = tokio::io::duplex(64 * 1024);
    let tunnels = Tunnels::default();
    let _served = serve(&tunnels, server_end);
    let _agent = tokio::spawn(accept(agent_end, |mut stream| {
        tokio::spawn(async move {
            stream.write_all(b"hi").await.unwrap();
            // Held until the server lets go.
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        });
    }));
    let mut streams = Vec::new();
    while streams.len() < MAX_STREAMS {
        streams.push(greeted(&tunnels).await);
    }
    assert!(matches!(tunnels.open("edge").await, Err(TunnelError::Busy(_))));
    drop(streams.swap_remove(1));
    greeted(&tunnels).await;
    assert_eq!(streams[MAX_STREAMS / 2].read_u8().await.unwrap(), b'i');
}

/// A frame of yamux: type, flags, stream, length or value.
fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> [u8; 12] {
    let mut out = [0; 12];
    (out[1], out[3]) = (kind, flags);
    out[4..8].copy_from_slice(&stream.to_be_bytes());
    out[8..].copy_from_slice(&length.to_be_bytes());
    out
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_cannot_write_reads_on_although_it_was_pinged() {
    let (mut server_end, agent_end) = tokio::io::duplex(1024);
    let (told, heard) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let _agent = tokio::spawn(accept(agent_end, move |stream| {
        let (mut input, mut output) = tokio::io::split(stream);
        tokio::spawn(async move { while output.write_all(&[0; 4096]).await.is_ok() {} });
        let told = told.take().unwrap();
        tokio::spawn(async move {
            let mut got = [0; 4];
            input.read_exact(&mut got).await.unwrap();
            told.send(got).unwrap();
        });
    }));
    // A stream with much credit, of which nothing is read.
    server_end.write_all(&frame(1, 1, 1, 1 << 20)).await.unwrap();
    // The clock stands while anything can go on: now the pipe is full.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server_end.write_all(&frame(2, 1, 0, 7)).await.unwrap();
    server_end.write_all(&frame(0, 0, 1, 4)).await.unwrap();
    server_end.write_all(b"data").await.unwrap();
    let got = tokio::time::timeout(Duration::from_secs(10), heard).await.expect("it reads no more");
    assert_eq!(got.unwrap(), *b"data");
}
