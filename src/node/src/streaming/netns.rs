//! TCP connections made inside a pod's network namespace.
//!
//! A thread of its own enters the namespace, connects and ends: no thread of the runtime ever changes its namespace. A
//! socket stays in the namespace it was made in.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const CONNECT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot open network namespace {}", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("failed to connect to localhost:{port} inside namespace, IPv4: {v4}, IPv6: {v6}")]
    Connect { port: u16, v4: io::Error, v6: io::Error },
    #[error("cannot connect")]
    Thread(#[source] io::Error),
}

/// Connects to `localhost:port` inside the namespace: IPv4 first, then IPv6.
pub(crate) async fn dial_localhost(namespace: &Path, port: u16) -> Result<TcpStream, DialError> {
    let path = namespace.to_owned();
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("port-forward".into())
        // The receiver is only gone when the client is.
        .spawn(move || drop(done.send(connect(path, port))))
        .map_err(DialError::Thread)?;
    let stream = result.await.map_err(|_| DialError::Thread(io::ErrorKind::BrokenPipe.into()))??;
    stream.set_nonblocking(true).map_err(DialError::Thread)?;
    TcpStream::from_std(stream).map_err(DialError::Thread)
}

fn connect(path: PathBuf, port: u16) -> Result<std::net::TcpStream, DialError> {
    let entered = File::open(&path).and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?));
    entered.map_err(|source| DialError::Namespace { path, source })?;
    let dial = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT);
    dial(Ipv4Addr::LOCALHOST.into())
        .or_else(|v4| dial(Ipv6Addr::LOCALHOST.into()).map_err(|v6| DialError::Connect { port, v4, v6 }))
}
