//! One SPDY connection: a task that reads frames and hands them to streams, and one that writes what streams send.
//!
//! What waits to be read is bounded for the whole session: a client that sends more waits, windows or not.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::frame::{self, Frame, INITIAL_WINDOW, Reset, SpdyError};
use super::header::{Decoder, Encoder, Headers};
use super::stream::{Chunk, Stream};
use super::window::Windows;

/// Frames that wait for a slow client.
const AHEAD: usize = 32;
/// New streams nobody has looked at.
const BACKLOG: usize = 16;
/// Bytes of all streams that wait to be read.
const UNREAD: usize = 1 << 20;
const PIECE: usize = 32 << 10;
const MAX_STREAMS: usize = 2_048;
const BATCH: usize = 64 << 10;
/// How long the client may take to hang up after the last frame.
const LINGER: Duration = Duration::from_secs(10);

/// A frame, and the payload of a data frame.
#[derive(Debug)]
pub(super) enum Outgoing {
    Frame(Frame),
    Data {
        id: u32,
        fin: bool,
        payload: Bytes,
    },
    /// Ends the connection; nothing is written after it.
    Close,
}

/// What session and streams share.
pub(super) struct Shared {
    pub(super) out: mpsc::Sender<Outgoing>,
    pub(super) windows: Mutex<Windows>,
    streams: Mutex<HashMap<u32, Entry>>,
}

struct Entry {
    /// `None` once the client has ended its side.
    chunks: Option<mpsc::UnboundedSender<Chunk>>,
    /// This side has ended.
    finished: bool,
}

impl Shared {
    pub(super) fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This side of the stream is over.
    pub(super) fn finish(&self, id: u32) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&id) {
            entry.finished = true;
            if entry.chunks.is_none() {
                streams.remove(&id);
            }
        }
        drop(streams);
        self.windows().close(id);
    }

    /// The client's side of the stream is over.
    fn finish_remote(&self, id: u32) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&id) {
            entry.chunks = None;
            if entry.finished {
                streams.remove(&id);
            }
        }
    }

    /// Both sides are over at once.
    fn drop_stream(&self, id: u32) {
        if let Some(chunks) = self.streams().remove(&id).and_then(|e| e.chunks) {
            drop(chunks.send(Chunk::Reset));
        }
        self.windows().close(id);
    }
}

/// A connection as its server sees it.
pub(crate) struct Session {
    /// The client's streams, as it opens them. Refused from the time this is dropped.
    pub(crate) incoming: mpsc::Receiver<Stream>,
    /// Cancelled when the connection has ended.
    pub(crate) gone: CancellationToken,
    shared: Arc<Shared>,
    reader: AbortOnDropHandle<()>,
    writer: AbortOnDropHandle<()>,
}

/// Takes over a connection that has been upgraded to SPDY/3.1.
pub(crate) fn open<I>(io: I) -> Result<Session, SpdyError>
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let (input, output) = tokio::io::split(io);
    let (out, queue) = mpsc::channel(AHEAD);
    let (backlog, incoming) = mpsc::channel(BACKLOG);
    let shared = Arc::new(Shared { out, windows: Mutex::new(Windows::new()), streams: Mutex::default() });
    let gone = CancellationToken::new();
    let encoder = Encoder::new()?;
    let written = gone.clone();
    let writer = tokio::spawn(async move {
        if let Err(error) = write(output, queue, encoder).await {
            tracing::debug!(%error, "spdy connection can't be written to");
            written.cancel();
        }
    });
    let mut reader = Reader {
        input: BufReader::with_capacity(PIECE, input),
        decoder: Decoder::new(),
        shared: shared.clone(),
        backlog,
        unread: Arc::new(Semaphore::new(UNREAD)),
        last: 0,
        closing: false,
    };
    let ended = gone.clone();
    let reader = tokio::spawn(async move {
        let stop = ended.clone();
        if let Some(Err(error)) = stop.run_until_cancelled(reader.run()).await {
            tracing::debug!(%error, "spdy connection broken off");
            let status = u32::from(!matches!(error, SpdyError::Io(_)));
            reader.send(Frame::GoAway { last: reader.last, status }).await;
            reader.shared.out.send(Outgoing::Close).await.unwrap_or_default();
        }
        let open: Vec<u32> = reader.shared.streams().keys().copied().collect();
        open.into_iter().for_each(|id| reader.shared.drop_stream(id));
        ended.cancel();
    });
    let (reader, writer) = (AbortOnDropHandle::new(reader), AbortOnDropHandle::new(writer));
    Ok(Session { incoming, gone, shared, reader, writer })
}

impl Session {
    /// Sends what streams have left to send, says good-bye, and waits a while for the client to hang up.
    pub(crate) async fn close(self) {
        let Session { incoming, gone, shared, reader, writer } = self;
        drop(incoming);
        let farewell = async {
            let goodbye = Frame::GoAway { last: 0, status: 0 };
            for last in [Outgoing::Frame(goodbye), Outgoing::Close] {
                if shared.out.send(last).await.is_err() {
                    return;
                }
            }
            gone.cancelled().await;
        };
        if tokio::time::timeout(LINGER, farewell).await.is_err() {
            tracing::debug!("spdy client did not hang up");
        }
        drop((reader, writer));
    }
}

