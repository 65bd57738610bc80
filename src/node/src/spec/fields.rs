//! The downward API: `fieldRef` and `resourceFieldRef` values, for variables and for files. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use objects::status::quote;

use super::amounts;

/// Why a field could not be given.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Unsupported(String),
    #[error("unsupported container resource : {0}")]
    UnsupportedResource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("invalid quantity in {0}")]
    Quantity(String),
}

/// Addresses the pod has, or will have; the API's status lags behind them.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
}

/// What a container may use when it sets no limit of its own.
#[derive(Clone, Debug, Default)]
pub struct Allocatable(pub BTreeMap<String, Quantity>);

/// The value of `path` for `pod`.
pub fn field(pod: &Pod, addresses: &Addresses, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" => addresses.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => addresses.pod_ips.join(","),
        "status.hostIP" => addresses.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => addresses.host_ips.join(","),
        other => return Err(FieldError::Unsupported(other.to_owned())),
    })
}

/// `metadata.labels['key']` → `key`.
fn subscript<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    path.strip_prefix(base)?.strip_prefix("['")?.strip_suffix("']")
}

/// One `key="value"` line per entry, values quoted as Go does.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let mut out = String::new();
    for (index, (key, value)) in map.into_iter().flatten().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(key);
        out.push('=');
        out.push_str(&quote(value));
    }
    out
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    allocatable: &Allocatable,
) -> Result<String, FieldError> {
    let container = match selector.container_name.as_deref() {
        None | Some("") => own.ok_or_else(|| FieldError::NoContainer(String::new()))?,
        Some(name) => find(pod, name).ok_or_else(|| FieldError::NoContainer(name.to_owned()))?,
    };
    let unsupported = || FieldError::UnsupportedResource(selector.resource.clone());
    let (side, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let limit = container.resources.as_ref().and_then(|r| r.limits.as_ref()).and_then(|m| m.get(name));
    let request = container.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|m| m.get(name));
    let value = match side {
        "limits" => limit.or_else(|| allocatable.0.get(name)),
        "requests" => request.or(limit),
        _ => return Err(unsupported()),
    };
    let bad = || FieldError::Quantity(selector.resource.clone());
    let one = Quantity("1".to_owned());
    let divisor = selector.divisor.as_ref().filter(|d| !matches!(d.0.as_str(), "" | "0")).unwrap_or(&one);
    let zero = Quantity("0".to_owned());
    let value = value.unwrap_or(&zero);
    // Both sides in thousandths, so that `1m` of a CPU is a whole number.
    let value = amounts::millis(value).ok_or_else(bad)?;
    let divisor = amounts::millis(divisor).filter(|d| *d > 0).ok_or_else(bad)?;
    Ok(amounts::ceil(value, divisor).to_string())
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"b": "two\n\"x\"", "a": "1"}, "annotations": {"k/x": "v"}},
            "spec": {"nodeName": "node", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "d"}]}
        }))
        .unwrap()
    }

    #[test]
    fn gives_pod_fields() {
        let addresses = Addresses { pod_ips: vec!["10.0.0.2".into()], host_ips: vec!["1.2.3.4".into()] };
        for (path, want) in [
            ("metadata.name", "p"),
            ("metadata.labels['a']", "1"),
            ("metadata.annotations['k/x']", "v"),
            ("metadata.labels", "a=\"1\"\nb=\"two\\n\\\"x\\\"\""),
            ("status.podIP", "10.0.0.2"),
            ("status.hostIPs", "1.2.3.4"),
            ("spec.serviceAccountName", "sa"),
        ] {
            assert_eq!(field(&pod(), &addresses, path).unwrap(), want, "{path}");
        }
        assert!(field(&pod(), &addresses, "spec.foo").is_err());
    }

    #[test]
    fn rounds_resources_up_to_the_divisor() {
        let pod = pod();
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let allocatable = Allocatable([("memory".to_owned(), Quantity("8Gi".to_owned()))].into());
        let get = |container: Option<&str>, resource_name: &str, divisor: Option<&str>| {
            let selector = ResourceFieldSelector {
                container_name: container.map(str::to_owned),
                resource: resource_name.to_owned(),
                divisor: divisor.map(|d| Quantity(d.to_owned())),
            };
            resource(&pod, Some(own), &selector, &allocatable)
        };
        assert_eq!(get(None, "limits.cpu", None).unwrap(), "2");
        assert_eq!(get(None, "limits.cpu", Some("1m")).unwrap(), "1500");
        assert_eq!(get(None, "requests.memory", Some("1Mi")).unwrap(), "100");
        assert_eq!(get(Some("d"), "limits.memory", Some("1Gi")).unwrap(), "8");
        assert!(get(Some("zz"), "limits.memory", None).is_err());
        assert!(get(None, "limits.disk", None).is_err());
    }
}
