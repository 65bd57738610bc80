//! What monitoring reads on the endpoint's port by plain GETs, over HTTP/2 and HTTP/1.1: `/metrics` (also for
//! `etcdctl check datascale`), `/health` and `/version`, under etcd's paths and names. Whoever may speak to the endpoint may
//! read them, and nobody else.
//!
//! HTTP/1.1 is one request and one answer here, after which the connection ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{Endpoint, VERSION};
use crate::members::Role;

/// With what HTTP/2 begins and no request of HTTP/1.1 does.
const HTTP2: &[u8; 3] = b"PRI";
/// Largest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// For a request to come in, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// One answer.
pub(super) struct Page {
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

/// A connection of which the first bytes have been looked at.
pub(super) struct Begun<T> {
    first: [u8; HTTP2.len()],
    /// Of those: how many there were, and how many have been read again.
    found: usize,
    given: usize,
    io: T,
}

impl<T: AsyncRead + Unpin> Begun<T> {
    /// Waits for the first bytes.
    pub(super) async fn of(mut io: T) -> io::Result<Self> {
        let (mut first, mut found) = ([0; HTTP2.len()], 0);
        while found < first.len() {
            match io.read(&mut first[found..]).await? {
                0 => break,
                more => found += more,
            }
        }
        Ok(Self { first, found, given: 0, io })
    }

    pub(super) fn is_http2(&self) -> bool {
        self.first == *HTTP2
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Begun<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.first[this.given..this.found];
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let some = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..some]);
        this.given += some;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Begun<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Endpoint {
    /// What is at a path.
    pub(super) fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(Page { content_type: "text/plain; version=0.0.4", body: self.metrics() }),
            "/health" => {
                let reason = match self.store().reachable_leader() {
                    None => "RAFT NO LEADER",
                    Some(_) if self.alarmed() => "ALARM NOSPACE",
                    Some(_) => "",
                };
                let healthy = reason.is_empty();
                let body = format!("{{\"health\":\"{healthy}\",\"reason\":\"{reason}\"}}");
                Some(Page { content_type: "application/json", body })
            }
            "/version" => {
                let body = format!("{{\"etcdserver\":\"{VERSION}\",\"etcdcluster\":\"{VERSION}\"}}");
                Some(Page { content_type: "application/json", body })
            }
            _ => None,
        }
    }

    fn metrics(&self) -> String {
        let (status, stats) = (self.store().status(), self.store().stats());
        let leader = self.store().reachable_leader();
        let learner = status.members.iter().any(|member| member.id == status.id && member.role == Role::Learner);
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, value: u64| {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
        };
        gauge(
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            leader.is_some().into(),
        );
        gauge("etcd_server_is_leader", "Whether or not this member is a leader.", (leader == Some(status.id)).into());
        gauge("etcd_server_is_learner", "Whether or not this member is a learner.", learner.into());
        gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of data and log.", stats.live_bytes + stats.log_bytes);
        gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the newest versions.", stats.live_bytes);
        gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", stats.keys);
        gauge("etcd_debugging_mvcc_current_revision", "The current revision of store.", stats.revision);
        gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", stats.compacted);
        gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", stats.watchers);
        gauge("etcd_debugging_lease_total", "Total number of leases.", stats.leases);
        if let Some(resident) = resident_bytes() {
            gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident);
        }
        let name = "etcd_server_version";
        let help = "Which version clients may expect.";
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{server_version=\"{VERSION}\"}} 1\n"
        ));
        text
    }

    /// Answers the one request of a client of HTTP/1.1.
    pub(super) async fn serve_http1<T>(&self, mut io: T) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let exchange = async {
            let head = head(&mut io).await?;
            io.write_all(self.answer_http1(&head).as_bytes()).await?;
            io.shutdown().await
        };
        tokio::time::timeout(PATIENCE, exchange).await?
    }

    fn answer_http1(&self, head: &str) -> String {
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let path = target.map(|target| target.split('?').next().unwrap_or_default());
        let (status, page) = match (method, path, version) {
            (Some("GET"), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) => match self.page(path) {
                Some(page) => ("200 OK", page),
                None => ("404 Not Found", text("not found: this port speaks gRPC, and has /metrics\n")),
            },
            (Some(_), Some(_), Some("HTTP/1.1" | "HTTP/1.0")) => ("405 Method Not Allowed", text("GET only\n")),
            _ => ("400 Bad Request", text("this port speaks gRPC\n")),
        };
        let Page { content_type, body } = page;
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

fn text(body: &str) -> Page {
    Page { content_type: "text/plain; charset=utf-8", body: body.to_owned() }
}

/// The head of a request, to its empty line.
async fn head(io: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    loop {
        let seen = head.len();
        if io.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        // The end may lie across two reads.
        if head[seen.saturating_sub(3)..].windows(4).any(|four| four == b"\r\n\r\n") {
            return String::from_utf8(head).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        }
    }
}

/// What this process has in memory, as the kernel knows it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        for (text, http2) in [("PRI * HTTP/2.0\r\n", true), ("GET / HTTP/1.1\r\n", false), ("PR", false), ("", false)] {
            let mut begun = Begun::of(text.as_bytes()).await.unwrap();
            assert_eq!(begun.is_http2(), http2, "{text}");
            let mut again = String::new();
            begun.read_to_string(&mut again).await.unwrap();
            assert_eq!(again, text);
        }
    }

    #[tokio::test]
    async fn a_head_ends_with_an_empty_line_and_somewhere() {
        assert_eq!(head(&mut &b"GET / HTTP/1.1\r\na: b\r\n\r\n"[..]).await.unwrap(), "GET / HTTP/1.1\r\na: b\r\n\r\n");
        assert!(head(&mut &b"GET / HTTP/1.1\r\n"[..]).await.is_err());
        assert!(head(&mut &vec![b'a'; MAX_HEAD * 2][..]).await.is_err());
    }

    #[test]
    fn the_kernel_knows_the_memory_of_this_process() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
