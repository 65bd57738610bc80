//! What one connection may have in memory here: a client that sends half of its messages, or reads none of its answers,
//! stalls itself and nobody else.
//!
//! HTTP/2's windows bound what has arrived and is not taken yet ([`STREAM_WINDOW`] a call). Large messages and answers
//! are counted here, and reads that may be large take turns.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls that one connection may have open at once; a watch stream is one, however many watches it carries.
pub const MAX_CALLS: u32 = 2048;
/// Watches of one connection, over all its streams.
pub const MAX_WATCHES: usize = 131_072;
/// Reads of more than one key that one connection may have under way; more wait.
pub const MAX_READERS: usize = 32;
/// What a client may send on one call before it is taken. As small as it may be: it is a client's to fill, on every call.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
/// Calls that wait for their turn must not keep others from being read.
pub(super) const CONNECTION_WINDOW: u32 = MAX_CALLS * STREAM_WINDOW;
/// Messages and answers up to this size are not counted.
pub(super) const SMALL: usize = 16 << 10;
/// Bytes of large messages that are coming in, and of large answers that are going out.
const BYTES: usize = 64 << 20;
const UNIT: usize = 1 << 10;

#[derive(Debug)]
pub(super) struct Limits {
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self {
            incoming: of(BYTES / UNIT),
            outgoing: of(BYTES / UNIT),
            readers: of(MAX_READERS),
            watches: of(MAX_WATCHES),
        }
    }
}

/// Room for so many bytes; for more than there can ever be, all of it.
async fn room(of: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    if bytes <= SMALL {
        return None;
    }
    let units = u32::try_from((bytes / UNIT).min(BYTES / UNIT)).unwrap_or(u32::MAX);
    // Never closed.
    of.clone().acquire_many_owned(units).await.ok()
}

impl Limits {
    pub(super) async fn incoming(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        room(&self.incoming, bytes).await
    }

    pub(super) async fn outgoing(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        room(&self.outgoing, bytes).await
    }

    pub(super) async fn reading(&self) -> Option<OwnedSemaphorePermit> {
        self.readers.clone().acquire_owned().await.ok()
    }

    /// Nothing when there are too many.
    pub(super) fn watch(&self) -> Option<OwnedSemaphorePermit> {
        self.watches.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_of_a_connection_are_counted_and_given_back() {
        let limits = Limits::default();
        let mut held: Vec<_> = (0..MAX_WATCHES).map(|_| limits.watch().expect("there is room")).collect();
        assert!(limits.watch().is_none());
        held.pop();
        assert!(limits.watch().is_some());
    }

    #[tokio::test]
    async fn what_is_larger_than_all_the_room_takes_all_of_it() {
        let limits = Limits::default();
        assert!(limits.outgoing(SMALL).await.is_none());
        let all = limits.outgoing(10 * BYTES).await.expect("room");
        assert_eq!((all.num_permits(), limits.outgoing.available_permits()), (BYTES / UNIT, 0));
        assert_eq!(limits.incoming.available_permits(), BYTES / UNIT);
    }
}
