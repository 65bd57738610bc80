//! Sessions against a client that behaves, and one that does not.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::frame::{Frame, INITIAL_WINDOW, Reset};
use super::testing::Client;
use super::{Session, Stream, open};

fn pair() -> (Client, Session) {
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    (Client::new(theirs), open(ours).unwrap())
}

async fn accept(session: &mut Session) -> Stream {
    tokio::time::timeout(Duration::from_secs(10), session.incoming.recv()).await.unwrap().unwrap()
}

fn is_reset(frame: &Frame, stream: u32, why: Reset) -> bool {
    *frame == Frame::RstStream { id: stream, status: why as u32 }
}

#[tokio::test]
async fn a_stream_carries_data_both_ways_and_ends() {
    let (mut client, mut session) = pair();
    let id = client.open(&[("StreamType", "data"), ("port", "80")], false).await;
    client.data(id, b"hello", true).await;
    let mut stream = accept(&mut session).await;
    assert_eq!(stream.headers.get("streamtype"), Some("data"));
    let mut text = String::new();
    stream.reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    stream.writer.write_all(b"good-bye").await.unwrap();
    stream.writer.shutdown().await.unwrap();
    assert_eq!(client.read_to_end(id).await, "good-bye");
    assert!(matches!(client.frames[0], Frame::SynReply { id: 1, .. }));
}

#[tokio::test]
async fn more_than_a_window_goes_to_a_client_without_flow_control() {
    let (mut client, mut session) = pair();
    let id = client.open(&[], true).await;
    let Stream { mut writer, .. } = accept(&mut session).await;
    let sent = tokio::spawn(async move {
        writer.write_all(&vec![b'x'; 300 << 10]).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    assert_eq!(client.read_to_end(id).await.len(), 300 << 10);
    sent.await.unwrap();
}

#[tokio::test]
async fn a_client_with_flow_control_is_not_overrun() {
    let (mut client, mut session) = pair();
    client.send(&Frame::Settings(vec![(INITIAL_WINDOW, 10)])).await;
    let id = client.open(&[], true).await;
    let Stream { mut writer, .. } = accept(&mut session).await;
    let sent = tokio::spawn(async move {
        writer.write_all(b"0123456789abcdef").await.unwrap();
        writer.shutdown().await.unwrap();
    });
    client.until(|c| c.text(id).len() >= 10).await;
    assert_eq!(client.text(id), "0123456789");
    client.send(&Frame::WindowUpdate { id, delta: 100 }).await;
    assert_eq!(client.read_to_end(id).await, "0123456789abcdef");
    sent.await.unwrap();
}

#[tokio::test]
async fn what_was_read_is_granted_again() {
    let (mut client, mut session) = pair();
    let id = client.open(&[], false).await;
    let mut stream = accept(&mut session).await;
    client.data(id, &[0; 8 << 10], false).await;
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while read < 32 << 10 {
            read += stream.reader.read(&mut [0; 4 << 10]).await.unwrap();
        }
        stream
    });
    for _ in 0..3 {
        client.data(id, &[0; 8 << 10], false).await;
    }
    client.until(|c| c.frames.contains(&Frame::WindowUpdate { id, delta: 32 << 10 })).await;
    drop(reading.await.unwrap());
}

#[tokio::test]
async fn pings_are_answered() {
    let (mut client, _session) = pair();
    client.send(&Frame::Ping(7)).await;
    client.until(|c| c.frames.contains(&Frame::Ping(7))).await;
}

#[tokio::test]
async fn a_reset_breaks_both_halves() {
    let (mut client, mut session) = pair();
    let id = client.open(&[], false).await;
    let mut stream = accept(&mut session).await;
    client.send(&Frame::RstStream { id, status: Reset::Cancel as u32 }).await;
    assert!(stream.reader.read(&mut [0; 8]).await.is_err());
    assert!(stream.writer.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn data_for_no_stream_is_reset_and_the_rest_goes_on() {
    let (mut client, mut session) = pair();
    client.data(99, b"lost", false).await;
    client.until(|c| c.frames.iter().any(|f| is_reset(f, 99, Reset::InvalidStream))).await;
    client.open(&[], false).await;
    accept(&mut session).await;
}

#[tokio::test]
async fn a_stream_number_of_the_server_ends_the_connection() {
    let (mut client, session) = pair();
    client.send(&Frame::SynStream { id: 4, fin: false, headers: super::header::Headers::default() }).await;
    tokio::time::timeout(Duration::from_secs(10), session.gone.cancelled()).await.unwrap();
    while client.step().await {}
    assert!(client.frames.iter().any(|f| matches!(f, Frame::GoAway { status: 1, .. })), "{:?}", client.frames);
}

#[tokio::test]
async fn a_lost_connection_breaks_its_streams() {
    let (mut client, mut session) = pair();
    client.open(&[], false).await;
    let mut stream = accept(&mut session).await;
    drop(client);
    assert!(stream.reader.read(&mut [0; 8]).await.is_err());
    session.gone.cancelled().await;
}

#[tokio::test]
async fn a_session_that_closes_sends_all_and_says_good_bye() {
    let (mut client, mut session) = pair();
    let id = client.open(&[], true).await;
    let mut stream = accept(&mut session).await;
    stream.writer.write_all(b"last words").await.unwrap();
    drop(stream);
    let closing = tokio::spawn(session.close());
    assert_eq!(client.read_to_end(id).await, "last words");
    client.until(|c| c.frames.iter().any(|f| matches!(f, Frame::GoAway { status: 0, .. }))).await;
    drop(client);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_stream_nobody_reads_holds_back_its_sender_only_at_the_bound() {
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(16 << 10);
    let (mut client, mut session) = (Client::new(theirs), open(ours).unwrap());
    let idle = client.open(&[], false).await;
    let busy = client.open(&[], false).await;
    let _idle = accept(&mut session).await;
    let mut stream = accept(&mut session).await;
    client.data(idle, &[0; 512 << 10], false).await;
    client.data(busy, b"through", true).await;
    let mut text = String::new();
    stream.reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "through");
}
