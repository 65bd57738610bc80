//! How the members of the example reach each other: frames over plain TCP, one question at a time on a connection, and
//! connections are kept for the next one. The first byte of a frame says what is asked.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use storage::{
    Answer, Bytes, ClusterId, MAX_RPC_BYTES, Member, MemberId, PeerIdentity, Store, Transport, TransportError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Outcome;

/// For the store.
const REQUEST: u8 = 0;
/// Which cluster is this?
const CLUSTER: u8 = 1;
/// Take this member in.
const JOIN: u8 = 2;

async fn send(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    stream.write_all(&bytes).await
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > MAX_RPC_BYTES + 1 {
        return Err(io::Error::other("the frame is too long"));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(address: &str, frame: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = dial(address).await?;
    send(&mut stream, frame).await?;
    receive(&mut stream).await
}

/// Asks a member for its cluster.
pub(crate) async fn cluster_of(address: &str) -> Outcome<ClusterId> {
    let answer = ask(address, &[CLUSTER]).await?;
    let (id, generation) = serde_json::from_slice(&answer)?;
    Ok(ClusterId { id, generation })
}

/// Has a member take this one in as a voter.
pub(crate) async fn join(address: &str, id: MemberId, member: &Member) -> Outcome<()> {
    let mut frame = vec![JOIN];
    frame.extend(serde_json::to_vec(&(id, member))?);
    let answer = ask(address, &frame).await?;
    if answer.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&answer).into_owned().into()) }
}

/// Answers the other members.
pub(crate) async fn serve(listener: TcpListener, store: Store) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let store = store.clone();
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            loop {
                let frame = receive(&mut stream).await?;
                let answer = answer(&store, frame).await;
                send(&mut stream, &answer).await?;
            }
            #[expect(unreachable_code, reason = "says what the loop fails with")]
            io::Result::Ok(())
        });
    }
}

async fn answer(store: &Store, frame: Vec<u8>) -> Bytes {
    let frame = Bytes::from(frame);
    match frame.first().copied() {
        Some(REQUEST) => store.handle(frame.slice(1..), &PeerIdentity::default()).await,
        Some(CLUSTER) => {
            let ClusterId { id, generation } = store.cluster();
            serde_json::to_vec(&(id, generation)).unwrap_or_default().into()
        }
        Some(JOIN) => match take_in(store, &frame[1..]).await {
            Ok(()) => Bytes::new(),
            Err(error) => error.to_string().into(),
        },
        _ => "unknown frame".into(),
    }
}

async fn take_in(store: &Store, asked: &[u8]) -> Outcome<()> {
    let (id, member): (MemberId, Member) = serde_json::from_slice(asked)?;
    store.add_member(id, member).await?;
    store.promote(id).await?;
    Ok(())
}

/// Connections that wait for the next question.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    idle: Mutex<HashMap<MemberId, Vec<TcpStream>>>,
}

impl Peers {
    fn idle(&self, id: MemberId) -> Option<TcpStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id)?.pop()
    }

    async fn carry(&self, id: MemberId, to: &Member, request: Bytes) -> Result<Bytes, TransportError> {
        let mut stream = match self.idle(id) {
            Some(stream) => stream,
            None => {
                let address = to.addresses.first().ok_or(TransportError::Unreachable)?;
                dial(address).await.map_err(|_| TransportError::Unreachable)?
            }
        };
        let mut frame = vec![REQUEST];
        frame.extend_from_slice(&request);
        let exchanged = match send(&mut stream, &frame).await {
            Ok(()) => receive(&mut stream).await,
            Err(error) => Err(error),
        };
        let Ok(answer) = exchanged else {
            // Most likely the others are dead as well, and a new connection tells whether the member is there.
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            return Err(TransportError::Lost);
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().push(stream);
        Ok(answer.into())
    }
}

impl Transport for Peers {
    fn call<'a>(&'a self, id: MemberId, to: &'a Member, request: Bytes, _limit: Duration) -> Answer<'a> {
        Box::pin(self.carry(id, to, request))
    }
}
