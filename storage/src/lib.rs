//! Raft-replicated, multi-version key-value store.