async fn write(
    mut output: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    mut encoder: Encoder,
) -> Result<(), SpdyError> {
    let mut batch = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let mut closes = false;
        while let Some(outgoing) = next.take() {
            match outgoing {
                Outgoing::Frame(frame) => frame::encode(&mut batch, &frame, &mut encoder)?,
                Outgoing::Data { id, fin, payload } => {
                    let length = u32::try_from(payload.len()).unwrap_or(0);
                    frame::encode(&mut batch, &Frame::Data { id, fin, length }, &mut encoder)?;
                    batch.extend_from_slice(&payload);
                }
                Outgoing::Close => closes = true,
            }
            if !closes && batch.len() < BATCH {
                next = queue.try_recv().ok();
            }
        }
        output.write_all(&batch).await?;
        output.flush().await?;
        batch.clear();
        batch.shrink_to(BATCH);
        if closes {
            break;
        }
    }
    Ok(output.shutdown().await?)
}

struct Reader<I> {
    input: I,
    decoder: Decoder,
    shared: Arc<Shared>,
    backlog: mpsc::Sender<Stream>,
    unread: Arc<Semaphore>,
    /// The newest stream of the client.
    last: u32,
    /// The client has said good-bye: no new streams.
    closing: bool,
}

impl<I: AsyncRead + Unpin> Reader<I> {
    async fn run(&mut self) -> Result<(), SpdyError> {
        while let Some(frame) = frame::read(&mut self.input, &mut self.decoder).await? {
            match frame {
                Frame::SynStream { id, fin, headers } => self.accept(id, fin, headers).await?,
                Frame::Data { id, fin, length } => self.data(id, fin, length).await?,
                Frame::RstStream { id, .. } => self.shared.drop_stream(id),
                Frame::Headers { id, fin: true, .. } => self.shared.finish_remote(id),
                // Even numbers would be answers to pings of this side, which sends none.
                Frame::Ping(id) if id % 2 == 1 => self.send(Frame::Ping(id)).await,
                Frame::Settings(settings) => {
                    let initial = settings.iter().find(|(id, _)| *id == INITIAL_WINDOW);
                    if let Some((_, value)) = initial {
                        self.shared.windows().set_initial(*value);
                    }
                }
                Frame::WindowUpdate { id, delta } => self.grant(id, delta).await?,
                Frame::GoAway { .. } => self.closing = true,
                Frame::SynReply { .. } | Frame::Headers { .. } | Frame::Ping(_) | Frame::Other(_) => {}
            }
        }
        Ok(())
    }

    async fn send(&mut self, frame: Frame) {
        if self.shared.out.send(Outgoing::Frame(frame)).await.is_err() {
            tracing::trace!("spdy connection is closed already");
        }
    }

    async fn reset(&mut self, id: u32, why: Reset) {
        self.send(Frame::RstStream { id, status: why as u32 }).await;
    }

    async fn accept(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), SpdyError> {
        // Numbers may come out of order: Kubernetes' client draws them before it queues for the connection.
        if id.is_multiple_of(2) || self.shared.streams().contains_key(&id) {
            self.reset(id, Reset::Protocol).await;
            return Err(SpdyError::Malformed("a stream number that can't be"));
        }
        self.last = self.last.max(id);
        if self.closing || self.backlog.is_closed() || self.shared.streams().len() >= MAX_STREAMS {
            self.reset(id, Reset::Refused).await;
            return Ok(());
        }
        let (chunks, receiver) = mpsc::unbounded_channel();
        self.shared.windows().open(id);
        self.shared.streams().insert(id, Entry { chunks: (!fin).then_some(chunks), finished: false });
        self.send(Frame::SynReply { id, fin: false, headers: Headers::default() }).await;
        if self.backlog.send(Stream::new(id, headers, receiver, &self.shared)).await.is_err() {
            self.shared.drop_stream(id);
            self.reset(id, Reset::Refused).await;
        }
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, length: u32) -> Result<(), SpdyError> {
        let chunks = self.shared.streams().get(&id).and_then(|e| e.chunks.clone());
        if chunks.is_none() && length > 0 {
            self.reset(id, Reset::InvalidStream).await;
        }
        let mut left = length as usize;
        while left > 0 {
            let size = left.min(PIECE);
            let mut piece = vec![0; size];
            self.input.read_exact(&mut piece).await?;
            left -= size;
            let Some(chunks) = &chunks else { continue };
            // Waits for readers; a stream whose reader is gone holds nothing.
            let hold = u32::try_from(size).unwrap_or(u32::MAX);
            let permit = self.unread.clone().acquire_many_owned(hold).await;
            let permit = permit.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            if chunks.send(Chunk::Data(piece.into(), permit)).is_err() {
                tracing::trace!(id, "data for a stream that nobody reads");
            }
        }
        if fin {
            self.shared.finish_remote(id);
        }
        Ok(())
    }

    async fn grant(&mut self, id: u32, delta: u32) -> Result<(), SpdyError> {
        let granted = self.shared.windows().grant(id, delta);
        match granted {
            Ok(()) => {}
            Err(_) if id == 0 => return Err(SpdyError::Malformed("a window that is too large")),
            Err(_) => {
                self.shared.drop_stream(id);
                self.reset(id, Reset::FlowControl).await;
            }
        }
        Ok(())
    }
}
