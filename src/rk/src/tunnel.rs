//! The agent's outbound connection, through which the server reaches the node's HTTP API.
//!
//! The agent asks `GET /rk/v1/tunnel` on the API port with its node certificate and `Upgrade: rk-tunnel/1`. Both
//! sides then speak yamux on that connection: the server opens streams, the agent answers each as an HTTP/1.1
//! connection to its kubelet API. So an agent needs no open port and may sit behind NAT. With several servers, every node
//! keeps a tunnel to each ([`standing`]), the nodes of other servers included. Each side gives the other up
//! when nothing is heard of it ([`pulse`]), and goes on reading when both have much to write ([`relief`]).

mod agent;
mod pulse;
mod relief;
pub(crate) mod server;
pub(crate) mod standing;
#[cfg(test)]
mod tests;

pub(crate) const PATH: &str = "/rk/v1/tunnel";
pub(crate) const PROTOCOL: &str = "rk-tunnel/1";

/// Streams a server opens at once in a tunnel: one per log follow, exec, attach or port-forward connection.
const MAX_STREAMS: usize = 1024;
/// yamux ends the whole connection over one stream too many, and each side forgets a closed stream at its own time: its
/// limit is never to be met.
const YAMUX_STREAMS: usize = 2 * MAX_STREAMS;

fn multiplexing() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(YAMUX_STREAMS);
    // Per stream at least yamux's 256 KiB; the bound is for the whole connection.
    config.set_max_connection_receive_window(Some(YAMUX_STREAMS * 256 * 1024));
    config
}
