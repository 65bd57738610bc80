//! LimitRanger: fills in a namespace's default requests and limits, and refuses what is outside its bounds.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Wire,
};
use objects::{quantity::Quantity, resources, status::Status};
use serde_json::Value;
use storage::RangeRequest;

use super::{Operation, Review};
use crate::keys;

type Amounts = BTreeMap<String, Wire>;

/// From the store: a range made a moment ago counts already.
fn ranges(review: &Review<'_>) -> Result<Vec<LimitRange>, Status> {
    let request = RangeRequest::prefix(keys::collection("limitranges", review.place.namespace));
    let stored = review.inner.config.store.range(&request).map_err(Status::internal)?;
    Ok(stored.kvs.iter().filter_map(|kv| serde_json::from_slice(&kv.value).ok()).collect())
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
    let mut pod: Pod = objects::decode::decode(object.clone()).map_err(Status::internal)?;
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
    // A limit without a request is a request of the same amount, before any default request.
    for (name, amount) in resources.limits.iter().flatten() {
        resources.requests.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
    }
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
    fill(&mut resources.requests, &item.default_request, "request");
    fill(&mut resources.limits, &item.default, "limit");
}

/// Checks a pod, its containers and the pod as a whole, or a claim of a volume.
pub(super) fn validate(review: &Review<'_>, object: &Value) -> Result<(), Status> {
    let is_pod = review.is("", "pods");
    let is_looked_at = match review.operation {
        Operation::Create => review.place.subresource.is_empty(),
        // All else that matters of a pod cannot be changed.
        Operation::Update if is_pod => review.place.subresource == "resize",
        Operation::Update => review.place.subresource.is_empty(),
        Operation::Delete => false,
    };
    if !is_looked_at || crate::encoded::is_terminating(object) {
        return Ok(());
    }
    let ranges = ranges(review)?;
    if ranges.is_empty() {
        return Ok(());
    }
    let mut problems = if is_pod {
        let pod: Pod = objects::decode::decode(object.clone()).map_err(Status::internal)?;
        pod.spec.map(|spec| pod_problems(&ranges, spec)).unwrap_or_default()
    } else {
        let claim: PersistentVolumeClaim = objects::decode::decode(object.clone()).map_err(Status::internal)?;
        claim_problems(&ranges, &claim)
    };
    if problems.is_empty() {
        return Ok(());
    }
    let why = if problems.len() == 1 { problems.remove(0) } else { format!("[{}]", problems.join(", ")) };
    Err(review.forbid(crate::encoded::meta_str(object, "name"), &why))
}

fn pod_problems(ranges: &[LimitRange], mut spec: PodSpec) -> Vec<String> {
    let mut problems = Vec::new();
    for item in items(ranges, "Container") {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let resources = container.resources.clone().unwrap_or_default();
            check(item, &resources.requests.unwrap_or_default(), &resources.limits.unwrap_or_default(), &mut problems);
        }
    }
    // What the sandbox costs is not the author's to limit.
    spec.overhead = None;
    let wire = |sums: resources::Amounts| -> Amounts {
        sums.into_iter().map(|(name, amount)| (name, amount.to_wire())).collect()
    };
    let (requests, limits) = (wire(resources::pod_requests(&spec)), wire(resources::pod_limits(&spec)));
    for item in items(ranges, "Pod") {
        check(item, &requests, &limits, &mut problems);
    }
    problems
}

fn claim_problems(ranges: &[LimitRange], claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|r| r.requests.clone());
    let asked = asked.unwrap_or_default();
    let mut problems = Vec::new();
    for item in items(ranges, "PersistentVolumeClaim") {
        let storage = |amounts: &Option<Amounts>| amounts.as_ref().and_then(|amounts| amounts.get("storage")).cloned();
        if let Some(least) = storage(&item.min) {
            at_least(item, "storage", &least, &asked, &Amounts::new(), &mut problems);
        }
        if let Some(most) = storage(&item.max) {
            let bound = format!("maximum storage usage per {} is {}", item.type_, most.0);
            match asked.get("storage") {
                None => problems.push(format!("{bound}.  No request is specified")),
                Some(own) if Quantity::of(own) > Quantity::of(&most) => {
                    problems.push(format!("{bound}, but request is {}", own.0));
                }
                Some(_) => {}
            }
        }
    }
    problems
}

fn at_least(
    item: &LimitRangeItem,
    name: &str,
    least: &Wire,
    requests: &Amounts,
    limits: &Amounts,
    problems: &mut Vec<String>,
) {
    let bound = format!("minimum {name} usage per {} is {}", item.type_, least.0);
    let least = Quantity::of(least);
    let Some(request) = requests.get(name) else {
        return problems.push(format!("{bound}.  No request is specified"));
    };
    if Quantity::of(request) < least {
        problems.push(format!("{bound}, but request is {}", request.0));
    } else if let Some(limit) = limits.get(name).filter(|limit| Quantity::of(limit) < least) {
        problems.push(format!("{bound}, but limit is {}", limit.0));
    }
}

