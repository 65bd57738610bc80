//! Where a proxied request goes: which container, which port, which endpoint; and under which path.

use std::net::SocketAddr;

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use objects::status::{Qualified, Status, quote};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    handler::Call,
    keys,
    query::Query,
    rest::{Place, store},
};

/// The container that a request names, or the pod's only or default one.
pub(super) fn container(pod: &Pod, asked: Option<&str>, place: &Place<'_>) -> Result<String, Status> {
    let Some(spec) = &pod.spec else { return Err(Status::bad_request("the pod has no spec")) };
    let plain: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
    if let Some(asked) = asked {
        if plain.iter().chain(&init).copied().chain(ephemeral).any(|name| name == asked) {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {}", place.name)));
    }
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(default) = annotations.and_then(|a| a.get("kubectl.kubernetes.io/default-container"))
        && plain.contains(&default.as_str())
    {
        return Ok(default.clone());
    }
    if let [only] = plain.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut message =
        format!("a container name must be specified for pod {}, choose one of: [{}]", place.name, plain.join(" "));
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    Err(Status::bad_request(message))
}

/// The query that the kubelet gets: exec and attach name their streams otherwise there.
pub(super) fn kubelet_query(query: &Query, subresource: &str) -> String {
    let mut out: Vec<(&str, String)> = Vec::new();
    match subresource {
        "log" => {
            let names =
                ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
            for name in names {
                out.extend(query.text(name).map(|value| (name, value.to_owned())));
            }
        }
        "portforward" => out.extend(query.all("ports").map(|port| ("port", port.to_owned()))),
        _ => {
            for (asked, there) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if query.flag(asked) {
                    out.push((there, "1".into()));
                }
            }
            out.extend(query.all("command").map(|word| ("command", word.to_owned())));
        }
    }
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    out.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// Splits the path of a proxy request behind `/proxy`: the sixth part of `/api/v1/nodes/NAME/proxy`, or the eighth of
/// `/api/v1/namespaces/NS/pods/NAME/proxy`. Any name before may begin with `proxy` too.
pub(super) fn proxy_path(path: &str) -> (&str, &str) {
    let before = if path.starts_with("/api/v1/nodes/") { 5 } else { 7 };
    let end = path.match_indices('/').nth(before).map_or(path.len(), |(at, _)| at);
    path.split_at(end)
}

/// `[scheme:]name[:port]`
pub(super) fn split_name(text: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [scheme, name, port] => (scheme, name, port),
        [name, port] => ("", name, port),
        _ => ("", text, ""),
    }
}

/// The port of a pod that a proxy request names: a number, a port's name, or the first.
pub(super) fn pod_port(pod: &Pod, asked: &str) -> Result<u16, Status> {
    if let Ok(number) = asked.parse() {
        return Ok(number);
    }
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let found = if asked.is_empty() { ports.next() } else { ports.find(|port| port.name.as_deref() == Some(asked)) };
    match found.and_then(|port| u16::try_from(port.container_port).ok()) {
        Some(port) => Ok(port),
        None if asked.is_empty() => Ok(80),
        None => Err(Status::bad_request(format!("no port named {} in the pod", quote(asked)))),
    }
}

/// A ready endpoint of a Service, and the node it is on.
pub(super) async fn service_address(call: &Call, place: &Place<'_>) -> Result<(Option<String>, SocketAddr), Status> {
    let (_, name, asked) = split_name(place.name);
    let key = keys::object("services", place.namespace, name);
    let kv = store::read(&call.inner, &key).await?;
    let kv = kv.ok_or_else(|| Status::not_found(Qualified::new("", "services"), name))?;
    let service: Service = serde_json::from_slice(&kv.value).map_err(Status::internal)?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let port = ports.iter().find(|port| match asked {
        "" => ports.len() == 1,
        _ => port.name.as_deref() == Some(asked) || port.port.to_string() == asked,
    });
    let none = || Status::unavailable(format!("no endpoints available for service {}", quote(place.name)));
    let port = port.ok_or_else(none)?;
    let slices = call.inner.hub.kind("discovery.k8s.io/endpointslices")?.list(place.namespace, |entry| {
        entry.projection.labels.get("kubernetes.io/service-name").is_some_and(|owner| owner == name)
    });
    let mut found = Vec::new();
    for slice in slices.entries.iter().filter_map(|entry| entry.typed::<EndpointSlice>().ok()) {
        let slice_ports = slice.ports.unwrap_or_default();
        let unnamed = port.name.as_deref().unwrap_or_default();
        let number = slice_ports.iter().find(|p| p.name.as_deref().unwrap_or_default() == unnamed).and_then(|p| p.port);
        let number = number.or(match &port.target_port {
            Some(IntOrString::Int(number)) => Some(*number),
            _ => None,
        });
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice
            .endpoints
            .into_iter()
            .flatten()
            .filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)))
        {
            let addresses = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
            found.extend(addresses.map(|ip| (endpoint.node_name.clone(), SocketAddr::new(ip, number))));
        }
    }
    if found.is_empty() {
        return Err(none());
    }
    Ok(found.swap_remove(rand::random_range(0..found.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_split() {
        assert_eq!(split_name("https:web:443"), ("https", "web", "443"));
        assert_eq!(split_name("web:http"), ("", "web", "http"));
        assert_eq!(proxy_path("/api/v1/namespaces/d/pods/p/proxy/a/"), ("/api/v1/namespaces/d/pods/p/proxy", "/a/"));
    }

    #[test]
    fn names_that_begin_like_the_subresource_do_not_end_the_path() {
        let base = "/api/v1/namespaces/proxy-1/pods/proxy/proxy";
        assert_eq!(proxy_path("/api/v1/namespaces/proxy-1/pods/proxy/proxy/proxy/x"), (base, "/proxy/x"));
        assert_eq!(proxy_path(base), (base, ""));
        assert_eq!(proxy_path("/api/v1/nodes/proxy/proxy/logs/"), ("/api/v1/nodes/proxy/proxy", "/logs/"));
    }

    #[test]
    fn exec_streams_are_renamed_for_the_kubelet() {
        let query = Query::parse(Some("stdin=true&stdout=true&stderr=false&tty=true&command=ls&command=-l%20x"));
        assert_eq!(kubelet_query(&query, "exec"), "input=1&output=1&tty=1&command=ls&command=%2Dl%20x");
        assert_eq!(kubelet_query(&Query::parse(Some("tailLines=5&container=c")), "log"), "tailLines=5");
    }
}
