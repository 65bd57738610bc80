//! Which servers there are, and the endpoints of the `kubernetes` Service, by which pods, agents and clients find them.
//!
//! Where there are several, each server keeps a key of its own in the store under a lease of 15 seconds. The key goes
//! when the server stops or is taken out of the cluster, and with its lease when the server is gone without a word. The
//! server whose store leads writes the endpoints whenever the set changes. A server that is alone needs no key: it writes
//! itself, and nothing here wakes up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use objects::status::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage::{KeyValue, LeaseId, MemberId, Op, RangeRequest, Store, StoreError, Txn, WatchRequest, prefix_end};

use crate::{
    bootstrap::Writer,
    encoded::{self, meta_str},
    keys,
    rest::{Place, delete::delete_object},
    server::Inner,
};

/// Prefix under which the living servers are kept; no kind of the API.
const PREFIX: &str = "rk.io/servers";
/// How long a server that is gone without a word stays in the endpoints.
const LIFE: Duration = Duration::from_secs(15);
/// Renewals do not touch the disk.
const RENEW: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for the others at a stop.
const FAREWELL: Duration = Duration::from_secs(2);
const ENDPOINTS: &str = "endpoints";
const SLICES: &str = "discovery.k8s.io/endpointslices";
const SLICES_API: &str = "discovery.k8s.io/v1";
const SERVICE: &str = "kubernetes";
/// On the slices beside the first, so that they are known again.
const OURS: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "rk";

/// What a server says of itself.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Server {
    address: SocketAddr,
}

fn key_of(member: MemberId) -> Bytes {
    keys::object(PREFIX, "", &format!("{member:016x}"))
}

/// Whether pods could reach a server at that address: a loopback address means another machine in every pod.
fn is_reachable(address: SocketAddr) -> bool {
    !address.ip().is_loopback() && !address.ip().is_unspecified()
}

/// Says that this server lives, until it stops.
pub(crate) async fn announce(inner: Arc<Inner>) {
    let address = inner.config.advertise;
    if !is_reachable(address) {
        tracing::warn!(ip = %address.ip(), "the advertised address cannot be reached from pods: the kubernetes service gets no endpoint for this server");
        return;
    }
    let store = &inner.config.store;
    let mut members = store.member_changes();
    let mut lease = None;
    loop {
        let several = members.current().len() > 1;
        let kept = async { if several { keep(&inner, &mut lease, address).await } else { Duration::MAX } };
        let Some(pause) = inner.stop.run_until_cancelled(kept).await else { break };
        tokio::select! {
            () = inner.stop.cancelled() => break,
            // Whoever is alone waits for company.
            () = tokio::time::sleep(pause), if several => {}
            changed = members.next() => if changed.is_none() { return },
        }
    }
    if let Some(lease) = lease {
        say_farewell(store, lease).await;
    }
}

/// Without a leader nobody would hear it, and the store would wait for it at its end.
async fn say_farewell(store: &Store, lease: LeaseId) {
    if store.reachable_leader().is_none()
        || !matches!(tokio::time::timeout(FAREWELL, store.lease_revoke(lease)).await, Ok(Ok(())))
    {
        tracing::debug!("stopping without a farewell; the endpoint goes in a few seconds");
    }
}

/// Renews the lease, or writes the key under a new one. Says when to do so again.
async fn keep(inner: &Inner, lease: &mut Option<LeaseId>, address: SocketAddr) -> Duration {
    let outcome = match *lease {
        Some(id) => inner.config.store.lease_renew(id).await.map(drop),
        None => Err(StoreError::LeaseNotFound(0)),
    };
    let outcome = match outcome {
        Err(StoreError::LeaseNotFound(_)) => register(inner, address).await.map(|id| *lease = Some(id)),
        outcome => outcome,
    };
    match outcome {
        Ok(()) => RENEW,
        Err(error) => {
            tracing::debug!(%error, "cannot say that this server lives");
            PAUSE
        }
    }
}