fn at_most(
    item: &LimitRangeItem,
    name: &str,
    most: &Wire,
    requests: &Amounts,
    limits: &Amounts,
    problems: &mut Vec<String>,
) {
    let bound = format!("maximum {name} usage per {} is {}", item.type_, most.0);
    let most = Quantity::of(most);
    let Some(limit) = limits.get(name) else {
        return problems.push(format!("{bound}.  No limit is specified"));
    };
    if Quantity::of(limit) > most {
        problems.push(format!("{bound}, but limit is {}", limit.0));
    } else if let Some(request) = requests.get(name).filter(|request| Quantity::of(request) > most) {
        problems.push(format!("{bound}, but request is {}", request.0));
    }
}

fn ratio(
    item: &LimitRangeItem,
    name: &str,
    most: &Wire,
    requests: &Amounts,
    limits: &Amounts,
    problems: &mut Vec<String>,
) {
    let bound = format!("{name} max limit to request ratio per {} is {}", item.type_, most.0);
    let given = |amounts: &Amounts| amounts.get(name).map(Quantity::of).filter(|amount| !amount.is_zero());
    let Some(request) = given(requests) else {
        return problems.push(format!("{bound}, but no request is specified or request is 0"));
    };
    let Some(limit) = given(limits) else {
        return problems.push(format!("{bound}, but no limit is specified or limit is 0"));
    };
    let actual = limit.as_f64() / request.as_f64();
    if actual > Quantity::of(most).as_f64() {
        problems.push(format!("{bound}, but provided ratio is {actual:.6}"));
    }
}

fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    for (name, least) in item.min.iter().flatten() {
        at_least(item, name, least, requests, limits, problems);
    }
    for (name, most) in item.max.iter().flatten() {
        at_most(item, name, most, requests, limits, problems);
    }
    for (name, most) in item.max_limit_request_ratio.iter().flatten() {
        ratio(item, name, most, requests, limits, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(value: Value) -> LimitRangeItem {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn defaults_fill_only_what_is_missing() {
        let item = item(json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}}));
        let filled = |resources: Value| {
            let mut container: Container =
                serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap();
            let mut given = Vec::new();
            give(&mut container, &item, "container", &mut given);
            let resources = container.resources.unwrap();
            (resources.requests.unwrap()["cpu"].0.clone(), resources.limits.unwrap()["cpu"].0.clone(), given.join("; "))
        };
        let both = "cpu request for container c; cpu limit for container c";
        assert_eq!(filled(json!({})), ("100m".into(), "500m".into(), both.into()));
        assert_eq!(filled(json!({"limits": {"cpu": "2"}})), ("2".into(), "2".into(), String::new()));
        let limit = "cpu limit for container c";
        assert_eq!(filled(json!({"requests": {"cpu": "50m"}})), ("50m".into(), "500m".into(), limit.into()));
    }

    #[test]
    fn bounds_hold_in_upstreams_words() {
        let item = item(json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"},
            "maxLimitRequestRatio": {"cpu": "2"}}));
        let amounts = |cpu: &str| -> Amounts {
            [("cpu".to_owned(), Wire(cpu.into()))].into_iter().filter(|_| !cpu.is_empty()).collect()
        };
        let problems = |request: &str, limit: &str| {
            let mut problems = Vec::new();
            check(&item, &amounts(request), &amounts(limit), &mut problems);
            problems.join("; ")
        };
        assert_eq!(problems("500m", "1"), "");
        assert_eq!(problems("1", "2"), "maximum cpu usage per Container is 1, but limit is 2");
        assert_eq!(problems("50m", "100m"), "minimum cpu usage per Container is 100m, but request is 50m");
        assert_eq!(
            problems("", ""),
            "minimum cpu usage per Container is 100m.  No request is specified; \
             maximum cpu usage per Container is 1.  No limit is specified; \
             cpu max limit to request ratio per Container is 2, but no request is specified or request is 0"
        );
        assert_eq!(
            problems("100m", "1"),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000"
        );
    }

    #[test]
    fn a_pod_is_checked_as_a_whole_and_a_claim_by_its_storage() {
        let range =
            |limits: Value| -> LimitRange { serde_json::from_value(json!({"spec": {"limits": [limits]}})).unwrap() };
        let spec: PodSpec = serde_json::from_value(json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1"}}}, {"name": "b", "resources": {"limits": {"cpu": "1"}}}]}))
        .unwrap();
        let ranges = [range(json!({"type": "Pod", "max": {"cpu": "1500m"}}))];
        assert_eq!(pod_problems(&ranges, spec), ["maximum cpu usage per Pod is 1500m, but limit is 2"]);
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}})).unwrap();
        let ranges =
            [range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}))];
        assert_eq!(
            claim_problems(&ranges, &claim),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
    }
}
