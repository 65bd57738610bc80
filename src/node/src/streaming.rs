//! Remote commands and port-forwards, in every protocol that clients of the API server speak.
//!
//! Two wires: WebSocket ([`websocket`], RFC 6455) with one channel byte per message, and SPDY/3.1 ([`spdy`]), bare or
//! tunnelled in a WebSocket. Above them, wire-independent: [`command`] (a process and its client's streams) and
//! [`port_forward`] (connections into a pod's network namespace). [`crate::http`] negotiates and hands over the
//! upgraded connection.
//!
//! Everything that comes in is bounded: frames, headers, streams and what waits to be read.

pub(crate) mod channels;
pub(crate) mod command;
pub(crate) mod netns;
pub(crate) mod port_forward;
pub(crate) mod protocol;
pub(crate) mod resize;
pub(crate) mod spdy;
pub(crate) mod spdy_command;
pub(crate) mod tunnel;
pub(crate) mod verdict;
pub(crate) mod websocket;
