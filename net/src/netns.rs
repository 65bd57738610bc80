//! Network namespaces: the one rk's sockets live in, and those of pods.
//!
//! Invariant: no thread of the async runtime ever changes its namespace. What must happen inside one runs on a thread
//! made for it, which ends there. (nlink opens its sockets the same way.)

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nlink::Connection;
use nlink::netlink::{Netfilter, Nftables, Route};

use crate::error::NetError;

/// An open network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Netns(Arc<File>);

impl Netns {
    /// The calling thread's own.
    pub(crate) fn current() -> Result<Self, NetError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    pub(crate) fn open(path: &Path) -> Result<Self, NetError> {
        let file = File::open(path).map_err(|source| NetError::Netns { path: path.to_owned(), source })?;
        Ok(Self(Arc::new(file)))
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Netlink connections inside.
    pub(crate) fn route(&self) -> nlink::Result<Connection<Route>> {
        Connection::new_in(self.0.as_fd())
    }

    pub(crate) fn nftables(&self) -> nlink::Result<Connection<Nftables>> {
        Connection::new_in(self.0.as_fd())
    }

    pub(crate) fn conntrack(&self) -> nlink::Result<Connection<Netfilter>> {
        Connection::new_in(self.0.as_fd())
    }

    /// Writes a `/proc/sys/net` setting of the namespace (that tree shows the namespace of the thread that opens it).
    pub(crate) async fn write_sysctl(&self, name: &str, value: &str) -> Result<(), NetError> {
        let path = PathBuf::from("/proc/sys").join(name);
        let error = |source| NetError::File { path: path.clone(), source };
        let (file, target, value) = (Arc::clone(&self.0), path.clone(), value.to_owned());
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let written = setns(file.as_ref(), CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .and_then(|()| write_if_different(&target, &value));
                // The receiver is only gone when the caller was dropped.
                drop(done.send(written));
            })
            .map_err(error)?;
        result.await.map_err(|_| NetError::ThreadEnded)?.map_err(error)
    }
}

/// A setting that is right already is not written: `/proc/sys` may be read-only where a host prepared it.
fn write_if_different(path: &Path, value: &str) -> io::Result<()> {
    if std::fs::read_to_string(path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}
