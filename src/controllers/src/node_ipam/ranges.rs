//! The cluster's pod addresses cut into equal ranges, and the first one that nothing overlaps. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// All ranges of `mask` bits within `cluster`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    cluster: IpNet,
    mask: u8,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Pool {
    pub(super) fn new(cluster: IpNet, mask: u8) -> Self {
        Self { cluster: cluster.trunc(), mask: mask.min(cluster.max_prefix_len()) }
    }

    /// The index of the last range; `None` if the ranges would be larger than the whole.
    fn last(&self) -> Option<u128> {
        let bits = self.mask.checked_sub(self.cluster.prefix_len())?;
        Some(1_u128.checked_shl(bits.into()).map_or(u128::MAX, |count| count - 1))
    }

    fn host_bits(&self) -> u32 {
        u32::from(self.cluster.max_prefix_len() - self.mask)
    }

    fn range(&self, index: u128) -> Option<IpNet> {
        let start = number(self.cluster.network()) + index.checked_shl(self.host_bits()).unwrap_or(0);
        let address = match self.cluster {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(start).ok()?)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(start)),
        };
        IpNet::new(address, self.mask).ok()
    }

    /// The indexes of the ranges that `net` touches, first and last.
    fn touched(&self, net: &IpNet) -> Option<(u128, u128)> {
        let same_family = net.max_prefix_len() == self.cluster.max_prefix_len();
        let (low, high) = (number(self.cluster.network()), number(self.cluster.broadcast()));
        let (first, last) = (number(net.network()).max(low), number(net.broadcast()).min(high));
        let index = |address: u128| (address - low).checked_shr(self.host_bits()).unwrap_or(0);
        (same_family && first <= last).then(|| (index(first), index(last)))
    }

    /// The first range at or after index `from`, going round once, that overlaps none of `taken`.
    pub(super) fn first_free(&self, taken: impl Iterator<Item = IpNet>, from: u128) -> Option<(u128, IpNet)> {
        let last = self.last()?;
        let mut taken: Vec<(u128, u128)> = taken.filter_map(|net| self.touched(&net)).collect();
        taken.sort_unstable();
        let from = if from > last { 0 } else { from };
        let index = gap(&taken, from, last).or_else(|| gap(&taken, 0, last))?;
        self.range(index).map(|range| (index, range))
    }
}

/// The first number of `from..=last` that lies in none of the sorted spans.
fn gap(spans: &[(u128, u128)], from: u128, last: u128) -> Option<u128> {
    let mut candidate = from;
    for (start, end) in spans {
        if *start > candidate {
            break;
        }
        if *end >= candidate {
            candidate = end.checked_add(1)?;
        }
    }
    (candidate <= last).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(pool: Pool, taken: &[&str], from: u128) -> Option<String> {
        let taken = taken.iter().map(|net| net.parse().unwrap());
        pool.first_free(taken, from).map(|(_, net)| net.to_string())
    }

    fn pool(cluster: &str, mask: u8) -> Pool {
        Pool::new(cluster.parse().unwrap(), mask)
    }

    #[test]
    fn the_first_range_that_nothing_overlaps_is_chosen() {
        let pool = pool("10.42.0.0/16", 24);
        assert_eq!(free(pool, &[], 0).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(free(pool, &["10.42.1.0/24", "10.42.0.0/24"], 0).as_deref(), Some("10.42.2.0/24"));
        // Ranges of other sizes, of other families and outside of the cluster's.
        assert_eq!(free(pool, &["10.42.0.0/22", "10.42.4.128/26"], 0).as_deref(), Some("10.42.5.0/24"));
        assert_eq!(free(pool, &["fd00::/64", "10.43.0.0/24"], 0).as_deref(), Some("10.42.0.0/24"));
    }

    #[test]
    fn the_search_goes_round_and_ends() {
        let pool = pool("10.0.0.0/30", 32);
        let three = ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"];
        assert_eq!(free(pool, &three, 3).as_deref(), Some("10.0.0.0/32"));
        assert_eq!(free(pool, &three, 99).as_deref(), Some("10.0.0.0/32"));
        assert_eq!(free(pool, &["10.0.0.0/8"], 0), None);
    }

    #[test]
    fn ranges_larger_than_the_whole_do_not_exist_and_v6_works() {
        assert_eq!(free(pool("10.0.0.0/24", 16), &[], 0), None);
        let wide = pool("fd00::/48", 64);
        assert_eq!(free(wide, &["fd00::/64"], 0).as_deref(), Some("fd00:0:0:1::/64"));
    }
}
