//! LimitRanger: fills in a namespace's default requests and limits, and refuses what is outside its bounds.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, LimitRange, LimitRangeItem, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Wire,
};
use objects::{quantity::Quantity, status::Status};
use serde_json::Value;

use super::Review;

type Amounts = BTreeMap<String, Wire>;

fn ranges(review: &Review<'_>) -> Result<Vec<LimitRange>, Status> {
    let cache = review.inner.hub.kind("limitranges")?;
    if cache.len() == 0 {
        return Ok(Vec::new());
    }
    Ok(cache.list(review.place.namespace, |_| true).entries.iter().filter_map(|entry| entry.typed().ok()).collect())
}

fn items<'r>(ranges: &'r [LimitRange], kind: &'r str) -> impl Iterator<Item = &'r LimitRangeItem> {
    ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| &spec.limits).filter(move |l| l.type_ == kind)
}

/// Gives every container the defaults it lacks.
pub(super) fn mutate(review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
    let ranges = ranges(review)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let mut pod: Pod = serde_json::from_value(object.clone()).map_err(Status::internal)?;
    let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
    let mut given = Vec::new();
    for item in items(&ranges, "Container") {
        for container in spec.containers.iter_mut() {
            give(container, item, "container", &mut given);
        }
        for container in spec.init_containers.iter_mut().flatten() {
            give(container, item, "init container", &mut given);
        }
    }
    object["spec"] = serde_json::to_value(&pod.spec).map_err(Status::internal)?;
    if !given.is_empty() {
        let note = format!("LimitRanger plugin set: {}", given.join("; "));
        let annotations =
            crate::encoded::metadata_mut(object).entry("annotations").or_insert_with(|| serde_json::json!({}));
        annotations["kubernetes.io/limit-ranger"] = note.into();
    }
    Ok(())
}

fn give(container: &mut Container, item: &LimitRangeItem, what: &str, given: &mut Vec<String>) {
    let resources = container.resources.get_or_insert_default();
    let mut fill = |to: &mut Option<Amounts>, from: &Option<Amounts>, which: &str| {
        let mut names = Vec::new();
        for (name, amount) in from.iter().flatten() {
            let to = to.get_or_insert_default();
            if !to.contains_key(name) {
                to.insert(name.clone(), amount.clone());
                names.push(name.clone());
            }
        }
        if !names.is_empty() {
            given.push(format!("{} {which} for {what} {}", names.join(", "), container.name));
        }
    };
    // A limit without a request is a request of the same amount, before any default request.
    let own_limits = resources.limits.clone();
    fill(&mut resources.requests, &own_limits, "request");
    fill(&mut resources.requests, &item.default_request, "request");
    fill(&mut resources.limits, &item.default, "limit");
}

/// Checks every container and the pod as a whole.
pub(super) fn validate(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    if !matches!(review.place.subresource, "" | "resize") || review.old.is_some() && review.place.subresource.is_empty()
    {
        return Ok(());
    }
    let ranges = ranges(review)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let pod: Pod = serde_json::from_value(object.clone()).map_err(Status::internal)?;
    let Some(spec) = &pod.spec else { return Ok(()) };
    let mut problems = Vec::new();
    for item in items(&ranges, "Container") {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let resources = container.resources.clone().unwrap_or_default();
            check(item, &resources.requests.unwrap_or_default(), &resources.limits.unwrap_or_default(), &mut problems);
        }
    }
    for item in items(&ranges, "Pod") {
        let (requests, limits) = totals(spec);
        check(item, &requests, &limits, &mut problems);
    }
    if problems.is_empty() {
        return Ok(());
    }
    let why = if problems.len() == 1 { problems.remove(0) } else { format!("[{}]", problems.join(", ")) };
    Err(review.forbid(crate::encoded::meta_str(object, "name"), &why))
}

/// Sums of the containers, or the largest init container where that is more.
fn totals(spec: &PodSpec) -> (Amounts, Amounts) {
    let total = |pick: fn(&Container) -> Option<&Amounts>| {
        let mut sum: BTreeMap<String, Quantity> = BTreeMap::new();
        for (name, amount) in spec.containers.iter().filter_map(pick).flatten() {
            *sum.entry(name.clone()).or_default() += Quantity::of(amount);
        }
        for (name, amount) in spec.init_containers.iter().flatten().filter_map(pick).flatten() {
            let entry = sum.entry(name.clone()).or_default();
            *entry = (*entry).max(Quantity::of(amount));
        }
        sum.into_iter().map(|(name, amount)| (name, amount.to_wire())).collect()
    };
    (
        total(|container| container.resources.as_ref()?.requests.as_ref()),
        total(|container| container.resources.as_ref()?.limits.as_ref()),
    )
}

fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    let kind = &item.type_;
    for (name, least) in item.min.iter().flatten() {
        match requests.get(name).or_else(|| limits.get(name)) {
            None => problems.push(format!("minimum {name} usage per {kind} is {}. No request is specified", least.0)),
            Some(own) if Quantity::of(own) < Quantity::of(least) => {
                problems.push(format!("minimum {name} usage per {kind} is {}, but request is {}", least.0, own.0));
            }
            Some(_) => {}
        }
    }
    for (name, most) in item.max.iter().flatten() {
        match limits.get(name) {
            None => problems.push(format!("maximum {name} usage per {kind} is {}. No limit is specified", most.0)),
            Some(own) if Quantity::of(own) > Quantity::of(most) => {
                problems.push(format!("maximum {name} usage per {kind} is {}, but limit is {}", most.0, own.0));
            }
            Some(_) => {}
        }
    }
    for (name, ratio) in item.max_limit_request_ratio.iter().flatten() {
        let (Some(request), Some(limit)) = (requests.get(name), limits.get(name)) else {
            problems.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but no request or limit is specified",
                ratio.0
            ));
            continue;
        };
        let actual = Quantity::of(limit).as_f64() / Quantity::of(request).as_f64();
        if actual > Quantity::of(ratio).as_f64() {
            problems.push(format!(
                "{name} max limit to request ratio per {kind} is {}, but provided ratio is {actual:.6}",
                ratio.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_only_what_is_missing_and_bounds_hold() {
        let item: LimitRangeItem = serde_json::from_value(json!({"type": "Container",
            "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}))
        .unwrap();
        let mut container: Container = serde_json::from_value(json!({"name": "c"})).unwrap();
        give(&mut container, &item, "container", &mut Vec::new());
        let resources = container.resources.unwrap();
        assert_eq!(resources.requests.unwrap()["cpu"].0, "100m");
        assert_eq!(resources.limits.as_ref().unwrap()["cpu"].0, "500m");
        let mut problems = Vec::new();
        check(&item, &BTreeMap::new(), &[("cpu".to_owned(), Wire("2".into()))].into(), &mut problems);
        assert_eq!(problems, ["maximum cpu usage per Container is 1, but limit is 2"]);
    }
}
