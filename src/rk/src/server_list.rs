//! The list of the cluster's servers as this machine has it: learnt from the endpoints of the Service `kubernetes`,
//! and kept on disk, so that an agent finds its cluster again when the server that it joined by is gone for good.

use anyhow::Context;
use client::backoff::scatter;
use client::{Informers, KnownServers, ServerList};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use pki::files;
use std::borrow::Borrow;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Where the endpoints of all servers are.
pub(crate) const NAMESPACE: &str = "default";
pub(crate) const SERVICE: &str = "kubernetes";
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Clients go to the servers of their choice when the list was the same for so long, and for so long again at most: a
/// server that just came is busy enough.
const CALM: Duration = Duration::from_secs(30);

pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/servers.json")
}

/// What an earlier life of this machine knew. A file that cannot be read costs the list and nothing else.
pub(crate) fn load(path: &Path) -> KnownServers {
    let kept = files::read_if_present(path).map_err(anyhow::Error::from);
    let parsed = kept.and_then(|text| match text {
        Some(text) => serde_json::from_str(&text).with_context(|| format!("parse {}", path.display())),
        None => Ok(KnownServers::default()),
    });
    let mut known = parsed.unwrap_or_else(|error| {
        tracing::warn!(error = format!("{error:#}"), "the kept list of servers is of no use; going by --server");
        KnownServers::default()
    });
    known.servers.retain(|server| is_url(server));
    known.former.retain(|server| is_url(server));
    known
}

fn is_url(server: &str) -> bool {
    server.strip_prefix("https://").is_some_and(|authority| authority.parse::<SocketAddr>().is_ok())
}

pub(crate) fn url(ip: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(ip, port))
}

/// The servers that the endpoints of the Service `kubernetes` name, of all the slices given.
pub(crate) fn of_slices<S: Borrow<EndpointSlice>>(slices: impl IntoIterator<Item = S>) -> Vec<String> {
    let mut servers: Vec<String> = Vec::new();
    for slice in slices {
        let slice: &EndpointSlice = slice.borrow();
        if !is_of_servers(slice) {
            continue;
        }
        let Some(port) = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok()) else { continue };
        let ready =
            slice.endpoints.iter().flatten().filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            });
        let addresses = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok());
        servers.extend(addresses.map(|ip| url(ip, port)));
    }
    servers.sort();
    servers.dedup();
    servers
}

fn is_of_servers(slice: &EndpointSlice) -> bool {
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
    slice.metadata.namespace.as_deref() == Some(NAMESPACE) && label.is_some_and(|service| service == SERVICE)
}

/// Keeps `list` up with the cluster, and the file at `path` up with the list, until the informers stop. The informer is
/// the one that the node's services have anyway.
pub(crate) async fn follow(list: ServerList, informers: Informers, path: Option<PathBuf>) {
    let slices = informers.of::<EndpointSlice>();
    let mut changes = slices.subscribe();
    keep(&list, path.as_deref());
    slices.synced().await;
    let mut settle_at = None;
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = until(settle_at) => {
                settle_at = None;
                list.settle();
                continue;
            }
        };
        let Some(change) = change else { return };
        if !is_of_servers(change.object()) {
            continue;
        }
        if list.learn(of_slices(slices.in_namespace(NAMESPACE).iter().map(AsRef::as_ref))) {
            tracing::info!(servers = %list.known().servers.join(" "), "the cluster's servers");
            keep(&list, path.as_deref());
            settle_at = Some(Instant::now() + CALM + scatter(CALM));
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Writes the list, if it differs from what is there.
fn keep(list: &ServerList, path: Option<&Path>) {
    let known = list.known();
    let Some(path) = path.filter(|path| !known.servers.is_empty() && load(path) != known) else { return };
    let written = serde_json::to_vec(&known)
        .map_err(anyhow::Error::from)
        .and_then(|content| Ok(files::write_private(path, &content)?));
    if let Err(error) = written {
        tracing::warn!(error = format!("{error:#}"), "the list of servers is not kept on disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
    use kube::api::ObjectMeta;
    use std::os::unix::fs::PermissionsExt;

    fn slice(service: &str, endpoints: &[(&str, bool)]) -> EndpointSlice {
        let endpoint = |(address, ready): &(&str, bool)| Endpoint {
            addresses: vec![(*address).to_owned()],
            conditions: Some(EndpointConditions { ready: Some(*ready), ..EndpointConditions::default() }),
            ..Endpoint::default()
        };
        EndpointSlice {
            metadata: ObjectMeta {
                namespace: Some(NAMESPACE.into()),
                labels: Some([(SERVICE_LABEL.to_owned(), service.to_owned())].into()),
                ..ObjectMeta::default()
            },
            endpoints: Some(endpoints.iter().map(endpoint).collect()),
            ports: Some(vec![EndpointPort { port: Some(6443), ..EndpointPort::default() }]),
            ..EndpointSlice::default()
        }
    }

    #[test]
    fn servers_are_the_ready_endpoints_of_the_service_kubernetes() {
        let slices = [
            slice(SERVICE, &[("10.0.0.2", true), ("10.0.0.1", true), ("10.0.0.3", false)]),
            slice("web", &[("10.42.0.9", true)]),
            slice(SERVICE, &[("fd00::1", true), ("not an address", true), ("10.0.0.1", true)]),
        ];
        assert_eq!(of_slices(&slices), ["https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://[fd00::1]:6443"]);
    }

    #[test]
    fn the_list_survives_on_disk_and_a_damaged_file_does_no_harm() {
        let folder = std::env::temp_dir().join(format!("rk-servers-{}", std::process::id()));
        let path = path(&folder);
        assert_eq!(load(&path), KnownServers::default());
        let list = ServerList::new(vec!["https://first:6443".into()]);
        keep(&list, Some(&path));
        assert!(!path.exists(), "nothing is known yet");
        list.learn(vec!["https://10.0.0.1:6443".into(), "https://10.0.0.2:6443".into()]);
        list.learn(vec!["https://10.0.0.2:6443".into(), "https://10.0.0.3:6443".into()]);
        keep(&list, Some(&path));
        assert_eq!(load(&path), list.known());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = ServerList::spread(vec!["https://first:6443".into()], "edge", load(&path));
        assert_eq!(again.candidates().len(), 4);
        assert_eq!(again.candidates()[2..], ["https://first:6443", "https://10.0.0.1:6443"]);
        std::fs::write(&path, "{\"servers\":[\"https://10.0.").unwrap();
        assert_eq!(load(&path), KnownServers::default());
        std::fs::write(&path, "{\"servers\":[\"rubbish\",\"https://10.0.0.1:6443\"]}").unwrap();
        assert_eq!(load(&path).servers, ["https://10.0.0.1:6443"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
