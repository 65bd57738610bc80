//! What a request may look like, checked before it enters the log.

use bytes::Bytes;

use crate::command::Command;
use crate::error::StoreError;
use crate::mvcc::contains;
use crate::types::{Op, Txn};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 16 << 10;
/// Largest transaction, in bytes of its keys and values with some overhead per operation.
pub const MAX_TXN_BYTES: usize = 4 << 20;

/// Whether a transaction can change anything.
pub(crate) fn only_reads(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

/// Refuses what the state machine must not see. Returns the size.
pub(crate) fn check(command: &Command) -> Result<usize, StoreError> {
    if let Command::Txn(txn) = command {
        check_branch(&txn.success)?;
        check_branch(&txn.failure)?;
    }
    let size = command.size();
    if size > MAX_TXN_BYTES { Err(StoreError::TooLarge { size, max: MAX_TXN_BYTES }) } else { Ok(size) }
}

fn check_branch(ops: &[Op]) -> Result<(), StoreError> {
    let mut puts: Vec<&Bytes> = Vec::new();
    for op in ops {
        if let Op::Put { key, .. } = op {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(StoreError::KeySize { size: key.len(), max: MAX_KEY_BYTES });
            }
            puts.push(key);
        }
    }
    puts.sort_unstable();
    let repeated = puts.windows(2).any(|pair| pair[0] == pair[1]);
    let also_deleted = ops.iter().any(|op| match op {
        Op::Delete { key, end, .. } => puts.iter().any(|put| contains(key, end.as_deref(), put)),
        Op::Put { .. } | Op::Range(_) => false,
    });
    if repeated || also_deleted { Err(StoreError::DuplicateKey) } else { Ok(()) }
}
