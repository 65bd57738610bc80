//! Resource names and amounts: container requirements, quotas, limit ranges.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use super::check;
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;

const NOT_INTEGER: &str = "must be an integer";
const NEGATIVE: &str = "must be greater than or equal to 0";

pub(crate) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Without a domain, or in `kubernetes.io`.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// In a vendor's domain, and such that `requests.` before it is still a name.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether a request may be below the limit.
fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// Amounts that count things.
fn is_integer(name: &str) -> bool {
    const COUNTS: &[&str] = &[
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    COUNTS.contains(&name) || is_extended(name)
}

fn is_standard(name: &str) -> bool {
    QUOTA.contains(&name) || name == "storage" || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// A compute resource name: standard, or with a domain.
pub fn name(errors: &mut Errors, path: &Path<'_>, name: &str) -> bool {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        check(errors, path, name, messages);
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

pub fn container_name(errors: &mut Errors, path: &Path<'_>, name: &str) {
    self::name(errors, path, name);
    if !name.contains('/') {
        if !is_container_resource(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// Whether a quota knows the name itself.
pub fn is_standard_in_quota(name: &str) -> bool {
    QUOTA.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

pub fn quota_name(errors: &mut Errors, path: &Path<'_>, name: &str) {
    self::name(errors, path, name);
    if !name.contains('/') && !is_standard_in_quota(name) {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
}

/// Not negative, and whole where things are counted.
pub fn amount(errors: &mut Errors, path: &Path<'_>, name: &str, amount: &Wire) {
    let quantity = Quantity::of(amount);
    if quantity.is_negative() {
        errors.invalid(path, &amount.0, NEGATIVE);
    }
    if is_integer(name) && !quantity.is_integer() {
        errors.invalid(path, &amount.0, NOT_INTEGER);
    }
}

type Map = BTreeMap<String, Wire>;

fn entries(map: Option<&Map>) -> impl Iterator<Item = (&str, &Wire)> {
    map.into_iter().flatten().map(|(name, amount)| (name.as_str(), amount))
}

/// Requirements of a container; `claims` are the names of the pod's resource claims.
pub fn requirements(errors: &mut Errors, path: &Path<'_>, requirements: &ResourceRequirements, claims: &[&str]) {
    checked(errors, path, requirements, container_name);
    self::claims(errors, &path.child("claims"), requirements.claims.as_deref().unwrap_or_default(), claims);
}

/// Requirements of a whole pod.
pub fn pod_requirements(errors: &mut Errors, path: &Path<'_>, requirements: &ResourceRequirements) {
    checked(errors, path, requirements, |errors, path, name| {
        if self::name(errors, path, name) && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
            errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
        }
    });
}

/// A bare list of amounts, as pod overhead is.
pub fn list(errors: &mut Errors, path: &Path<'_>, list: Option<&Map>) {
    for (name, quantity) in entries(list) {
        let path = path.key(name);
        container_name(errors, &path, name);
        amount(errors, &path, name, quantity);
    }
}

fn checked(
    errors: &mut Errors,
    path: &Path<'_>,
    requirements: &ResourceRequirements,
    check_name: impl Fn(&mut Errors, &Path<'_>, &str),
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (limits, requests) = (requirements.limits.as_ref(), requirements.requests.as_ref());
    for (name, quantity) in entries(limits) {
        let path = limits_path.key(name);
        check_name(errors, &path, name);
        amount(errors, &path, name, quantity);
        huge_page(errors, &path, name, quantity);
    }
    for (name, quantity) in entries(requests) {
        let path = requests_path.key(name);
        check_name(errors, &path, name);
        amount(errors, &path, name, quantity);
        match limits.and_then(|limits| limits.get(name)) {
            Some(limit) => below_limit(errors, &requests_path, name, quantity, limit),
            None if !may_overcommit(name) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
        huge_page(errors, &path, name, quantity);
    }
    let has = |test: fn(&str) -> bool| entries(limits).chain(entries(requests)).any(|(name, _)| test(name));
    if has(is_huge_page) && !has(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn below_limit(errors: &mut Errors, path: &Path<'_>, name: &str, request: &Wire, limit: &Wire) {
    let (wanted, most) = (Quantity::of(request), Quantity::of(limit));
    if wanted != most && !may_overcommit(name) {
        errors.invalid(path, &request.0, &format!("must be equal to {name} limit of {most}"));
    } else if wanted > most {
        errors.invalid(path, &request.0, &format!("must be less than or equal to {name} limit of {most}"));
    }
}

fn huge_page(errors: &mut Errors, path: &Path<'_>, name: &str, amount: &Wire) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let (amount_value, size) = (Quantity::of(amount).value(), size.parse::<Quantity>().map_or(0, Quantity::value));
    if size <= 0 || amount_value % size != 0 {
        errors.invalid(path, &amount.0, &format!("{} is not positive integer multiple of {name}", amount.0));
    }
}

fn claims(errors: &mut Errors, path: &Path<'_>, claims: &[ResourceClaim], known: &[&str]) {
    let mut seen: Vec<String> = Vec::new();
    for (n, claim) in claims.iter().enumerate() {
        let path = &path.index(n);
        let name = claim.name.as_str();
        if name.is_empty() {
            errors.required(path, "");
            continue;
        }
        let key = match claim.request.as_deref().filter(|request| !request.is_empty()) {
            Some(request) => {
                check(errors, &path.child("request"), request, names::dns1123_label(request));
                format!("{name}/{request}")
            }
            None => name.to_owned(),
        };
        let overlaps =
            seen.iter().any(|s| *s == key || s == name || (key == name && s.starts_with(&format!("{name}/"))));
        if overlaps {
            errors.duplicate(path, &key);
        }
        seen.push(key);
        if !known.contains(&name) {
            errors.not_found(path, name);
        }
    }
}
