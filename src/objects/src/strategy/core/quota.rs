//! Resource quotas and limit ranges.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::strategy::Part;
use crate::strategy::typed::{Rules, StatusPolicy};
use crate::validation::{IMMUTABLE, check, resources, shown};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

pub struct ResourceQuotaRules;

impl Rules for ResourceQuotaRules {
    type Object = ResourceQuota;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const COLUMNS: &'static [Column] = columns::core::RESOURCE_QUOTA;

    fn validate(quota: &ResourceQuota, errors: &mut Errors) {
        let default = ResourceQuotaSpec::default();
        let spec = quota.spec.as_ref().unwrap_or(&default);
        let path = &Path::root("spec");
        amounts(errors, &path.child("hard"), spec.hard.as_ref());
        scopes(errors, path, spec);
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota, errors: &mut Errors) {
        Self::validate(new, errors);
        let set = |quota: &ResourceQuota| -> BTreeSet<String> {
            quota.spec.as_ref().and_then(|spec| spec.scopes.clone()).unwrap_or_default().into_iter().collect()
        };
        if set(new) != set(old) {
            let scopes = new.spec.as_ref().and_then(|spec| spec.scopes.clone());
            errors.invalid(&Path::root("spec").child("scopes"), shown(&scopes), IMMUTABLE);
        }
    }

    fn validate_part(_part: Part, new: &ResourceQuota, _old: &ResourceQuota, errors: &mut Errors) {
        let Some(status) = &new.status else { return };
        let path = Path::root("status");
        amounts(errors, &path.child("hard"), status.hard.as_ref());
        amounts(errors, &path.child("used"), status.used.as_ref());
    }

    fn cells(quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        columns::core::resource_quota(quota, now)
    }
}

fn amounts(errors: &mut Errors, path: &Path<'_>, amounts: Option<&BTreeMap<String, Wire>>) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        // Counts of objects (`count/deployments.apps`) are names with a prefix like any other.
        resources::quota_name(errors, &path, name);
        resources::amount(errors, &path, name, amount);
    }
}

fn scopes(errors: &mut Errors, path: &Path<'_>, spec: &ResourceQuotaSpec) {
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    let scopes_path = &path.child("scopes");
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(scopes_path, shown(&scopes), "unsupported scope");
        }
        for _ in out_of_scope(scope, spec) {
            errors.invalid(scopes_path, shown(&scopes), OUT_OF_SCOPE);
        }
    }
    conflicts(errors, scopes_path, scopes);
    let Some(selector) = &spec.scope_selector else { return };
    let path = &path.child("scopeSelector.matchExpressions");
    let requirements = selector.match_expressions.as_deref().unwrap_or_default();
    for requirement in requirements {
        let (name, values) = (requirement.scope_name.as_str(), requirement.values.as_deref().unwrap_or_default());
        if !SCOPES.contains(&name) {
            errors.invalid(&path.child("scopeName"), name, "unsupported scope");
        }
        for _ in out_of_scope(name, spec) {
            errors.invalid(path, shown(selector), OUT_OF_SCOPE);
        }
        if SCOPES.contains(&name)
            && !matches!(name, "PriorityClass" | "VolumeAttributesClass")
            && requirement.operator != "Exists"
        {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(&path.child("operator"), &requirement.operator, detail);
        }
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), shown(&values), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
    }
    let names: Vec<String> = requirements.iter().map(|requirement| requirement.scope_name.clone()).collect();
    conflicts(errors, path, &names);
}

const OUT_OF_SCOPE: &str = "unsupported scope applied to resource";

/// The limited resources that nothing within the scope uses.
fn out_of_scope<'s>(scope: &'s str, spec: &'s ResourceQuotaSpec) -> impl Iterator<Item = &'s String> {
    let names = spec.hard.iter().flatten().map(|(name, _)| name);
    names.filter(move |name| resources::is_standard_in_quota(name) && !in_scope(scope, name))
}

fn in_scope(scope: &str, resource: &str) -> bool {
    const POD_COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || POD_COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn conflicts(errors: &mut Errors, path: &Path<'_>, scopes: &[String]) {
    let has = |name: &str| scopes.iter().any(|scope| scope == name);
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(one) && has(other) {
            errors.invalid(path, shown(&scopes), "conflicting scopes");
        }
    }
}

pub struct LimitRangeRules;

impl Rules for LimitRangeRules {
    type Object = LimitRange;
    const CREATE_ON_UPDATE: bool = true;

    fn default(range: &mut LimitRange) {
        let items = range.spec.iter_mut().flat_map(|spec| spec.limits.iter_mut());
        items.filter(|item| item.type_ == "Container").for_each(container_defaults);
    }

    fn validate(range: &LimitRange, errors: &mut Errors) {
        let items = range.spec.as_ref().map(|spec| spec.limits.as_slice()).unwrap_or_default();
        let path = Path::root("spec");
        let path = path.child("limits");
        for (n, item) in items.iter().enumerate() {
            let path = &path.index(n);
            limit(errors, path, item);
            if items[..n].iter().any(|other| other.type_ == item.type_) {
                errors.duplicate(&path.child("type"), &item.type_);
            }
        }
    }
}

