//! The rows of the built-in kinds of Kubernetes v1.36 that are served by default (GA versions).

use super::{Kind, Scope, Subresource, Text, Verb, verbs};

/// The static part of a row; what follows from it by rule (singular, prefix, definition name) is computed once.
struct Row {
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: &'static [Verb],
    subs: &'static [Sub],
    /// Group, version and prefix of the stored form where it is not the row's own.
    stored: Option<(&'static str, &'static str, &'static str)>,
}

/// A subresource; an empty kind means the parent's own group, version and kind.
struct Sub {
    name: &'static str,
    gvk: (&'static str, &'static str, &'static str),
    verbs: &'static [Verb],
}

struct Group {
    group: &'static str,
    version: &'static str,
    /// Definition name prefix in OpenAPI.
    package: &'static str,
    rows: &'static [Row],
}

const OWN: (&str, &str, &str) = ("", "", "");

const fn sub(name: &'static str, gvk: (&'static str, &'static str, &'static str), verbs: &'static [Verb]) -> Sub {
    Sub { name, gvk, verbs }
}

const STATUS: Sub = sub("status", OWN, verbs::READ_WRITE);
const SCALE: Sub = sub("scale", ("autoscaling", "v1", "Scale"), verbs::READ_WRITE);

const fn row(kind: &'static str, plural: &'static str, scope: Scope) -> Row {
    Row { kind, plural, scope, short: &[], categories: &[], verbs: verbs::ALL, subs: &[], stored: None }
}

const fn namespaced(kind: &'static str, plural: &'static str) -> Row {
    row(kind, plural, Scope::Namespaced)
}

const fn cluster(kind: &'static str, plural: &'static str) -> Row {
    row(kind, plural, Scope::Cluster)
}

impl Row {
    const fn short(mut self, short: &'static [&'static str]) -> Self {
        self.short = short;
        self
    }

    const fn categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    const fn all(self) -> Self {
        self.categories(&["all"])
    }

    const fn api_extension(self) -> Self {
        self.categories(&["api-extensions"])
    }

    const fn verbs(mut self, verbs: &'static [Verb]) -> Self {
        self.verbs = verbs;
        self
    }

    const fn subs(mut self, subs: &'static [Sub]) -> Self {
        self.subs = subs;
        self
    }

    const fn status(self) -> Self {
        self.subs(&[STATUS])
    }

    const fn stored_as(mut self, group: &'static str, version: &'static str, prefix: &'static str) -> Self {
        self.stored = Some((group, version, prefix));
        self
    }

    const fn create_only(self) -> Self {
        self.verbs(verbs::CREATE)
    }
}

