//! How members reach each other: bytes in, bytes out. The executable carries them; the store knows neither TLS nor HTTP.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::members::{Member, MemberId};

/// Largest request that a transport must carry, in bytes.
pub const MAX_RPC_BYTES: usize = 16 << 20;

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The request has not left: there is no connection, or it was refused.
    #[error("the member cannot be reached")]
    Unreachable,
    /// The request may have been carried out.
    #[error("the answer was lost")]
    Lost,
}

pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>>;

/// Carries requests to other members. The caller drops the future when it has waited long enough.
///
/// What arrives is handed to [`Store::handle`](crate::Store::handle) there, at most once per call, and its answer comes
/// back. Requests may overtake each other.
pub trait Transport: Debug + Send + Sync + 'static {
    /// `limit` is how long the caller will wait.
    fn call<'a>(&'a self, id: MemberId, to: &'a Member, request: Bytes, limit: Duration) -> Answer<'a>;
}

/// Who sent a request, as far as the transport has made sure of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The member's name; nothing when the transport does not know names.
    pub name: Option<String>,
}
