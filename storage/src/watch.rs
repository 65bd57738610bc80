//! Watches: the receiving side.

use crate::error::WatchError;
use crate::types::WatchBatch;

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// The next revision that has matching changes. Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        Err(WatchError::Closed)
    }

    /// Asks for progress from elsewhere while [`Watcher::next`] waits.
    pub fn progress_handle(&self) -> ProgressHandle {
        ProgressHandle {}
    }
}

/// Makes a watcher yield an empty batch once it has delivered everything up to the store's present revision.
#[derive(Clone, Debug)]
pub struct ProgressHandle {}

impl ProgressHandle {
    /// The empty batch comes after all changes up to now.
    pub fn request(&self) {}
}
