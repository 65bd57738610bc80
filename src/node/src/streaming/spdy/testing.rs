//! A SPDY client as Kubernetes' own is: it grants no windows and keeps to none.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::frame::{self, Frame};
use super::header::{Decoder, Encoder, Headers};

pub(crate) struct Client<I = DuplexStream> {
    input: ReadHalf<I>,
    output: WriteHalf<I>,
    encoder: Encoder,
    decoder: Decoder,
    next: u32,
    /// What came on each stream, and whether it has ended.
    received: HashMap<u32, (Vec<u8>, bool)>,
    pub(crate) frames: Vec<Frame>,
}

impl<I: AsyncRead + AsyncWrite> Client<I> {
    pub(crate) fn new(io: I) -> Self {
        let (input, output) = tokio::io::split(io);
        Self {
            input,
            output,
            encoder: Encoder::new().unwrap(),
            decoder: Decoder::new(),
            next: 1,
            received: HashMap::new(),
            frames: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        let mut wire = Vec::new();
        frame::encode(&mut wire, frame, &mut self.encoder).unwrap();
        self.output.write_all(&wire).await.unwrap();
    }

    pub(crate) async fn open(&mut self, headers: &[(&str, &str)], fin: bool) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = Headers(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        self.send(&Frame::SynStream { id, fin, headers }).await;
        id
    }

    pub(crate) async fn data(&mut self, id: u32, data: &[u8], fin: bool) {
        self.send(&Frame::Data { id, fin, length: u32::try_from(data.len()).unwrap() }).await;
        self.output.write_all(data).await.unwrap();
    }

    /// Reads one frame; data goes to its stream. False at the end.
    pub(crate) async fn step(&mut self) -> bool {
        let Ok(Some(frame)) = frame::read(&mut self.input, &mut self.decoder).await else { return false };
        match frame {
            Frame::Data { id, fin, length } => {
                let mut data = vec![0; length as usize];
                self.input.read_exact(&mut data).await.unwrap();
                let stream = self.received.entry(id).or_default();
                stream.0.extend_from_slice(&data);
                stream.1 |= fin;
            }
            other => self.frames.push(other),
        }
        true
    }

    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                assert!(self.step().await, "connection ended; frames {:?}", self.frames);
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.expect("in time");
    }

    pub(crate) fn ended(&self, id: u32) -> bool {
        self.received.get(&id).is_some_and(|s| s.1)
    }

    pub(crate) fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.received.get(&id).map_or(&[], |s| &s.0)).into_owned()
    }

    /// Everything the server sends on the stream.
    pub(crate) async fn read_to_end(&mut self, id: u32) -> String {
        self.until(|c| c.ended(id)).await;
        self.text(id)
    }
}
