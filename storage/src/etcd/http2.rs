//! HTTP/2 (RFC 9113), the server's side of it, as far as gRPC and a few plain pages need it.

pub(super) mod hpack;