/// Default limits follow the maximum, default requests the default limits and the minimum.
fn container_defaults(item: &mut LimitRangeItem) {
    let limits = item.default.get_or_insert_default();
    for (name, amount) in item.max.iter().flatten() {
        limits.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    let requests = item.default_request.get_or_insert_default();
    for (name, amount) in limits.iter().chain(item.min.iter().flatten()) {
        requests.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn limit(errors: &mut Errors, path: &Path<'_>, item: &LimitRangeItem) {
    let kind = item.type_.as_str();
    let messages = names::qualified_name(kind);
    let standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") || kind.contains('/');
    if messages.is_empty() && !standard {
        errors.invalid(&path.child("type"), kind, "must be a standard limit type or fully qualified");
    }
    check(errors, &path.child("type"), kind, messages);
    let maps = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut keys = BTreeSet::new();
    for (field, map) in maps {
        let path = path.child(field);
        if kind == "Pod" && field.starts_with("default") && map.as_ref().is_some_and(|map| !map.is_empty()) {
            errors.forbidden(&path, "may not be specified when `type` is 'Pod'");
            continue;
        }
        for name in map.iter().flatten().map(|(name, _)| name) {
            if matches!(kind, "Pod" | "Container") {
                resources::container_name(errors, &path.key(name), name);
            } else {
                resources::name(errors, &path.key(name), name);
            }
            keys.insert(name);
        }
    }
    if kind == "PersistentVolumeClaim" {
        let has = |map: &Option<BTreeMap<String, Wire>>| map.as_ref().is_some_and(|map| map.contains_key("storage"));
        if !has(&item.min) && !has(&item.max) {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&path.child("limits"), detail);
        }
    }
    keys.into_iter().for_each(|name| in_order(errors, path, item, name));
}

/// min ≤ default request ≤ default ≤ max.
fn in_order(errors: &mut Errors, path: &Path<'_>, item: &LimitRangeItem, name: &str) {
    let get = |map: &Option<BTreeMap<String, Wire>>| map.as_ref()?.get(name).map(Quantity::of);
    let (min, max) = (get(&item.min), get(&item.max));
    let (limit, request) = (get(&item.default), get(&item.default_request));
    // The field at fault, the smaller and the greater with what they are called.
    let orders = [
        ("min", (min, "min value"), (max, "max value")),
        ("defaultRequest", (min, "min value"), (request, "default request value")),
        ("defaultRequest", (request, "default request value"), (max, "max value")),
        ("defaultRequest", (request, "default request value"), (limit, "default limit value")),
        ("default", (min, "min value"), (limit, "default value")),
        ("default", (limit, "default value"), (max, "max value")),
    ];
    for (field, (small, small_name), (great, great_name)) in orders {
        if let (Some(small), Some(great)) = (small, great)
            && small > great
        {
            let path = path.child(field);
            let detail = format!("{small_name} {small} is greater than {great_name} {great}");
            let shown = if small_name == "min value" && field == "defaultRequest" { great } else { small };
            errors.invalid(&path.key(name), shown.to_string().as_str(), &detail);
        }
    }
    if let Some(ratio) = get(&item.max_limit_request_ratio) {
        let path = path.child("maxLimitRequestRatio");
        let path = path.key(name);
        if ratio < Quantity::from_millis(1000) {
            errors.invalid(&path, ratio.to_string().as_str(), &format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min.filter(|min| !min.is_zero()), max) {
            let most = max.as_f64() / min.as_f64();
            if ratio.as_f64() > most {
                let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                errors.invalid(&path, ratio.to_string().as_str(), &detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(spec: Value) -> Vec<String> {
        let quota = serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).unwrap();
        let mut errors = Errors::default();
        ResourceQuotaRules::validate(&quota, &mut errors);
        errors.as_slice().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_scope_limits_only_what_is_used_within_it() {
        let refused =
            errors(json!({"hard": {"pods": "1", "cpu": "1", "example.com/x": "1"}, "scopes": ["BestEffort"]}));
        assert_eq!(refused, ["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"]);
        let storage = json!({"requests.storage": "1Gi", "persistentvolumeclaims": "1"});
        assert_eq!(errors(json!({"hard": storage, "scopes": ["NotTerminating"]})).len(), 2);
        let class = json!({"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "Exists"}]});
        assert_eq!(errors(json!({"hard": storage, "scopeSelector": class})), Vec::<String>::new());
        assert_eq!(errors(json!({"hard": {"limits.cpu": "1"}, "scopeSelector": class})).len(), 1);
        let compute = json!({"requests.cpu": "1", "limits.memory": "1Gi", "pods": "3"});
        assert_eq!(errors(json!({"hard": compute, "scopes": ["NotBestEffort"]})), Vec::<String>::new());
    }
}
