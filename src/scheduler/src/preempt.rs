//! Preemption: which pods of lower priority to remove, and where, so that a pod fits. Pure.

use crate::cycle::{Unfit, histogram};
use crate::plugins::Prepared;
use crate::state::{Cluster, NodeInfo, PodInfo};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use objects::selector::Selector;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Pods to remove from a node.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodInfo>>,
}

/// What disruption budgets still allow.
#[derive(Debug, Default)]
pub(crate) struct Budgets(Vec<Budget>);

#[derive(Debug)]
struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i32,
    /// Pods whose removal is counted already.
    disrupted: BTreeSet<String>,
}

impl Budgets {
    pub(crate) fn new<'a>(budgets: impl IntoIterator<Item = &'a PodDisruptionBudget>) -> Self {
        Self(budgets.into_iter().filter_map(Budget::new).collect())
    }

    /// Uids of those pods, taken in this order, whose removal goes beyond what is allowed.
    fn violated_by(&self, pods: &[Arc<PodInfo>]) -> HashSet<String> {
        let mut left: Vec<i32> = self.0.iter().map(|budget| budget.allowed).collect();
        let mut beyond = HashSet::new();
        for pod in pods {
            for (_, left) in self.0.iter().zip(&mut left).filter(|(budget, _)| budget.counts(pod)) {
                *left -= 1;
                if *left < 0 {
                    beyond.insert(pod.uid().to_owned());
                }
            }
        }
        beyond
    }
}

impl Budget {
    /// A budget without a selector guards nothing.
    fn new(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref()?.selector.as_ref()?;
        let selector = Selector::from_label_selector(Some(selector)).ok()?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        Some(Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector,
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flat_map(|pods| pods.keys().cloned()).collect(),
        })
    }

    fn counts(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.namespace()
            && !self.disrupted.contains(pod.name())
            && self.selector.matches_labels(pod.labels())
    }
}

/// The cheapest plan, or why there is none, in upstream's words.
pub(crate) fn plan(pod: &PodInfo, cluster: &Cluster, unfit: &Unfit, budgets: &Budgets) -> Result<Plan, String> {
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
        let Some(found) = cluster.node(name).and_then(|node| victims(&prepared, node, budgets)) else {
            reasons.push(NO_VICTIMS);
            continue;
        };
        let cost = Cost::of(&found);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, Plan { node: name.clone(), victims: found.pods }));
        }
    }
    best.map(|(_, plan)| plan).ok_or_else(|| refuse(reasons))
}

/// Upstream's order: fewest broken budgets, then the lowest highest priority, the lowest sum, the fewest, and last
/// the ones that started latest.
type CostKey = (usize, i32, i64, usize, Reverse<Option<jiff::Timestamp>>);

#[derive(PartialEq, PartialOrd)]
struct Cost(CostKey);

impl Cost {
    fn of(victims: &Victims) -> Self {
        let pods = &victims.pods;
        let highest = pods.iter().map(|victim| victim.priority()).max().unwrap_or(i32::MIN);
        let sum = pods.iter().map(|victim| i64::from(victim.priority())).sum();
        let earliest = pods.iter().filter(|victim| victim.priority() == highest).filter_map(|one| one.started()).min();
        Self((victims.beyond_budget, highest, sum, pods.len(), Reverse(earliest)))
    }
}

/// Pods to remove from one node, and how many of them budgets would keep.
struct Victims {
    pods: Vec<Arc<PodInfo>>,
    beyond_budget: usize,
}

