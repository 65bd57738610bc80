//! Request paths taken apart, and the kinds that discovery lists.

use kube::Resource;

/// One collection: group, version and plural.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Collection {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
}

impl Collection {
    pub(super) fn of<K: Resource<DynamicType = ()>>() -> Self {
        let (group, version, plural) = (K::group(&()), K::version(&()), K::plural(&()));
        Self { group: group.into_owned(), version: version.into_owned(), plural: plural.into_owned() }
    }

    pub(super) fn row(&self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.0 == self.group && row.1 == self.version && row.2 == self.plural)
    }

    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

pub(super) struct Target {
    pub(super) collection: Collection,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

pub(super) fn parse(path: &str) -> Option<Target> {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let head = if *parts.first()? == "api" { 2 } else { 3 };
    if parts.len() <= head {
        return None;
    }
    let rest = parts.split_off(head);
    let (group, version) = if head == 2 { ("", parts[1]) } else { (parts[1], parts[2]) };
    let at = |rest: &[&str], i: usize| (*rest.get(i).unwrap_or(&"")).to_owned();
    let nested = rest[0] == "namespaces" && rest.len() > 2 && !matches!(rest[2], "status" | "finalize");
    let (namespace, rest) = if nested { (rest[1].to_owned(), &rest[2..]) } else { (String::new(), &rest[..]) };
    Some(Target {
        collection: Collection { group: group.into(), version: version.into(), plural: at(rest, 0) },
        namespace,
        name: at(rest, 1),
        subresource: at(rest, 2),
    })
}

/// Group, version, plural, kind, namespaced.
pub(super) type Row = (&'static str, &'static str, &'static str, &'static str, bool);

pub(super) const ROWS: &[Row] = &[
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "nodes", "Node", false),
    ("", "v1", "persistentvolumes", "PersistentVolume", false),
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "services", "Service", true),
    ("", "v1", "endpoints", "Endpoints", true),
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("", "v1", "replicationcontrollers", "ReplicationController", true),
    ("", "v1", "resourcequotas", "ResourceQuota", true),
    ("", "v1", "limitranges", "LimitRange", true),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("", "v1", "events", "Event", true),
    ("apps", "v1", "replicasets", "ReplicaSet", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apps", "v1", "daemonsets", "DaemonSet", true),
    ("apps", "v1", "statefulsets", "StatefulSet", true),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", true),
    ("batch", "v1", "jobs", "Job", true),
    ("batch", "v1", "cronjobs", "CronJob", true),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
    ("coordination.k8s.io", "v1", "leases", "Lease", true),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", false),
];