async fn register(inner: &Inner, address: SocketAddr) -> Result<LeaseId, StoreError> {
    let store = &inner.config.store;
    let lease = store.lease_grant(0, LIFE).await?.id;
    let value = serde_json::to_vec(&Server { address }).unwrap_or_default().into();
    let put = Op::Put { key: key_of(store.node_id()), value, lease, prev_kv: false };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await?;
    Ok(lease)
}

/// Writes the endpoints whenever the set of servers changes, or somebody else has changed them: on one server.
pub(crate) async fn publish(inner: Arc<Inner>) {
    let store = &inner.config.store;
    let mut members = store.member_changes();
    let watch = |key: Bytes, end: Option<Bytes>| store.watch(WatchRequest { key, end, from: 0, prev_kv: false });
    let own = |prefix: &str| watch(keys::object(prefix, "default", SERVICE), None);
    loop {
        let servers = keys::collection(PREFIX, "");
        let end = prefix_end(servers.as_bytes());
        // Opened before what they watch is read; an end of one of them is as good a reason to look again as a change.
        let watches = (watch(servers.into(), Some(end)), own(ENDPOINTS), own(SLICES));
        let (Ok(mut servers), Ok(mut endpoints), Ok(mut slice)) = watches else { return };
        let outcome = write_endpoints(&inner).await;
        if let Err(error) = &outcome {
            tracing::warn!(%error, "cannot write the endpoints of the kubernetes service");
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = servers.next() => {}
            _ = endpoints.next() => {}
            _ = slice.next() => {}
            changed = members.next() => if changed.is_none() { return },
            () = tokio::time::sleep(PAUSE), if outcome.is_err() => {}
        }
    }
}

fn all(inner: &Inner, prefix: &str) -> Result<Vec<KeyValue>, Status> {
    Ok(inner.config.store.range(&RangeRequest::prefix(prefix.to_owned())).map_err(Status::internal)?.kvs)
}

/// The last part of a key.
fn name_of(kv: &KeyValue) -> Option<&str> {
    std::str::from_utf8(&kv.key).ok()?.rsplit('/').next()
}

/// The living servers, this one among them. Those that are no members any more have no part in it, whatever their keys
/// say.
fn living(inner: &Inner) -> Result<BTreeSet<SocketAddr>, Status> {
    let store = &inner.config.store;
    let me = store.node_id();
    let members = store.member_changes().current();
    let mut living: BTreeSet<_> = [inner.config.advertise].into_iter().filter(|own| is_reachable(*own)).collect();
    for kv in all(inner, &keys::collection(PREFIX, ""))? {
        let member = name_of(&kv).and_then(|name| MemberId::from_str_radix(name, 16).ok());
        if member.is_some_and(|member| member != me && members.contains(&member)) {
            living.insert(serde_json::from_slice::<Server>(&kv.value).map_err(Status::internal)?.address);
        }
    }
    Ok(living)
}

/// Servers that share a family of addresses and a port, which is what one slice can tell.
type Groups = BTreeMap<(bool, u16), Vec<String>>;

fn groups(servers: &BTreeSet<SocketAddr>) -> Groups {
    let mut groups = Groups::new();
    for server in servers {
        groups.entry((server.is_ipv6(), server.port())).or_default().push(server.ip().to_string());
    }
    groups
}

/// Brings the endpoints of the `kubernetes` Service up to date.
pub(crate) async fn write_endpoints(inner: &Arc<Inner>) -> Result<(), Status> {
    if inner.config.service_cidrs.is_empty() {
        return Ok(());
    }
    let groups = groups(&living(inner)?);
    // No endpoint at all would help nobody.
    if groups.is_empty() {
        return Ok(());
    }
    let writer = Writer::new(inner);
    writer.ensure("v1", "endpoints", endpoints_object(&groups), take(&["subsets"])).await?;
    let slices = slice_objects(&groups);
    for slice in &slices {
        let complete = take(&["endpoints", "ports"]);
        writer.ensure(SLICES_API, "endpointslices", slice.clone(), complete).await?;
    }
    remove_slices(inner, &slices).await
}

