//! The few store operations that verbs are made of: read one object, write it if it is unchanged, remove it likewise.

use bytes::Bytes;
use objects::status::Status;
use storage::{Compare, Durability, KeyValue, Op, RangeRequest, Revision, StoreError, Txn, TxnResponse};

use crate::{alloc::Extra, cache::store_status, registry::Resource, server::Inner};

/// How a conditional write ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    At(Revision),
    /// Somebody else wrote in between.
    Raced,
}

/// The object under a key, as this member has it.
pub(crate) fn read_local(inner: &Inner, key: &Bytes) -> Result<Option<KeyValue>, Status> {
    let range = inner.config.store.range(&RangeRequest::key(key.clone())).map_err(Status::internal)?;
    Ok(range.kvs.into_iter().next())
}

/// The object under a key, not older than anything acknowledged before.
pub(crate) async fn read(inner: &Inner, key: &Bytes) -> Result<Option<KeyValue>, Status> {
    inner.hub.barrier().await?;
    read_local(inner, key)
}

/// A conditional write of one object.
pub(crate) struct Write {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Revision that the key must still be at; 0: absent.
    pub(crate) expected: Revision,
    pub(crate) durability: Durability,
}

/// Writes an object if its key is as expected.
pub(crate) async fn write(inner: &Inner, resource: &Resource, write: Write, extra: Extra) -> Result<Written, Status> {
    let Write { key, value, expected, durability } = write;
    let mut compares = extra.compares;
    compares.push(Compare::unchanged(key.clone(), expected));
    let mut success = extra.ops;
    if resource.prefix() == "events" {
        return write_event(inner, key, value, compares).await;
    }
    success.push(Op::put(key, value));
    run(inner, Txn { compares, success, failure: Vec::new(), durability }).await
}

/// Events go with the lease of their time.
async fn write_event(inner: &Inner, key: Bytes, value: Bytes, compares: Vec<Compare>) -> Result<Written, Status> {
    let txn = |lease| Txn {
        compares: compares.clone(),
        success: vec![Op::Put { key: key.clone(), value: value.clone(), lease, prev_kv: false }],
        ..Txn::default()
    };
    let lease = inner.event_leases.current().await?;
    match inner.config.store.txn(txn(lease)).await {
        // The store was restored from an earlier state, or its lease was ended by hand.
        Err(StoreError::LeaseNotFound(lost)) => {
            inner.event_leases.forget(lost).await;
            run(inner, txn(inner.event_leases.current().await?)).await
        }
        done => Ok(written(&done.map_err(|error| store_status(&error))?)),
    }
}

/// Removes the key if it is still at revision `expected`.
pub(crate) async fn remove(inner: &Inner, key: Bytes, expected: Revision, extra: Extra) -> Result<Written, Status> {
    let mut success = extra.ops;
    success.push(Op::delete(key.clone()));
    let txn = Txn { compares: vec![Compare::unchanged(key, expected)], success, ..Txn::default() };
    run(inner, txn).await
}

/// What was written is there for whoever asks next, also for those who decide by the caches who may do what.
async fn run(inner: &Inner, txn: Txn) -> Result<Written, Status> {
    let synced = txn.durability == Durability::Synced;
    let done = written(&inner.config.store.txn(txn).await.map_err(|error| store_status(&error))?);
    if let Written::At(revision) = done
        && synced
        && let Err(status) = inner.hub.wait_for(revision).await
    {
        tracing::debug!(%status, revision, "the caches are behind a write that is acknowledged");
    }
    Ok(done)
}

fn written(done: &TxnResponse) -> Written {
    if done.succeeded { Written::At(done.revision) } else { Written::Raced }
}
