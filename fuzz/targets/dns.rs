//! DNS messages: whatever comes in a datagram, the server goes on answering.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use net::dns::{Dns, DnsConfig, Zone};
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

/// A query for the A record of `dns-version.cluster.local`.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0bdns-version\x07cluster\x05local\x00\x00\x01\x00\x01";

struct Server {
    runtime: Runtime,
    client: UdpSocket,
    _dns: Dns,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime");
    let (dns, client) = runtime.block_on(async {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // No resolver: names of others are answered without asking anybody.
        let config = DnsConfig { listen, resolv_conf: "/nonexistent".into() };
        let dns = Dns::start(config).await.expect("start the server");
        dns.set_zone(Zone::new("cluster.local"));
        let client = UdpSocket::bind(listen).await.expect("make a socket");
        client.connect(dns.addr()).await.expect("connect the socket");
        (dns, client)
    });
    Server { runtime, client, _dns: dns }
});

fuzz_target!(|message: &[u8]| {
    let Server { runtime, client, .. } = &*SERVER;
    runtime.block_on(async {
        client.send(message).await.expect("send");
        client.send(QUERY).await.expect("send");
        let answered = async {
            let mut answer = [0; 4096];
            loop {
                let length = client.recv(&mut answer).await.expect("receive");
                if length > 2 && answer[..2] == QUERY[..2] {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), answered).await.expect("the server goes on answering");
    });
});
