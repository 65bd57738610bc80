//! Brings the records of addresses and ports together with the Services: at start, and from time to time. A record
//! without its Service is removed, a Service's missing record is written.

use std::{collections::HashSet, sync::Arc, time::Duration};

use objects::status::Status;
use serde_json::Value;
use storage::{Compare, KeyValue, Op, RangeRequest, Txn};

use super::{ADDRESSES, Held, PORTS, address_key, address_record, owner_key, port_key};
use crate::{cache::store_status, encoded, keys, server::Inner};

const EVERY: Duration = Duration::from_secs(180);

/// Repairs until the server stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = once(&inner).await {
            tracing::warn!(%error, "cannot check the records of service addresses");
        }
    }
}

fn all(inner: &Inner, prefix: &str) -> Result<Vec<KeyValue>, Status> {
    let request = RangeRequest::prefix(keys::collection(prefix, ""));
    Ok(inner.config.store.range(&request).map_err(Status::internal)?.kvs)
}

/// One pass. Each change is compared against what was read, so a Service written meanwhile is not harmed.
pub(crate) async fn once(inner: &Inner) -> Result<(), Status> {
    // Records before Services: a Service written in between has its records, which this pass then does not look at.
    let mut stale: Vec<KeyValue> = all(inner, ADDRESSES)?.into_iter().filter(is_own).collect();
    stale.extend(all(inner, PORTS)?);
    let recorded: HashSet<_> = stale.iter().map(|kv| kv.key.clone()).collect();
    let mut wanted = HashSet::new();
    let mut missing = Vec::new();
    for kv in all(inner, "services")? {
        let service = encoded::decode(&kv.value, kv.mod_revision)?;
        let held = Held::of(&service);
        for address in held.addresses {
            let key = address_key(address);
            if !recorded.contains(&key) {
                missing.push((kv.clone(), key.clone(), address_record(address, &service)?));
            }
            wanted.insert(key);
        }
        for port in held.ports {
            let key = port_key(port);
            if !recorded.contains(&key) {
                missing.push((kv.clone(), key.clone(), owner_key(&service).into()));
            }
            wanted.insert(key);
        }
    }
    stale.retain(|kv| !wanted.contains(&kv.key));
    for kv in stale {
        tracing::info!(key = %String::from_utf8_lossy(&kv.key), "removing the record of an address or port that no service has");
        let compares = vec![Compare::unchanged(kv.key.clone(), kv.mod_revision)];
        run_txn(inner, compares, Op::delete(kv.key)).await?;
    }
    for (service, key, record) in missing {
        let compares = vec![Compare::unchanged(service.key, service.mod_revision), Compare::absent(key.clone())];
        run_txn(inner, compares, Op::put(key, record)).await?;
    }
    Ok(())
}

/// Whether an IPAddress is a Service's, not somebody else's.
fn is_own(kv: &KeyValue) -> bool {
    serde_json::from_slice::<Value>(&kv.value)
        .ok()
        .and_then(|object| Some(object.pointer("/spec/parentRef/resource")? == "services"))
        .unwrap_or(false)
}

async fn run_txn(inner: &Inner, compares: Vec<Compare>, op: Op) -> Result<(), Status> {
    let txn = Txn { compares, success: vec![op], ..Txn::default() };
    inner.config.store.txn(txn).await.map_err(|error| store_status(&error))?;
    Ok(())
}
