//! Preemption: which pods of lower priority to remove, and where, so that a pod fits.

use crate::cycle::{Unfit, histogram};
use crate::plugins::Prepared;
use crate::state::{Cluster, NodeInfo, PodInfo};
use std::sync::Arc;

/// Pods to remove from a node.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodInfo>>,
}

/// The cheapest plan, or why there is none, in upstream's words. `breaks_budget` says whether removing a pod would
/// break a disruption budget.
pub(crate) fn plan(
    pod: &PodInfo,
    cluster: &Cluster,
    unfit: &Unfit,
    breaks_budget: &dyn Fn(&PodInfo) -> bool,
) -> Result<Plan, String> {
    let never = pod.spec().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never");
    if never {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let refuse =
        |reasons: Vec<&str>| format!("0/{} nodes are available: {}.", unfit.nodes, histogram(reasons.into_iter()));
    const HOPELESS: &str = "Preemption is not helpful for scheduling";
    const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
    let Ok(prepared) = Prepared::new(pod, cluster) else {
        return Err(refuse(vec![HOPELESS; unfit.nodes]));
    };
    let (mut reasons, mut best): (Vec<&str>, Option<(Cost, Plan)>) = (Vec::new(), None);
    for (name, rejection) in &unfit.rejections {
        if !rejection.preemptable {
            reasons.push(HOPELESS);
            continue;
        }
        let Some(victims) = cluster.node(name).and_then(|node| victims(&prepared, node, breaks_budget)) else {
            reasons.push(NO_VICTIMS);
            continue;
        };
        let cost = Cost::of(&victims, breaks_budget);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, Plan { node: name.clone(), victims }));
        }
    }
    best.map(|(_, plan)| plan).ok_or_else(|| refuse(reasons))
}

/// Upstream's order: fewest broken budgets, then the lowest highest priority, the lowest sum, the fewest, and last
/// the ones that started latest.
type CostKey = (usize, i32, i64, usize, std::cmp::Reverse<Option<jiff::Timestamp>>);

#[derive(PartialEq, PartialOrd)]
struct Cost(CostKey);

impl Cost {
    fn of(victims: &[Arc<PodInfo>], breaks_budget: &dyn Fn(&PodInfo) -> bool) -> Self {
        let highest = victims.iter().map(|victim| victim.priority()).max().unwrap_or(i32::MIN);
        let sum = victims.iter().map(|victim| i64::from(victim.priority())).sum();
        let earliest =
            victims.iter().filter(|victim| victim.priority() == highest).filter_map(|one| one.created()).min();
        let broken = victims.iter().filter(|victim| breaks_budget(victim)).count();
        Self((broken, highest, sum, victims.len(), std::cmp::Reverse(earliest)))
    }
}

/// Takes all pods of lower priority away, then gives back as many as fit, the most important first.
fn victims(
    prepared: &Prepared<'_>,
    node: &NodeInfo,
    breaks_budget: &dyn Fn(&PodInfo) -> bool,
) -> Option<Vec<Arc<PodInfo>>> {
    let lower = |other: &&Arc<PodInfo>| other.priority() < prepared.pod.priority();
    let mut candidates: Vec<_> = node.pods.iter().filter(lower).cloned().collect();
    if candidates.is_empty() {
        return None;
    }
    let mut emptied = node.clone();
    let mut gone: Vec<String> = candidates.iter().map(|victim| victim.uid().to_owned()).collect();
    gone.iter().for_each(|uid| emptied.remove(uid));
    prepared.without(&gone).filter(&emptied).ok()?;
    candidates.sort_by_key(|one| (!breaks_budget(one), std::cmp::Reverse(one.priority()), one.created()));
    let mut victims = Vec::new();
    for candidate in candidates {
        let uid = candidate.uid().to_owned();
        emptied.add(candidate.clone());
        gone.retain(|one| *one != uid);
        if prepared.without(&gone).filter(&emptied).is_err() {
            emptied.remove(&uid);
            gone.push(uid);
            victims.push(candidate);
        }
    }
    (!victims.is_empty()).then_some(victims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::schedule;
    use serde_json::json;

    fn pod(name: &str, cpu: &str, priority: i32) -> PodInfo {
        let pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        });
        PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "9"}}});
            cluster.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        }
        cluster
    }

    fn planned(pod: &PodInfo, cluster: &Cluster) -> Result<Plan, String> {
        let unfit = schedule(pod, cluster, 0).unwrap_err();
        plan(pod, cluster, &unfit, &|_| false)
    }

    #[test]
    fn only_as_many_pods_go_as_must() {
        let mut cluster = cluster();
        for (name, cpu, priority, node) in [("a1", "1", 1, "a"), ("a2", "1", 2, "a"), ("b1", "2", 5, "b")] {
            cluster.place(Arc::new(pod(name, cpu, priority)), node);
        }
        let plan = planned(&pod("p", "1", 10), &cluster).unwrap();
        assert_eq!(plan.node, "a");
        assert_eq!(plan.victims.iter().map(|victim| victim.name()).collect::<Vec<_>>(), ["a1"]);
    }

    #[test]
    fn pods_of_equal_priority_stay() {
        let mut cluster = cluster();
        cluster.place(Arc::new(pod("a1", "2", 10)), "a");
        cluster.place(Arc::new(pod("b1", "2", 10)), "b");
        let refused = planned(&pod("p", "1", 10), &cluster).unwrap_err();
        assert_eq!(refused, "0/2 nodes are available: 2 No preemption victims found for incoming pod.");
        let refused = planned(&pod("p", "3", 100), &cluster).unwrap_err();
        assert_eq!(refused, "0/2 nodes are available: 2 Preemption is not helpful for scheduling.");
    }
}
