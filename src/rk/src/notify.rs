//! Tells systemd that the service is ready (sd_notify(3)), when it asked to be told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1`. Without `NOTIFY_SOCKET` there is nobody to tell.
pub(crate) fn ready() {
    let Some(target) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match target.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&target),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told that rk is ready");
    }
}
