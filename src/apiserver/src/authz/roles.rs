//! The roles and bindings every cluster has, as upstream's `rbac bootstrap-roles` writes them, in a short notation:
//! a rule is `verbs groups resources [names]`, each a comma-separated list, `core` being the group without a name;
//! `verbs @paths` is a rule on paths. Reconciled at each start: missing rules are added, nothing else is touched.

mod controllers;
mod workloads;

use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A cluster role in the short notation.
struct RoleRow {
    name: &'static str,
    rules: &'static [&'static str],
    /// Labels `rbac.authorization.k8s.io/aggregate-to-<role>`.
    aggregate_to: &'static str,
    /// This role is the sum of those labelled so.
    aggregates: &'static [&'static str],
}

const fn role(name: &'static str, rules: &'static [&'static str]) -> RoleRow {
    RoleRow { name, rules, aggregate_to: "", aggregates: &[] }
}

const fn part(name: &'static str, aggregate_to: &'static str, rules: &'static [&'static str]) -> RoleRow {
    RoleRow { name, rules, aggregate_to, aggregates: &[] }
}

const fn sum(name: &'static str, aggregate_to: &'static str, aggregates: &'static [&'static str]) -> RoleRow {
    RoleRow { name, rules: &[], aggregate_to, aggregates }
}

/// What an agent needs beyond its own pods: services, their endpoints, other nodes, policies.
const NODE_NETWORK: &[&str] = &[
    "get,list,watch core services,endpoints,nodes,namespaces",
    "get,list,watch discovery.k8s.io endpointslices",
    "get,list,watch networking.k8s.io networkpolicies,ingresses,ingressclasses",
];

const CLUSTER_ROLES: &[RoleRow] = &[
    role("cluster-admin", &["* * *", "* @*"]),
    role(
        "system:discovery",
        &["get @/api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/"],
    ),
    role("system:public-info-viewer", &["get @/healthz,/livez,/readyz,/version,/version/"]),
    role("system:monitoring", &["get @/healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*"]),
    role(
        "system:basic-user",
        &[
            "create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io selfsubjectreviews",
        ],
    ),
    sum("admin", "", &["admin"]),
    sum("edit", "admin", &["edit"]),
    sum("view", "edit", &["view"]),
    part("system:aggregate-to-admin", "admin", workloads::ADMIN),
    part("system:aggregate-to-edit", "edit", workloads::EDIT),
    part("system:aggregate-to-view", "view", workloads::VIEW),
    role(
        "system:heapster",
        &["get,list,watch core events,namespaces,nodes,pods", "get,list,watch extensions deployments"],
    ),
    role("system:node", workloads::NODE),
    role(
        "system:node-problem-detector",
        &["get core nodes", "patch core nodes/status", "create,patch,update core,events.k8s.io events"],
    ),
    role(
        "system:node-proxier",
        &[
            "list,watch core endpoints,services",
            "get,list,watch core nodes",
            "create,patch,update core,events.k8s.io events",
            "list,watch discovery.k8s.io endpointslices",
            "list,watch networking.k8s.io servicecidrs",
        ],
    ),
    role(
        "system:kubelet-api-admin",
        &[
            "get,list,watch core nodes",
            "proxy core nodes",
            "* core nodes/log,nodes/metrics,nodes/proxy,nodes/stats,nodes/configz,nodes/healthz,nodes/pods",
        ],
    ),
    role("system:node-bootstrapper", &["create,get,list,watch certificates.k8s.io certificatesigningrequests"]),
    role(
        "system:auth-delegator",
        &["create authentication.k8s.io tokenreviews", "create authorization.k8s.io subjectaccessreviews"],
    ),
    role("system:kube-aggregator", &["get,list,watch core endpoints,services"]),
    role("system:kube-controller-manager", workloads::CONTROLLER_MANAGER),
    role("system:kube-scheduler", workloads::SCHEDULER),
    role("system:kube-dns", &["list,watch core endpoints,services"]),
    role(
        "system:persistent-volume-provisioner",
        &[
            "create,delete,get,list,watch core persistentvolumes",
            "get,list,update,watch core persistentvolumeclaims",
            "get,list,watch storage.k8s.io storageclasses",
            "watch core events",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
    role(
        "system:volume-scheduler",
        &[
            "get,list,patch,update,watch core persistentvolumes",
            "get,list,watch storage.k8s.io storageclasses",
            "get,list,patch,update,watch core persistentvolumeclaims",
        ],
    ),
    role(
        "system:service-account-issuer-discovery",
        &["get @/.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/"],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["create certificates.k8s.io certificatesigningrequests/nodeclient"],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["create certificates.k8s.io certificatesigningrequests/selfnodeclient"],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &["approve certificates.k8s.io signers kubernetes.io/legacy-unknown"],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kubelet-serving"],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client"],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    role("rk:node-network", NODE_NETWORK),
];

/// Binding name, role, and subjects as `Kind:name`.
const CLUSTER_BINDINGS: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "cluster-admin", &["Group:system:masters"]),
    ("system:monitoring", "system:monitoring", &["Group:system:monitoring"]),
    ("system:discovery", "system:discovery", &["Group:system:authenticated"]),
    ("system:basic-user", "system:basic-user", &["Group:system:authenticated"]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["Group:system:authenticated", "Group:system:unauthenticated"],
    ),
    ("system:node-proxier", "system:node-proxier", &["User:system:kube-proxy"]),
    ("system:kube-controller-manager", "system:kube-controller-manager", &["User:system:kube-controller-manager"]),
    ("system:kube-scheduler", "system:kube-scheduler", &["User:system:kube-scheduler"]),
    ("system:volume-scheduler", "system:volume-scheduler", &["User:system:kube-scheduler"]),
    ("system:kube-dns", "system:kube-dns", &["ServiceAccount:kube-system/kube-dns"]),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["Group:system:serviceaccounts"],
    ),
    ("system:node", "system:node", &[]),
    ("rk:node-network", "rk:node-network", &["Group:system:nodes"]),
];