fn take(fields: &'static [&'static str]) -> impl Fn(&mut Value, &Value) -> bool + Send + Sync {
    move |object, wanted| {
        for field in fields {
            object[*field] = wanted[*field].clone();
        }
        true
    }
}

fn port_of(port: u16) -> Value {
    json!({"name": "https", "port": port, "protocol": "TCP"})
}

fn endpoints_object(groups: &Groups) -> Value {
    let mut by_port: BTreeMap<u16, Vec<Value>> = BTreeMap::new();
    for ((_, port), addresses) in groups {
        by_port.entry(*port).or_default().extend(addresses.iter().map(|ip| json!({ "ip": ip })));
    }
    let subsets = by_port.into_iter().map(|(port, ips)| json!({"addresses": ips, "ports": [port_of(port)]}));
    json!({
        "metadata": {
            "name": SERVICE,
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets.collect::<Vec<_>>(),
    })
}

/// One slice for each group. The first has the Service's name, as upstream's.
fn slice_objects(groups: &Groups) -> Vec<Value> {
    let slice = |(index, ((ipv6, port), addresses)): (usize, (&(bool, u16), &Vec<String>))| {
        let family = if *ipv6 { "IPv6" } else { "IPv4" };
        let mut labels = json!({"kubernetes.io/service-name": SERVICE});
        let mut name = SERVICE.to_owned();
        if index > 0 {
            labels[OURS] = MANAGER.into();
            name = format!("{SERVICE}-{}-{port}", family.to_lowercase());
        }
        let ready = |ip: &String| json!({"addresses": [ip], "conditions": {"ready": true}});
        json!({
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "addressType": family,
            "endpoints": addresses.iter().map(ready).collect::<Vec<_>>(),
            "ports": [port_of(*port)],
        })
    };
    groups.iter().enumerate().map(slice).collect()
}

/// Takes away the slices of groups that are no more.
async fn remove_slices(inner: &Arc<Inner>, wanted: &[Value]) -> Result<(), Status> {
    let is_ours = |slice: &Value| {
        let labels = slice.pointer("/metadata/labels");
        labels.is_some_and(|labels| labels[OURS] == MANAGER && labels["kubernetes.io/service-name"] == SERVICE)
    };
    for kv in all(inner, &(keys::collection(SLICES, "default") + SERVICE + "-"))? {
        let Some(name) = name_of(&kv).filter(|name| wanted.iter().all(|slice| meta_str(slice, "name") != *name)) else {
            continue;
        };
        let table = inner.registry.table();
        let Some(resource) = table.find(SLICES_API, "endpointslices") else { continue };
        if !is_ours(&encoded::decode(&kv.value, kv.mod_revision)?) {
            continue;
        }
        let place = Place { resource: resource.clone(), namespace: "default", name, subresource: "" };
        let user = Writer::user();
        match delete_object(inner, &user, &place, &Default::default(), false, &mut Vec::new()).await {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(list: &[&str]) -> BTreeSet<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn servers_of_one_port_are_one_slice() {
        let groups = groups(&servers(&["10.0.0.2:6443", "10.0.0.1:6443"]));
        let slices = slice_objects(&groups);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0]["metadata"]["name"], "kubernetes");
        assert_eq!(slices[0]["endpoints"][1]["addresses"], json!(["10.0.0.2"]));
        assert_eq!(
            endpoints_object(&groups)["subsets"][0]["addresses"],
            json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])
        );
    }

    #[test]
    fn servers_of_other_ports_and_families_have_slices_of_their_own() {
        let groups = groups(&servers(&["10.0.0.1:6443", "10.0.0.2:7443", "[fd00::1]:6443"]));
        let slices = slice_objects(&groups);
        let names: Vec<_> = slices.iter().map(|slice| meta_str(slice, "name")).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-ipv4-7443", "kubernetes-ipv6-6443"]);
        assert_eq!(
            endpoints_object(&groups)["subsets"][0]["addresses"],
            json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])
        );
        assert_eq!(slices[2]["addressType"], "IPv6");
    }
}
