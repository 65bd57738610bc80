//! HTTP/2 (RFC 9113), the server's side of it, as far as gRPC and a few plain pages need it.
//!
//! Our own, since what a library takes for each call was half of a put's processor time (`docs/adr/0018`). [`receive`] reads
//! frames and keeps the rules, [`streams`] has the open calls and what goes out, [`hpack`] the headers, [`frame`] the bytes.
//! None of them touches a socket; the task of a connection is in `serve`.

pub(super) mod frame;
pub(super) mod hpack;
pub(super) mod receive;
pub(super) mod streams;
#[cfg(test)]
mod tests;

pub use frame::Violation;
pub use hpack::read_headers;
pub use receive::read_frames;
