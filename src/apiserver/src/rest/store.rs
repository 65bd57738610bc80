//! The few store operations that verbs are made of: read one object, write it if it is unchanged, remove it likewise.

use bytes::Bytes;
use objects::status::Status;
use storage::{Compare, Durability, KeyValue, Op, RangeRequest, Revision, Txn};

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
    inner.config.store.read_barrier().await.map_err(|error| store_status(&error))?;
    read_local(inner, key)
}

/// Writes `value` if the key is still at revision `expected` (0: absent).
pub(crate) async fn write(
    inner: &Inner,
    resource: &Resource,
    key: Bytes,
    value: Bytes,
    expected: Revision,
    extra: Extra,
) -> Result<Written, Status> {
    let heartbeat = resource.is("coordination.k8s.io", "leases") && expected != 0;
    let lease = if resource.prefix() == "events" { inner.event_leases.current().await? } else { 0 };
    let mut compares = extra.compares;
    compares.push(Compare::unchanged(key.clone(), expected));
    let mut success = extra.ops;
    success.push(Op::Put { key, value, lease, prev_kv: false });
    let txn = Txn {
        compares,
        success,
        failure: Vec::new(),
        durability: if heartbeat { Durability::Coalesced } else { Durability::Synced },
    };
    run(inner, txn).await
}

/// Removes the key if it is still at revision `expected`.
pub(crate) async fn remove(inner: &Inner, key: Bytes, expected: Revision, extra: Extra) -> Result<Written, Status> {
    let mut success = extra.ops;
    success.push(Op::delete(key.clone()));
    let txn = Txn { compares: vec![Compare::unchanged(key, expected)], success, ..Txn::default() };
    run(inner, txn).await
}

async fn run(inner: &Inner, txn: Txn) -> Result<Written, Status> {
    let done = inner.config.store.txn(txn).await.map_err(|error| store_status(&error))?;
    Ok(if done.succeeded { Written::At(done.revision) } else { Written::Raced })
}
