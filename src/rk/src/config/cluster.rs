//! Settings that hold for the whole cluster: what the flags say of them, beside what the cluster has.

use super::{ClusterNetwork, nth_address};
use crate::members::kept::Settings;
use anyhow::ensure;
use ipnet::Ipv4Net;
use std::fmt::Display;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// What was said; the rest is the cluster's, or by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) cluster_cidr: Option<Ipv4Net>,
    pub(crate) service_cidr: Option<Ipv4Net>,
    pub(crate) dns: Option<Ipv4Addr>,
    pub(crate) domain: Option<String>,
    pub(crate) node_ports: Option<RangeInclusive<u16>>,
}

impl Given {
    /// Of a cluster for which nothing was said.
    pub(crate) fn defaults() -> Settings {
        let service_cidr = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16);
        Settings {
            network: ClusterNetwork {
                cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 16),
                service_cidr,
                dns: nth_address(service_cidr, 10),
                domain: "cluster.local".to_owned(),
            },
            node_ports: (30000, 32767),
        }
    }

    /// These before `base`.
    pub(crate) fn over(&self, base: &Settings) -> anyhow::Result<Settings> {
        let Self { cluster_cidr, service_cidr, dns, domain, node_ports } = self.clone();
        let cluster_cidr = cluster_cidr.unwrap_or(base.network.cluster_cidr);
        // The DNS service's address moves with the range.
        let kept_dns = service_cidr.is_none_or(|given| given == base.network.service_cidr).then_some(base.network.dns);
        let service_cidr = service_cidr.unwrap_or(base.network.service_cidr);
        let dns = dns.or(kept_dns).unwrap_or_else(|| nth_address(service_cidr, 10));
        ensure!(
            !overlap(cluster_cidr, service_cidr),
            "--cluster-cidr {cluster_cidr} and --service-cidr {service_cidr} overlap"
        );
        ensure!(service_cidr.contains(&dns), "--cluster-dns {dns} is not in --service-cidr {service_cidr}");
        let domain = domain.unwrap_or_else(|| base.network.domain.clone());
        let node_ports = node_ports.map_or(base.node_ports, |range| (*range.start(), *range.end()));
        Ok(Settings { network: ClusterNetwork { cluster_cidr, service_cidr, dns, domain }, node_ports })
    }

    /// The cluster's settings, if nothing that was said contradicts them.
    pub(crate) fn agree_with(&self, cluster: &Settings) -> anyhow::Result<Settings> {
        let Self { cluster_cidr, service_cidr, dns, domain, node_ports } = self;
        let network = &cluster.network;
        agree("--cluster-cidr", cluster_cidr.as_ref(), &network.cluster_cidr)?;
        agree("--service-cidr", service_cidr.as_ref(), &network.service_cidr)?;
        agree("--cluster-dns", dns.as_ref(), &network.dns)?;
        agree("--cluster-domain", domain.as_ref(), &network.domain)?;
        let range = |first: u16, last: u16| format!("{first}-{last}");
        let node_ports = node_ports.as_ref().map(|given| range(*given.start(), *given.end()));
        agree("--service-node-port-range", node_ports.as_ref(), &range(cluster.node_ports.0, cluster.node_ports.1))?;
        Ok(cluster.clone())
    }
}

fn agree<T: PartialEq + Display>(flag: &str, given: Option<&T>, cluster: &T) -> anyhow::Result<()> {
    let Some(given) = given.filter(|given| *given != cluster) else { return Ok(()) };
    anyhow::bail!("{flag} is {given}, but the cluster has {cluster}, the same on all servers: leave the flag out")
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Option<Ipv4Net> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn flags_go_before_what_was_kept_and_dns_moves_with_its_range() {
        let defaults = Given::defaults();
        assert_eq!(Given::default().over(&defaults).unwrap(), defaults);
        let moved = Given { service_cidr: net("10.96.0.0/12"), ..Given::default() }.over(&defaults).unwrap();
        assert_eq!(moved.network.dns.to_string(), "10.96.0.10");
        let kept = Given { domain: Some("lab".into()), ..Given::default() }.over(&moved).unwrap();
        assert_eq!((kept.network.domain.as_str(), kept.network.dns), ("lab", moved.network.dns));
        let overlapping = Given { cluster_cidr: net("10.0.0.0/8"), ..Given::default() }.over(&defaults);
        assert!(overlapping.unwrap_err().to_string().contains("overlap"));
        let outside = Given { dns: Some("10.1.1.1".parse().unwrap()), ..Given::default() }.over(&defaults);
        assert!(outside.unwrap_err().to_string().contains("--cluster-dns"));
    }

    #[test]
    fn a_flag_that_contradicts_the_cluster_is_refused_with_both_values() {
        let cluster = Given::defaults();
        let same = Given { cluster_cidr: net("10.42.0.0/16"), node_ports: Some(30000..=32767), ..Given::default() };
        assert_eq!(same.agree_with(&cluster).unwrap(), cluster);
        let other = Given { node_ports: Some(20000..=20100), ..Given::default() };
        let error = other.agree_with(&cluster).unwrap_err().to_string();
        for part in ["--service-node-port-range", "20000-20100", "30000-32767"] {
            assert!(error.contains(part), "{error}");
        }
        let error = Given { domain: Some("lab".into()), ..Given::default() }.agree_with(&cluster).unwrap_err();
        assert!(error.to_string().contains("lab") && error.to_string().contains("cluster.local"), "{error}");
    }

    #[test]
    fn overlapping_networks_are_seen_from_both_sides() {
        let (wide, narrow): (Ipv4Net, Ipv4Net) = ("10.0.0.0/8".parse().unwrap(), "10.43.0.0/16".parse().unwrap());
        assert!(overlap(wide, narrow) && overlap(narrow, wide));
        assert!(!overlap(narrow, "10.42.0.0/16".parse().unwrap()));
    }
}
