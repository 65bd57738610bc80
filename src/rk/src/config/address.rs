//! This box's own name and address.

use anyhow::Context;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The host name, lower-case.
pub(super) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("read the host name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// The source address of the default route; without one, the first address of an interface that is up.
pub(super) fn default_source() -> anyhow::Result<IpAddr> {
    // Connecting a UDP socket sends nothing; the kernel only picks route and source. 192.0.2.1 is a documentation
    // address (RFC 5737), so only the default route leads there.
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| socket.local_addr()));
    if let Ok(source) = routed {
        return Ok(source.ip());
    }
    let up = InterfaceFlags::IFF_UP;
    let skip = |name: &str| name == "lo" || name.starts_with("rk") || name.starts_with("veth");
    let first = getifaddrs()
        .context("list network interfaces")?
        .filter(|interface| interface.flags.contains(up) && !skip(&interface.interface_name))
        .find_map(|interface| interface.address?.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip));
    first.map(IpAddr::V4).context(
        "this box has no address but loopback, which pods cannot reach: connect it, or give it one with \
         `ip address add 10.44.0.1/32 dev lo` and name that with --node-ip",
    )
}