/// Namespace, name and rules.
const ROLES: &[(&str, &str, &[&str])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["get,list,watch core configmaps extension-apiserver-authentication"],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &["get,list,watch core secrets"]),
    (
        "kube-system",
        "system:controller:token-cleaner",
        &["delete,get,list,watch core secrets", "create,patch,update core,events.k8s.io events"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &["watch core configmaps", "get,update core configmaps kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &["watch core configmaps", "get,update core configmaps kube-scheduler"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            "get,list,watch core configmaps",
            "update core configmaps cluster-info",
            "create,patch,update core,events.k8s.io events",
        ],
    ),
];

/// Namespace, role (and binding) name, subjects.
const ROLE_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["User:system:kube-controller-manager", "User:system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["User:system:kube-controller-manager", "ServiceAccount:kube-system/kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["User:system:kube-scheduler", "ServiceAccount:kube-system/kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount:kube-system/bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["ServiceAccount:kube-system/token-cleaner"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount:kube-system/bootstrap-signer"],
    ),
];

fn list(text: &str) -> Vec<String> {
    text.split(',').map(|item| if item == "core" { String::new() } else { item.to_owned() }).collect()
}

/// Reads a rule.
fn rule(text: &str) -> PolicyRule {
    let parts: Vec<&str> = text.split(' ').collect();
    let verbs = parts.first().map(|verbs| list(verbs)).unwrap_or_default();
    match parts.as_slice() {
        [_, paths] => {
            PolicyRule { verbs, non_resource_urls: Some(list(paths.trim_start_matches('@'))), ..PolicyRule::default() }
        }
        [_, groups, resources, names @ ..] => PolicyRule {
            verbs,
            api_groups: Some(list(groups)),
            resources: Some(list(resources)),
            resource_names: names.first().map(|names| list(names)),
            ..PolicyRule::default()
        },
        _ => PolicyRule::default(),
    }
}

