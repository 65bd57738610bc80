//! SPDY/3.1 as a server: many streams over one connection.
//!
//! [`frame`] is the wire format, [`header`] the compressed name/value blocks, [`session`] reads and writes frames,
//! [`stream`] is what the rest of the node sees. Source: the SPDY protocol drafts 3 and 3.1.

pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod session;
pub(crate) mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use session::{Session, open};
pub(crate) use stream::{Stream, StreamReader, StreamWriter};
