//! How fast nodes that are not ready may be given a taint that evicts. A few failing nodes are emptied one by one; a
//! zone that fails as a whole hints at a fault of the network, and a cluster that fails as a whole at one of ours:
//! then nothing is evicted. Pure: the time is a parameter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::health::is_ready;

const INTERVAL: Duration = Duration::from_secs(10);
/// In a large zone of which most nodes are down.
const SLOW_INTERVAL: Duration = Duration::from_secs(100);
const LARGE: usize = 50;

/// Region and zone.
type Zone = (String, String);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    ready: usize,
    not_ready: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

impl Count {
    fn state(self) -> State {
        if self.ready == 0 && self.not_ready > 0 {
            State::Full
        } else if self.not_ready > 2 && self.not_ready * 100 >= (self.ready + self.not_ready) * 55 {
            State::Partial
        } else {
            State::Normal
        }
    }

    fn interval(self) -> Option<Duration> {
        match self.state() {
            State::Normal | State::Full => Some(INTERVAL),
            State::Partial => (self.ready + self.not_ready > LARGE).then_some(SLOW_INTERVAL),
        }
    }
}

fn label(node: &Node, name: &str) -> String {
    node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default()
}

fn zone_of(node: &Node) -> Zone {
    (label(node, "topology.kubernetes.io/region"), label(node, "topology.kubernetes.io/zone"))
}

pub(super) fn count(nodes: &[Arc<Node>]) -> HashMap<Zone, Count> {
    let mut counts: HashMap<Zone, Count> = HashMap::new();
    for node in nodes {
        let excluded =
            node.metadata.labels.iter().flatten().any(|(name, _)| name == "node.kubernetes.io/exclude-disruption");
        let count = counts.entry(zone_of(node)).or_default();
        match (excluded, is_ready(node)) {
            (true, _) => {}
            (false, true) => count.ready += 1,
            (false, false) => count.not_ready += 1,
        }
    }
    counts
}

/// Whether a node may be tainted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    In(Duration),
    /// Not before other nodes change.
    Held,
}

#[derive(Debug, Default)]
pub(super) struct Zones {
    last: HashMap<Zone, Instant>,
}

impl Zones {
    /// `tainted` nodes keep their place, unless all of the cluster is down.
    pub(super) fn admit(
        &mut self,
        counts: &HashMap<Zone, Count>,
        node: &Node,
        tainted: bool,
        now: Instant,
    ) -> Admission {
        if counts.values().all(|count| count.state() == State::Full) {
            return Admission::Held;
        }
        if tainted {
            return Admission::Now;
        }
        let zone = zone_of(node);
        let Some(interval) = counts.get(&zone).copied().unwrap_or_default().interval() else { return Admission::Held };
        let wait =
            self.last.get(&zone).map_or(Duration::ZERO, |last| interval.saturating_sub(now.duration_since(*last)));
        if wait.is_zero() {
            self.last.insert(zone, now);
            return Admission::Now;
        }
        Admission::In(wait)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};

    use super::*;

    fn nodes(zone: &str, ready: usize, not_ready: usize) -> Vec<Arc<Node>> {
        let node = |ready: bool| {
            let mut node = Node::default();
            node.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into());
            let status = if ready { "True" } else { "Unknown" };
            let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
            node.status = Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() });
            Arc::new(node)
        };
        (0..ready).map(|_| node(true)).chain((0..not_ready).map(|_| node(false))).collect()
    }

    #[test]
    fn evictions_come_one_at_a_time() {
        let (mut zones, all, now) = (Zones::default(), nodes("a", 5, 2), Instant::now());
        let (counts, down) = (count(&all), &all[6]);
        assert_eq!(zones.admit(&counts, down, false, now), Admission::Now);
        assert_eq!(
            zones.admit(&counts, down, false, now + Duration::from_secs(4)),
            Admission::In(Duration::from_secs(6))
        );
        assert_eq!(zones.admit(&counts, down, true, now), Admission::Now);
        assert_eq!(zones.admit(&counts, down, false, now + INTERVAL), Admission::Now);
    }

    #[test]
    fn a_cluster_that_is_down_as_a_whole_evicts_nothing() {
        let (mut zones, now) = (Zones::default(), Instant::now());
        let lone = nodes("a", 0, 1);
        assert_eq!(zones.admit(&count(&lone), &lone[0], true, now), Admission::Held);
        let mut two = nodes("a", 0, 3);
        two.extend(nodes("b", 1, 0));
        assert_eq!(zones.admit(&count(&two), &two[0], false, now), Admission::Now);
    }

    #[test]
    fn a_zone_that_is_mostly_down_evicts_slowly_if_large_and_else_not_at_all() {
        let (mut zones, now) = (Zones::default(), Instant::now());
        let small = nodes("a", 2, 3);
        assert_eq!(zones.admit(&count(&small), &small[4], false, now), Admission::Held);
        let large = nodes("a", 20, 40);
        assert_eq!(zones.admit(&count(&large), &large[50], false, now), Admission::Now);
        assert_eq!(zones.admit(&count(&large), &large[51], false, now), Admission::In(SLOW_INTERVAL));
    }
}