/// Takes all pods of lower priority away, then gives back as many as fit: those that budgets guard first, and among
/// equals the most important.
fn victims(prepared: &Prepared<'_>, node: &NodeInfo, budgets: &Budgets) -> Option<Victims> {
    let lower = |other: &&Arc<PodInfo>| other.priority() < prepared.pod.priority();
    let mut candidates: Vec<_> = node.pods.iter().filter(lower).cloned().collect();
    if candidates.is_empty() {
        return None;
    }
    let mut emptied = node.clone();
    let mut gone: Vec<String> = candidates.iter().map(|victim| victim.uid().to_owned()).collect();
    gone.iter().for_each(|uid| emptied.remove(uid));
    prepared.without(&gone).filter(&emptied).ok()?;
    candidates.sort_by_key(|one| (Reverse(one.priority()), one.started()));
    let guarded = budgets.violated_by(&candidates);
    candidates.sort_by_key(|one| !guarded.contains(one.uid()));
    let mut pods = Vec::new();
    for candidate in candidates {
        let uid = candidate.uid().to_owned();
        emptied.add(candidate.clone());
        gone.retain(|one| *one != uid);
        if prepared.without(&gone).filter(&emptied).is_err() {
            emptied.remove(&uid);
            gone.push(uid);
            pods.push(candidate);
        }
    }
    let beyond_budget = pods.iter().filter(|victim| guarded.contains(victim.uid())).count();
    (!pods.is_empty()).then_some(Victims { pods, beyond_budget })
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
        plan(pod, cluster, &unfit, &Budgets::default())
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

    fn budget(allowed: i32) -> Budgets {
        let budget = json!({
            "metadata": {"name": "b", "namespace": "d"},
            "spec": {"selector": {"matchLabels": {"guarded": "yes"}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2},
        });
        Budgets::new(&[serde_json::from_value::<PodDisruptionBudget>(budget).unwrap()])
    }

    fn guarded(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
        let mut one = (*pod(name, cpu, priority).pod).clone();
        one.metadata.labels = Some([("guarded".to_owned(), "yes".to_owned())].into());
        Arc::new(PodInfo::new(Arc::new(one)))
    }

    #[test]
    fn a_budget_covers_only_as_many_pods_as_it_allows() {
        let mut cluster = cluster();
        // Both nodes are full; what a costs beyond the budget is seen only when removals are counted together.
        for name in ["a1", "a2"] {
            cluster.place(guarded(name, "1", 1), "a");
        }
        cluster.place(guarded("b1", "1", 5), "b");
        cluster.place(Arc::new(pod("b2", "1", 5)), "b");
        let preemptor = pod("p", "2", 10);
        let unfit = schedule(&preemptor, &cluster, 0).unwrap_err();
        let on = |allowed| plan(&preemptor, &cluster, &unfit, &budget(allowed)).unwrap().node;
        assert_eq!(on(2), "a", "nothing is beyond the budget: the lower priority goes");
        assert_eq!(on(1), "b", "two removals from a would be one too many");
    }

    #[test]
    fn a_guarded_pod_stays_where_another_can_go() {
        let mut cluster = cluster();
        cluster.remove_node("b");
        cluster.place(guarded("a1", "1", 1), "a");
        cluster.place(Arc::new(pod("a2", "1", 2)), "a");
        let preemptor = pod("p", "1", 10);
        let unfit = schedule(&preemptor, &cluster, 0).unwrap_err();
        let victims = plan(&preemptor, &cluster, &unfit, &budget(0)).unwrap().victims;
        assert_eq!(victims.iter().map(|victim| victim.name()).collect::<Vec<_>>(), ["a2"]);
    }

    #[test]
    fn room_made_for_one_pod_is_not_given_to_another() {
        let mut cluster = cluster();
        cluster.remove_node("b");
        cluster.nominate(Arc::new(pod("p", "2", 10)), "a");
        let lower = pod("low", "1", 5);
        assert_eq!(
            schedule(&lower, &cluster, 0).unwrap_err().message(None),
            "0/1 nodes are available: 1 Insufficient cpu."
        );
        assert_eq!(schedule(&pod("high", "1", 11), &cluster, 0).unwrap(), "a", "the more important one may");
        assert_eq!(schedule(&pod("p", "2", 10), &cluster, 0).unwrap(), "a", "it is its own room");
        cluster.withdraw("p");
        assert_eq!(schedule(&lower, &cluster, 0).unwrap(), "a");
    }
}
