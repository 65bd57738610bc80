//! What a request may look like, checked before it enters the log.

use bytes::Bytes;

use crate::command::Command;
use crate::error::StoreError;
use crate::mvcc::contains;
use crate::types::{Compare, Op, Txn};

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 16 << 10;
/// Largest transaction, in bytes of its keys and values with some overhead per operation.
pub const MAX_TXN_BYTES: usize = 4 << 20;
/// How deep transactions may stand in transactions.
pub const MAX_TXN_DEPTH: usize = 16;

/// Whether a transaction can change anything.
pub(crate) fn only_reads(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Range(_) => true,
        Op::Txn(inner) => only_reads(inner),
        Op::Put { .. } | Op::Update { .. } | Op::Delete { .. } => false,
    })
}

/// Refuses what the state machine must not see. Returns the size.
pub(crate) fn check(command: &Command) -> Result<usize, StoreError> {
    if let Command::Txn(txn) = command {
        match (&txn.success[..], &txn.failure[..]) {
            // The most frequent one, which has nothing to collide with.
            ([Op::Put { key, .. }], []) => check_key(key)?,
            _ => drop(check_txn(txn, 0)?),
        }
    }
    let size = command.size();
    if size > MAX_TXN_BYTES { Err(StoreError::TooLarge { size, max: MAX_TXN_BYTES }) } else { Ok(size) }
}

/// What one way through a transaction, or several of which one is taken, may change.
#[derive(Default)]
struct Changes<'a> {
    puts: Vec<&'a Bytes>,
    deletes: Vec<(&'a Bytes, Option<&'a Bytes>)>,
}

impl Changes<'_> {
    /// A key is put here and changed in some way there.
    fn collide(&self, other: &Self) -> bool {
        let deleted =
            |by: &Self, put: &Bytes| by.deletes.iter().any(|(key, end)| contains(key, end.map(|e| &e[..]), put));
        self.puts.iter().any(|put| other.puts.contains(put) || deleted(other, put))
            || other.puts.iter().any(|put| deleted(self, put))
    }
}

fn is_nested(compare: &Compare) -> bool {
    matches!(compare, Compare::All { condition, .. } if matches!(**condition, Compare::All { .. }))
}

/// Only one branch runs, so the two may change the same keys.
fn check_txn(txn: &Txn, depth: usize) -> Result<Changes<'_>, StoreError> {
    if depth > MAX_TXN_DEPTH {
        return Err(StoreError::TooDeep { max: MAX_TXN_DEPTH });
    }
    // No log entry has a condition on ranges within another.
    if txn.compares.iter().any(is_nested) {
        return Err(StoreError::TooDeep { max: 1 });
    }
    let mut either = check_branch(&txn.success, depth)?;
    let mut other = check_branch(&txn.failure, depth)?;
    either.puts.append(&mut other.puts);
    either.deletes.append(&mut other.deletes);
    Ok(either)
}

fn check_key(key: &Bytes) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(StoreError::KeySize { size: key.len(), max: MAX_KEY_BYTES });
    }
    Ok(())
}

fn check_branch(ops: &[Op], depth: usize) -> Result<Changes<'_>, StoreError> {
    let mut own = Changes::default();
    let mut inner: Vec<Changes<'_>> = Vec::new();
    for op in ops {
        match op {
            Op::Put { key, .. } | Op::Update { key, .. } => {
                check_key(key)?;
                own.puts.push(key);
            }
            Op::Delete { key, end, .. } => own.deletes.push((key, end.as_ref())),
            Op::Txn(txn) => inner.push(check_txn(txn, depth + 1)?),
            Op::Range(_) => {}
        }
    }
    own.puts.sort_unstable();
    let repeated = own.puts.windows(2).any(|pair| pair[0] == pair[1]);
    let also_deleted = own.deletes.iter().any(|(key, end)| {
        let end = end.map(|end| &end[..]);
        own.puts.iter().any(|put| contains(key, end, put))
    });
    if repeated || also_deleted {
        return Err(StoreError::DuplicateKey);
    }
    for mut changes in inner {
        if own.collide(&changes) {
            return Err(StoreError::DuplicateKey);
        }
        own.puts.append(&mut changes.puts);
        own.deletes.append(&mut changes.deletes);
    }
    Ok(own)
}