const GROUPS: &[Group] = &[
    Group { group: "", version: "v1", package: "io.k8s.api.core.v1", rows: CORE },
    Group {
        group: "admissionregistration.k8s.io",
        version: "v1",
        package: "io.k8s.api.admissionregistration.v1",
        rows: &[
            cluster("MutatingAdmissionPolicy", "mutatingadmissionpolicies").api_extension(),
            cluster("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").api_extension(),
            cluster("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").api_extension(),
            cluster("ValidatingAdmissionPolicy", "validatingadmissionpolicies").api_extension().status(),
            cluster("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").api_extension(),
            cluster("ValidatingWebhookConfiguration", "validatingwebhookconfigurations").api_extension(),
        ],
    },
    Group {
        group: "apiextensions.k8s.io",
        version: "v1",
        package: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
        rows: &[cluster("CustomResourceDefinition", "customresourcedefinitions")
            .short(&["crd", "crds"])
            .api_extension()
            .status()],
    },
    Group {
        group: "apiregistration.k8s.io",
        version: "v1",
        package: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
        rows: &[cluster("APIService", "apiservices").api_extension().status()],
    },
    Group {
        group: "apps",
        version: "v1",
        package: "io.k8s.api.apps.v1",
        rows: &[
            namespaced("ControllerRevision", "controllerrevisions"),
            namespaced("DaemonSet", "daemonsets").short(&["ds"]).all().status(),
            namespaced("Deployment", "deployments").short(&["deploy"]).all().subs(&[SCALE, STATUS]),
            namespaced("ReplicaSet", "replicasets").short(&["rs"]).all().subs(&[SCALE, STATUS]),
            namespaced("StatefulSet", "statefulsets").short(&["sts"]).all().subs(&[SCALE, STATUS]),
        ],
    },
    Group {
        group: "authentication.k8s.io",
        version: "v1",
        package: "io.k8s.api.authentication.v1",
        rows: &[
            cluster("SelfSubjectReview", "selfsubjectreviews").create_only(),
            cluster("TokenReview", "tokenreviews").create_only(),
        ],
    },
    Group {
        group: "authorization.k8s.io",
        version: "v1",
        package: "io.k8s.api.authorization.v1",
        rows: &[
            namespaced("LocalSubjectAccessReview", "localsubjectaccessreviews").create_only(),
            cluster("SelfSubjectAccessReview", "selfsubjectaccessreviews").create_only(),
            cluster("SelfSubjectRulesReview", "selfsubjectrulesreviews").create_only(),
            cluster("SubjectAccessReview", "subjectaccessreviews").create_only(),
        ],
    },
    Group {
        group: "autoscaling",
        version: "v1",
        package: "io.k8s.api.autoscaling.v1",
        rows: &[namespaced("HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .short(&["hpa"])
            .all()
            .status()
            .stored_as("autoscaling", "v2", "autoscaling/horizontalpodautoscalers")],
    },
    Group {
        group: "autoscaling",
        version: "v2",
        package: "io.k8s.api.autoscaling.v2",
        rows: &[namespaced("HorizontalPodAutoscaler", "horizontalpodautoscalers").short(&["hpa"]).all().status()],
    },
    Group {
        group: "batch",
        version: "v1",
        package: "io.k8s.api.batch.v1",
        rows: &[
            namespaced("CronJob", "cronjobs").short(&["cj"]).all().status(),
            namespaced("Job", "jobs").all().status(),
        ],
    },
    Group {
        group: "certificates.k8s.io",
        version: "v1",
        package: "io.k8s.api.certificates.v1",
        rows: &[cluster("CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .subs(&[sub("approval", OWN, verbs::READ_WRITE), STATUS])],
    },
    Group {
        group: "coordination.k8s.io",
        version: "v1",
        package: "io.k8s.api.coordination.v1",
        rows: &[namespaced("Lease", "leases")],
    },
    Group {
        group: "discovery.k8s.io",
        version: "v1",
        package: "io.k8s.api.discovery.v1",
        rows: &[namespaced("EndpointSlice", "endpointslices")],
    },
    Group {
        group: "events.k8s.io",
        version: "v1",
        package: "io.k8s.api.events.v1",
        rows: &[namespaced("Event", "events").short(&["ev"]).stored_as("", "v1", "events")],
    },
    Group {
        group: "flowcontrol.apiserver.k8s.io",
        version: "v1",
        package: "io.k8s.api.flowcontrol.v1",
        rows: &[
            cluster("FlowSchema", "flowschemas").status(),
            cluster("PriorityLevelConfiguration", "prioritylevelconfigurations").status(),
        ],
    },
    Group {
        group: "networking.k8s.io",
        version: "v1",
        package: "io.k8s.api.networking.v1",
        rows: &[
            cluster("IngressClass", "ingressclasses"),
            namespaced("Ingress", "ingresses").short(&["ing"]).status(),
            cluster("IPAddress", "ipaddresses").short(&["ip"]),
            namespaced("NetworkPolicy", "networkpolicies").short(&["netpol"]),
            cluster("ServiceCIDR", "servicecidrs").status(),
        ],
    },
    Group {
        group: "node.k8s.io",
        version: "v1",
        package: "io.k8s.api.node.v1",
        rows: &[cluster("RuntimeClass", "runtimeclasses")],
    },
    Group {
        group: "policy",
        version: "v1",
        package: "io.k8s.api.policy.v1",
        rows: &[namespaced("PodDisruptionBudget", "poddisruptionbudgets").short(&["pdb"]).status()],
    },
    Group {
        group: "rbac.authorization.k8s.io",
        version: "v1",
        package: "io.k8s.api.rbac.v1",
        rows: &[
            cluster("ClusterRoleBinding", "clusterrolebindings"),
            cluster("ClusterRole", "clusterroles"),
            namespaced("RoleBinding", "rolebindings"),
            namespaced("Role", "roles"),
        ],
    },
    Group {
        group: "resource.k8s.io",
        version: "v1",
        package: "io.k8s.api.resource.v1",
        rows: &[
            cluster("DeviceClass", "deviceclasses"),
            namespaced("ResourceClaim", "resourceclaims").status(),
            namespaced("ResourceClaimTemplate", "resourceclaimtemplates"),
            cluster("ResourceSlice", "resourceslices"),
        ],
    },
    Group {
        group: "scheduling.k8s.io",
        version: "v1",
        package: "io.k8s.api.scheduling.v1",
        rows: &[cluster("PriorityClass", "priorityclasses").short(&["pc"])],
    },
    Group {
        group: "storage.k8s.io",
        version: "v1",
        package: "io.k8s.api.storage.v1",
        rows: &[
            cluster("CSIDriver", "csidrivers"),
            cluster("CSINode", "csinodes"),
            namespaced("CSIStorageCapacity", "csistoragecapacities"),
            cluster("StorageClass", "storageclasses").short(&["sc"]),
            cluster("VolumeAttachment", "volumeattachments").status(),
            cluster("VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]),
        ],
    },
];

const CORE: &[Row] = &[
    namespaced("Binding", "bindings").create_only(),
    cluster("ComponentStatus", "componentstatuses").short(&["cs"]).verbs(verbs::READ_LIST),
    namespaced("ConfigMap", "configmaps").short(&["cm"]),
    namespaced("Endpoints", "endpoints").short(&["ep"]),
    namespaced("Event", "events").short(&["ev"]),
    namespaced("LimitRange", "limitranges").short(&["limits"]),
    cluster("Namespace", "namespaces")
        .short(&["ns"])
        .verbs(verbs::NO_COLLECTION_DELETE)
        .subs(&[sub("finalize", OWN, verbs::UPDATE), STATUS]),
    cluster("Node", "nodes").short(&["no"]).subs(&[sub("proxy", ("", "v1", "NodeProxyOptions"), verbs::PROXY), STATUS]),
    namespaced("PersistentVolumeClaim", "persistentvolumeclaims").short(&["pvc"]).status(),
    cluster("PersistentVolume", "persistentvolumes").short(&["pv"]).status(),
    namespaced("Pod", "pods").short(&["po"]).all().subs(&[
        sub("attach", ("", "v1", "PodAttachOptions"), verbs::CONNECT),
        sub("binding", ("", "v1", "Binding"), verbs::CREATE),
        sub("ephemeralcontainers", OWN, verbs::READ_WRITE),
        sub("eviction", ("policy", "v1", "Eviction"), verbs::CREATE),
        sub("exec", ("", "v1", "PodExecOptions"), verbs::CONNECT),
        sub("log", OWN, verbs::READ),
        sub("portforward", ("", "v1", "PodPortForwardOptions"), verbs::CONNECT),
        sub("proxy", ("", "v1", "PodProxyOptions"), verbs::PROXY),
        sub("resize", OWN, verbs::READ_WRITE),
        STATUS,
    ]),
    namespaced("PodTemplate", "podtemplates"),
    namespaced("ReplicationController", "replicationcontrollers").short(&["rc"]).all().subs(&[SCALE, STATUS]),
    namespaced("ResourceQuota", "resourcequotas").short(&["quota"]).status(),
    namespaced("Secret", "secrets"),
    namespaced("ServiceAccount", "serviceaccounts").short(&["sa"]).subs(&[sub(
        "token",
        ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs::CREATE,
    )]),
    namespaced("Service", "services")
        .short(&["svc"])
        .all()
        .subs(&[sub("proxy", ("", "v1", "ServiceProxyOptions"), verbs::PROXY), STATUS]),
];

/// Expands the rows. Called once, by [`super::KINDS`].
pub(super) fn build() -> Vec<Kind> {
    GROUPS.iter().flat_map(|group| group.rows.iter().map(|row| expand(group, row))).collect()
}

fn expand(group: &Group, row: &Row) -> Kind {
    let own_prefix = || match group.group {
        "" => Text::Borrowed(row.plural),
        name => Text::Owned(format!("{name}/{}", row.plural)),
    };
    let (storage_group, storage_version, storage_prefix) = match row.stored {
        Some((group, version, prefix)) => (group, version, Text::Borrowed(prefix)),
        None => (group.group, group.version, own_prefix()),
    };
    Kind {
        group: Text::Borrowed(group.group),
        version: Text::Borrowed(group.version),
        kind: Text::Borrowed(row.kind),
        list_kind: Text::Owned(format!("{}List", row.kind)),
        plural: Text::Borrowed(row.plural),
        singular: Text::Owned(row.kind.to_ascii_lowercase()),
        short_names: texts(row.short),
        categories: texts(row.categories),
        scope: row.scope,
        verbs: row.verbs,
        subresources: row.subs.iter().map(|sub| expand_sub(group, row, sub)).collect(),
        storage_prefix,
        storage_group: Text::Borrowed(storage_group),
        storage_version: Text::Borrowed(storage_version),
        schema: Text::Owned(format!("{}.{}", group.package, row.kind)),
        custom: false,
    }
}

fn expand_sub(group: &Group, row: &Row, sub: &Sub) -> Subresource {
    let (sub_group, version, kind) = if sub.gvk == OWN { (group.group, group.version, row.kind) } else { sub.gvk };
    Subresource {
        name: sub.name,
        group: Text::Borrowed(sub_group),
        version: Text::Borrowed(version),
        kind: Text::Borrowed(kind),
        verbs: sub.verbs,
    }
}

fn texts(list: &'static [&'static str]) -> Vec<Text> {
    list.iter().copied().map(Text::Borrowed).collect()
}
