//! Requests that end on a node: logs, exec, attach, port-forward by the kubelet API, and the HTTP proxies to nodes,
//! pods and services. Each is forwarded as one HTTP/1.1 exchange on a stream of its own; when the far side switches
//! protocols, the two byte streams are joined.

mod forward;
mod html;
mod target;
mod tls;
mod websocket;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{
    HeaderValue, Method, Response, StatusCode, Uri,
    header::{HOST, LOCATION, UPGRADE},
};
use k8s_openapi::api::core::v1::Pod;
use objects::status::{Status, quote};
use serde_json::Value;

use self::{forward::Forward, html::Prefix};
use crate::{
    body::Body,
    encoded,
    handler::Call,
    rest::{Place, store},
};

const DIAL_PATIENCE: Duration = Duration::from_secs(30);

/// `log`, `exec`, `attach` and `portforward` of a pod.
pub(crate) async fn kubelet(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let kv = store::read(&call.inner, &place.store_key()).await?.ok_or_else(|| place.not_found())?;
    let pod: Pod = serde_json::from_slice(&kv.value).map_err(Status::internal)?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let (verb, needs_container) = match place.subresource {
        "log" => ("containerLogs", true),
        "exec" => ("exec", true),
        "attach" => ("attach", true),
        _ => ("portForward", false),
    };
    let mut path = format!("/{verb}/{}/{}", place.namespace, place.name);
    if needs_container {
        let container = target::container(&pod, call.query.text("container"), place)?;
        path.push('/');
        path.push_str(&container);
    }
    if node.is_empty() {
        return match place.subresource {
            // Nothing has run, so there is nothing to show yet.
            "log" => Ok(crate::respond::text(StatusCode::OK, "")),
            _ => Err(Status::bad_request(format!("pod {} does not have a host assigned", place.name))),
        };
    }
    let query = target::kubelet_query(&call.query, place.subresource);
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let method = if place.subresource == "log" { Method::GET } else { call.method.clone() };
    let uri: Uri = uri.parse().map_err(Status::internal)?;
    let wish = if place.subresource == "log" { websocket::take(call)? } else { None };
    let stream = dial(call, &node).await?;
    let answer = Forward { method, uri, host: node, rewrite: None }.run(call, stream).await?;
    Ok(match wish {
        Some(wish) => wish.answer(call, answer),
        None => answer,
    })
}

async fn dial(call: &Call, node: &str) -> Result<Box<dyn crate::dial::NodeStream>, Status> {
    in_time(call.inner.dialer.dial(node.to_owned())).await.map_err(|error| {
        tracing::debug!(node, %error, "cannot reach the node");
        Status::internal(format!("error dialing backend: node {node}: {error}"))
    })
}

/// Gives up on a far side that does not answer.
async fn in_time<T>(dialing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DIAL_PATIENCE, dialing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether an address is one of a pod: whoever may write a pod's status must not reach this machine's own services.
fn is_proxyable(ip: IpAddr) -> bool {
    let link_local = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let ip = ip.to_canonical();
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// `proxy` of a node, a pod or a service.
pub(crate) async fn proxy(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let (base, rest) = target::proxy_path(call.uri.path());
    let query = call.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if rest.is_empty() && matches!(call.method, Method::GET | Method::HEAD) && !call.headers().contains_key(UPGRADE) {
        // Relative links only work below a path that ends so.
        return moved(&format!("{base}/{query}"));
    }
    let uri: Uri = format!("/{}{query}", rest.trim_start_matches('/')).parse().map_err(Status::internal)?;
    let method = call.method.clone();
    let base = base.to_owned();
    let asked = call.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let (scheme, name, _) = target::split_name(place.name);
    let tls = match scheme {
        "" | "http" => false,
        "https" => true,
        _ => {
            let kind = &place.resource.kind.singular;
            return Err(Status::bad_request(format!("invalid {kind} request {}", quote(place.name))));
        }
    };
    if place.resource.is("", "nodes") {
        let (host, stream) = (name.to_owned(), dial(call, name).await?);
        let rewrite = Some(Prefix { path: base, hosts: vec![host.clone(), asked] });
        return Forward { method, uri, host, rewrite }.run(call, stream).await;
    }
    let (node, address) = if place.resource.is("", "pods") {
        pod_address(call, place).await?
    } else {
        target::service_address(call, place).await?
    };
    if !is_proxyable(address.ip()) {
        return Err(Status::bad_request("address not allowed"));
    }
    let connect = async {
        let stream = call.inner.dialer.dial_tcp(node, address).await?;
        if tls { tls::connect(stream, address).await } else { Ok(stream) }
    };
    let stream = in_time(connect)
        .await
        .map_err(|error| Status::unavailable(format!("error trying to reach service: dial tcp {address}: {error}")))?;
    let host = address.to_string();
    let rewrite = Some(Prefix { path: base, hosts: vec![host.clone(), asked] });
    Forward { method, uri, host, rewrite }.run(call, stream).await
}

fn moved(to: &str) -> Result<Response<Body>, Status> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(to).map_err(Status::internal)?);
    Ok(response)
}

async fn pod_address(call: &Call, place: &Place<'_>) -> Result<(Option<String>, SocketAddr), Status> {
    let (_, name, port) = target::split_name(place.name);
    let key = crate::keys::object("pods", place.namespace, name);
    let kv =
        store::read(&call.inner, &key).await?.ok_or_else(|| Status::not_found(place.resource.qualified(), name))?;
    let object: Value = encoded::decode(&kv.value, kv.mod_revision)?;
    let pod: Pod = objects::decode::decode(object).map_err(Status::internal)?;
    let port = target::pod_port(&pod, port)?;
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
    let ip = ip.parse().map_err(|_| Status::bad_request("address not allowed"))?;
    Ok((pod.spec.and_then(|spec| spec.node_name), SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_its_links_are_not_proxied_to() {
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1"] {
            assert!(!is_proxyable(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.42.0.7", "fd00::7", "192.0.2.1"] {
            assert!(is_proxyable(ip.parse().unwrap()), "{ip}");
        }
    }
}