fn metadata(name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())].into()),
        annotations: Some([(AUTOUPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

/// Reads `Kind:name`; a service account's name is `namespace/name`.
fn subject(text: &str) -> Subject {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    if kind == "ServiceAccount" {
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        return Subject { kind: kind.into(), name: name.into(), namespace: Some(namespace.into()), api_group: None };
    }
    Subject { kind: kind.into(), name: name.into(), namespace: None, api_group: Some(GROUP.into()) }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: name.into() }
}

fn label(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

/// All bootstrap cluster roles.
pub(crate) fn cluster_roles() -> Vec<ClusterRole> {
    let own = CLUSTER_ROLES.iter().map(|row| {
        let mut metadata = metadata(row.name, None);
        if !row.aggregate_to.is_empty() {
            metadata.labels.get_or_insert_default().insert(label(row.aggregate_to), "true".into());
        }
        let selectors = row.aggregates.iter().map(|role| LabelSelector {
            match_labels: Some([(label(role), "true".to_owned())].into()),
            ..LabelSelector::default()
        });
        let aggregation_rule =
            (!row.aggregates.is_empty()).then(|| AggregationRule { cluster_role_selectors: Some(selectors.collect()) });
        ClusterRole { metadata, aggregation_rule, rules: Some(row.rules.iter().map(|text| rule(text)).collect()) }
    });
    let controllers = controllers::ROLES.iter().map(|(name, rules)| ClusterRole {
        metadata: metadata(&format!("system:controller:{name}"), None),
        aggregation_rule: None,
        rules: Some(rules.iter().map(|text| rule(text)).collect()),
    });
    own.chain(controllers).collect()
}

/// All bootstrap cluster role bindings.
pub(crate) fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let own = CLUSTER_BINDINGS.iter().map(|(name, role, subjects)| ClusterRoleBinding {
        metadata: metadata(name, None),
        role_ref: role_ref("ClusterRole", role),
        subjects: Some(subjects.iter().map(|text| subject(text)).collect()),
    });
    let controllers = controllers::ROLES.iter().map(|(name, _)| ClusterRoleBinding {
        metadata: metadata(&format!("system:controller:{name}"), None),
        role_ref: role_ref("ClusterRole", &format!("system:controller:{name}")),
        subjects: Some(vec![subject(&format!("ServiceAccount:kube-system/{name}"))]),
    });
    own.chain(controllers).collect()
}

/// All bootstrap roles.
pub(crate) fn roles() -> Vec<Role> {
    let make = |(namespace, name, rules): &(&str, &str, &[&str])| Role {
        metadata: metadata(name, Some(namespace)),
        rules: Some(rules.iter().map(|text| rule(text)).collect()),
    };
    ROLES.iter().map(make).collect()
}

/// All bootstrap role bindings.
pub(crate) fn role_bindings() -> Vec<RoleBinding> {
    let make = |(namespace, name, role, subjects): &(&str, &str, &str, &[&str])| RoleBinding {
        metadata: metadata(name, Some(namespace)),
        role_ref: role_ref("Role", role),
        subjects: Some(subjects.iter().map(|text| subject(text)).collect()),
    };
    ROLE_BINDINGS.iter().map(make).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_reads_and_every_binding_has_its_role() {
        let roles = cluster_roles();
        for role in &roles {
            for rule in role.rules.iter().flatten() {
                assert!(!rule.verbs.is_empty(), "{:?}", role.metadata.name);
                assert!(rule.non_resource_urls.is_some() || rule.resources.as_ref().is_some_and(|r| !r.is_empty()));
            }
        }
        let names: Vec<_> = roles.iter().filter_map(|role| role.metadata.name.as_deref()).collect();
        for binding in cluster_role_bindings() {
            assert!(names.contains(&binding.role_ref.name.as_str()), "{}", binding.role_ref.name);
        }
    }
}
