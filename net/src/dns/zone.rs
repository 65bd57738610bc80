//! The cluster's records, by owner name. Pure data, built by the caller and swapped in whole.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One record's data. Names are absolute, with or without the trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { port: u16, target: String },
    Ptr(String),
    Cname(String),
    Txt(String),
}

/// All records of the cluster domain, and the reverse names of its addresses.
///
/// Names that follow from an address (`10-42-0-7.default.pod.cluster.local`) need no record.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: String,
    records: HashMap<String, Vec<Record>>,
    /// Names with something below them: they answer "no data", not "no such name".
    parents: HashSet<String>,
}

/// What the zone knows of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Records(&'a [Record]),
    /// A name made from an address.
    Address(IpAddr),
    /// The name is there, perhaps only as a parent of others.
    NoData,
    NoSuchName,
    /// Not a name of the cluster: somebody else knows.
    Elsewhere,
}

/// The version of the naming scheme that is answered, from the Kubernetes DNS specification.
const SCHEME: &str = "1.1.0";

impl Zone {
    /// An empty zone for `domain` (`cluster.local`).
    pub fn new(domain: &str) -> Self {
        let mut zone = Self { domain: normal(domain), records: HashMap::new(), parents: HashSet::new() };
        let domain = zone.domain.clone();
        zone.parents.extend([domain.clone(), format!("svc.{domain}"), format!("pod.{domain}")]);
        zone.add(&format!("dns-version.{domain}"), Record::Txt(SCHEME.into()));
        zone
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Adds a record under an absolute name (`web.default.svc.cluster.local`). A record twice is kept once.
    pub fn add(&mut self, name: &str, record: Record) {
        let name = normal(name);
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if !self.covers(parent) || !self.parents.insert(parent.to_owned()) {
                break;
            }
            rest = parent;
        }
        let records = self.records.entry(name).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    /// Adds the reverse name of `ip`, pointing at `name`.
    pub fn add_reverse(&mut self, ip: Ipv4Addr, name: &str) {
        let [a, b, c, d] = ip.octets();
        self.add(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), Record::Ptr(name.to_owned()));
    }

    /// Looks up a name in lower case without the trailing dot.
    pub(super) fn find(&self, name: &str) -> Found<'_> {
        if let Some(records) = self.records.get(name) {
            return Found::Records(records);
        }
        if !self.covers(name) {
            return Found::Elsewhere;
        }
        if self.parents.contains(name) {
            return Found::NoData;
        }
        let pod = name.strip_suffix(&self.domain).and_then(|rest| rest.strip_suffix(".pod."));
        match pod.map(|pod| pod.split_once('.').unwrap_or(("", pod))) {
            // A namespace; whether it exists is not known here.
            Some(("", namespace)) if !namespace.is_empty() => Found::NoData,
            Some((dashed, namespace)) if !namespace.contains('.') => {
                address(dashed).map_or(Found::NoSuchName, Found::Address)
            }
            _ => Found::NoSuchName,
        }
    }

    /// Whether the name is the cluster domain or below it.
    fn covers(&self, name: &str) -> bool {
        name.strip_suffix(&self.domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

/// `10-42-0-7` or `fd00--7`.
fn address(dashed: &str) -> Option<IpAddr> {
    let v4 = dashed.replace('-', ".").parse().map(IpAddr::V4);
    v4.or_else(|_| dashed.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

/// The form names are kept and compared in: lower case, no trailing dot.
pub(super) fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone::new("Cluster.Local.");
        zone.add("Web.default.svc.cluster.local.", Record::A(Ipv4Addr::new(10, 43, 0, 7)));
        zone.add_reverse(Ipv4Addr::new(10, 43, 0, 7), "web.default.svc.cluster.local");
        zone
    }

    #[test]
    fn parents_of_names_exist_without_data() {
        let zone = zone();
        assert!(matches!(zone.find("web.default.svc.cluster.local"), Found::Records([Record::A(_)])));
        for parent in ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "default.pod.cluster.local"] {
            assert_eq!(zone.find(parent), Found::NoData, "{parent}");
        }
        assert_eq!(zone.find("db.default.svc.cluster.local"), Found::NoSuchName);
        assert_eq!(zone.find("web.default.svc.cluster.local.default.svc.cluster.local"), Found::NoSuchName);
    }

    #[test]
    fn names_of_others_are_elsewhere_even_with_a_similar_ending() {
        let zone = zone();
        for name in ["example.org", "notcluster.local", "local", "8.0.43.10.in-addr.arpa", "arpa"] {
            assert_eq!(zone.find(name), Found::Elsewhere, "{name}");
        }
        assert!(matches!(zone.find("7.0.43.10.in-addr.arpa"), Found::Records([Record::Ptr(_)])));
    }

    #[test]
    fn pod_names_follow_from_the_address() {
        let zone = zone();
        let found = |name: &str| match zone.find(&format!("{name}.pod.cluster.local")) {
            Found::Address(ip) => Some(ip.to_string()),
            _ => None,
        };
        assert_eq!(found("10-42-0-7.default").as_deref(), Some("10.42.0.7"));
        assert_eq!(found("fd00--7.default").as_deref(), Some("fd00::7"));
        assert_eq!(found("10-42-0.default"), None);
        assert_eq!(found("10-42-0-7.a.b"), None);
    }
}
