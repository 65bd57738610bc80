//! The cluster's certificate authority, the leaf certificates it issues, and join tokens.
//!
//! One CA signs every certificate of a cluster; what a leaf may be used for is decided by its extended key usage
//! (client or server), never by a second CA. Private keys are only ever written through [`files::write_private`]
//! (mode 0600, atomic, synced). Time is a parameter throughout. Callers: `rk` (start, join), `controllers` (CSR
//! signing) and `node` (its own certificates).
#![forbid(unsafe_code)]

pub mod authority;
pub mod files;
pub mod leaf;
pub mod request;
pub mod token;

pub use authority::{Ca, CaError};
pub use leaf::{Identity, KeyCert, Leaf};
pub use token::{JoinToken, TokenError};
