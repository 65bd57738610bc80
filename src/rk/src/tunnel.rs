//! The agent's outbound connection, through which the server reaches the node's HTTP API.
//!
//! The agent asks `GET /rk/v1/tunnel` on the API port with its node certificate and `Upgrade: rk-tunnel/1`. Both
//! sides then speak yamux on that connection: the server opens streams, the agent answers each as an HTTP/1.1
//! connection to its kubelet API. So an agent needs no open port and may sit behind NAT.

pub(crate) mod agent;
pub(crate) mod server;

pub(crate) const PATH: &str = "/rk/v1/tunnel";
pub(crate) const PROTOCOL: &str = "rk-tunnel/1";

/// Streams a tunnel carries at once: one per log follow, exec, attach or port-forward connection.
const MAX_STREAMS: usize = 1024;

fn multiplexing() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    // Per stream at least yamux's 256 KiB; the bound is for the whole connection.
    config.set_max_connection_receive_window(Some(MAX_STREAMS * 256 * 1024));
    config
}
