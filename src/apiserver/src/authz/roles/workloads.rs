//! Rules of the user-facing roles (view, edit, admin) and of the larger components.

/// What `view` reads: everything in a namespace but Secrets and RBAC.
pub(super) const VIEW: &[&str] = &[
    "get,list,watch core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
    "get,list,watch core bindings,events,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
    "get,list,watch core namespaces",
    "get,list,watch discovery.k8s.io endpointslices",
    "get,list,watch apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
    "get,list,watch autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status",
    "get,list,watch batch cronjobs,cronjobs/status,jobs,jobs/status",
    "get,list,watch extensions daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale",
    "get,list,watch policy poddisruptionbudgets,poddisruptionbudgets/status",
    "get,list,watch networking.k8s.io ingresses,ingresses/status,networkpolicies",
    "get,list,watch resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates",
];

/// What `edit` adds.
pub(super) const EDIT: &[&str] = &[
    "get,list,watch core pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
    "impersonate core serviceaccounts",
    "create,delete,deletecollection,patch,update core pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
    "create core pods/eviction",
    "create,delete,deletecollection,patch,update core configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
    "create core serviceaccounts/token",
    "create,delete,deletecollection,patch,update apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
    "create,delete,deletecollection,patch,update autoscaling horizontalpodautoscalers",
    "create,delete,deletecollection,patch,update batch cronjobs,jobs",
    "create,delete,deletecollection,patch,update extensions daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale",
    "create,delete,deletecollection,patch,update policy poddisruptionbudgets",
    "create,delete,deletecollection,patch,update networking.k8s.io ingresses,networkpolicies",
    "create,delete,deletecollection,get,list,patch,update,watch coordination.k8s.io leases",
    "create,delete,deletecollection,patch,update resource.k8s.io resourceclaims,resourceclaimtemplates",
];

/// What `admin` adds.
pub(super) const ADMIN: &[&str] = &[
    "create authorization.k8s.io localsubjectaccessreviews",
    "create,delete,deletecollection,get,list,patch,update,watch rbac.authorization.k8s.io rolebindings,roles",
];

/// The role of a node where it is bound; the node authorizer grants these by what a node's pods need instead.
pub(super) const NODE: &[&str] = &[
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews",
    "get,list,watch core services",
    "create,get,list,watch core nodes",
    "patch,update core nodes,nodes/status",
    "create,patch,update core,events.k8s.io events",
    "get,list,watch core pods",
    "create,delete core pods",
    "patch,update core pods/status",
    "create core pods/eviction",
    "get,list,watch core configmaps,secrets",
    "get core persistentvolumeclaims,persistentvolumes",
    "get core endpoints",
    "create,get,list,watch certificates.k8s.io certificatesigningrequests",
    "create,delete,get,patch,update coordination.k8s.io leases",
    "get storage.k8s.io volumeattachments",
    "create core serviceaccounts/token",
    "get,patch,update core persistentvolumeclaims/status",
    "get,list,watch storage.k8s.io csidrivers",
    "create,delete,get,patch,update storage.k8s.io csinodes",
    "get,list,watch node.k8s.io runtimeclasses",
    "get resource.k8s.io resourceclaims",
    "deletecollection resource.k8s.io resourceslices",
    "create,delete,get,list,patch,update,watch resource.k8s.io resourceslices",
];

pub(super) const CONTROLLER_MANAGER: &[&str] = &[
    "create,patch,update core,events.k8s.io events",
    "create coordination.k8s.io leases",
    "get,update coordination.k8s.io leases kube-controller-manager",
    "create core secrets,serviceaccounts",
    "delete core secrets",
    "get core configmaps,namespaces,secrets,serviceaccounts",
    "update core secrets,serviceaccounts",
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io subjectaccessreviews",
    "list,watch * *",
    "create core serviceaccounts/token",
];

pub(super) const SCHEDULER: &[&str] = &[
    "create,patch,update core,events.k8s.io events",
    "create coordination.k8s.io leases",
    "get,list,update,watch coordination.k8s.io leases kube-scheduler",
    "create coordination.k8s.io leasecandidates",
    "get,list,watch core nodes",
    "delete,get,list,watch core pods",
    "create core bindings,pods/binding",
    "patch,update core pods/status",
    "get,list,watch core replicationcontrollers,services",
    "get,list,watch apps,extensions replicasets",
    "get,list,watch apps statefulsets",
    "get,list,watch policy poddisruptionbudgets",
    "get,list,watch core persistentvolumeclaims,persistentvolumes",
    "create authentication.k8s.io tokenreviews",
    "create authorization.k8s.io subjectaccessreviews",
    "get,list,watch storage.k8s.io csinodes,csidrivers,csistoragecapacities,volumeattachments",
    "get,list,watch core namespaces",
    "get,list,watch resource.k8s.io deviceclasses,resourceslices",
    "get,list,patch,update,watch resource.k8s.io resourceclaims",
    "patch,update resource.k8s.io resourceclaims/status",
];
