//! What the machine's kernel lacks, found by trying each thing in a network namespace made for it.
//!
//! Trying beats reading configuration: modules load on demand, and a sandbox may forbid what the kernel has. Nothing is
//! left behind, as everything goes with the namespace. Called by `rk` before the network starts, or to explain why it
//! did not.

use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use nlink::Connection;
use nlink::netlink::link::{BridgeLink, VethLink, VxlanLink};
use nlink::netlink::nftables::Family;
use nlink::netlink::{Netfilter, Nftables, Route};

use crate::nft::diff::Change;
use crate::nft::firewall::commit;
use crate::nft::model::{Action, ChainKind, Fields, Hook, Match, Rule, SetName};

/// Something the network cannot do without. Its display is one line: what, why, and what a person can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{feature} ({reason}): {fix}")]
pub struct Missing {
    /// `bridge interfaces`
    pub feature: &'static str,
    /// The kernel's error.
    pub reason: String,
    pub fix: String,
}

/// Everything that is missing; empty on a machine that is fit. Blocks for a few milliseconds.
pub fn probe() -> Vec<Missing> {
    let tried = std::thread::Builder::new().name("probe".into()).spawn(try_all).map(JoinHandle::join);
    match tried {
        Ok(Ok(missing)) => missing,
        Ok(Err(_)) => vec![no_namespace(&"the probing thread failed")],
        Err(error) => vec![no_namespace(&error)],
    }
}

fn no_namespace(error: &dyn std::fmt::Display) -> Missing {
    Missing {
        feature: "network namespaces",
        reason: error.to_string(),
        fix: "run as root, on a kernel with CONFIG_NET_NS".into(),
    }
}

/// On a thread of its own, which leaves the host's namespace for good.
fn try_all() -> Vec<Missing> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        return vec![no_namespace(&error)];
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![no_namespace(&error)],
    };
    runtime.block_on(async {
        let mut missing = Vec::new();
        for feature in FEATURES {
            // Without nftables all rules fail, and only the first says why.
            if matches!(feature.attempt, Attempt::Rule(_)) && missing.iter().any(|m: &Missing| m.feature == NFTABLES) {
                continue;
            }
            if let Err(error) = attempt(feature.attempt).await {
                missing.push(Missing {
                    feature: feature.name,
                    reason: error.to_string(),
                    fix: format!("try `modprobe {}`, or a kernel with {}", feature.module, feature.option),
                });
            }
        }
        missing
    })
}

struct Feature {
    name: &'static str,
    module: &'static str,
    option: &'static str,
    attempt: Attempt,
}

#[derive(Clone, Copy)]
enum Attempt {
    Bridge,
    Veth,
    Vxlan,
    Conntrack,
    Rule(fn() -> (ChainKind, Rule)),
}

const fn needed(name: &'static str, module: &'static str, option: &'static str, attempt: Attempt) -> Feature {
    Feature { name, module, option, attempt }
}

const NFTABLES: &str = "nftables";

const FEATURES: &[Feature] = &[
    needed("bridge interfaces", "bridge", "CONFIG_BRIDGE", Attempt::Bridge),
    needed("veth interfaces", "veth", "CONFIG_VETH", Attempt::Veth),
    needed("vxlan interfaces", "vxlan", "CONFIG_VXLAN", Attempt::Vxlan),
    needed(NFTABLES, "nf_tables", "CONFIG_NF_TABLES and CONFIG_NF_TABLES_IPV4", Attempt::Rule(plain)),
    needed("nftables connection tracking", "nft_ct", "CONFIG_NFT_CT", Attempt::Rule(tracked)),
    needed("nftables address translation", "nft_chain_nat", "CONFIG_NFT_NAT", Attempt::Rule(translated)),
    needed("nftables masquerade", "nft_masq", "CONFIG_NFT_MASQ", Attempt::Rule(masqueraded)),
    needed("nftables route lookups", "nft_fib_ipv4", "CONFIG_NFT_FIB_IPV4", Attempt::Rule(local)),
    needed("nftables number generator", "nft_numgen", "CONFIG_NFT_NUMGEN", Attempt::Rule(balanced)),
    needed("nftables reject", "nft_reject_ipv4", "CONFIG_NFT_REJECT_IPV4", Attempt::Rule(rejected)),
    needed("connection tracking over netlink", "nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK", Attempt::Conntrack),
];

const FORWARD: ChainKind = ChainKind::Filter(Hook::Forward, 0);
const PREROUTING: ChainKind = ChainKind::Nat(Hook::Prerouting, -100);

fn plain() -> (ChainKind, Rule) {
    (FORWARD, Rule::new([], Action::Dispatch(Fields::DestinationProtocolPort, SetName::Services)))
}

fn tracked() -> (ChainKind, Rule) {
    (FORWARD, Rule::new([Match::NewConnection], Action::Accept))
}

fn translated() -> (ChainKind, Rule) {
    (PREROUTING, Rule::new([], Action::Translate(Fields::ProtocolPort, SetName::HostPorts)))
}

fn masqueraded() -> (ChainKind, Rule) {
    (ChainKind::Nat(Hook::Postrouting, 100), Rule::new([Match::Marked], Action::Masquerade))
}

fn local() -> (ChainKind, Rule) {
    (PREROUTING, Rule::new([Match::DestinationIsLocal], Action::Accept))
}

fn balanced() -> (ChainKind, Rule) {
    (PREROUTING, Rule::new([], Action::Balance { group: 0, size: 1 }))
}

fn rejected() -> (ChainKind, Rule) {
    (FORWARD, Rule::new([], Action::Reject))
}

async fn attempt(what: Attempt) -> nlink::Result<()> {
    const ID: u32 = 1;
    match what {
        Attempt::Bridge => Connection::<Route>::new()?.add_link(BridgeLink::new("probe-br")).await,
        Attempt::Veth => Connection::<Route>::new()?.add_link(VethLink::new("probe-a", "probe-b")).await,
        Attempt::Vxlan => {
            let link = VxlanLink::new("probe-vx", ID).port(crate::NetConfig::default().vxlan_port);
            Connection::<Route>::new()?.add_link(link).await
        }
        Attempt::Conntrack => Connection::<Netfilter>::new()?.get_conntrack().await.map(drop),
        Attempt::Rule(make) => {
            let (kind, rule) = make();
            let connection = Connection::<Nftables>::new()?;
            let table = "probe";
            connection.del_table_if_exists(table, Family::Ip).await?;
            let mut changes: Vec<Change<'_>> = SetName::ALL.map(Change::AddSet).into();
            changes.extend([Change::AddChain("chain", kind), Change::AddRule("chain", &rule)]);
            let tx = connection.transaction().add_table(table, Family::Ip);
            commit(&connection, table, tx, &changes).await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_machine_that_runs_the_other_tests_lacks_nothing() {
        if !nix::unistd::geteuid().is_root() {
            drop(writeln!(std::io::stderr(), "SKIPPED: making network namespaces needs root"));
            return;
        }
        assert_eq!(probe(), []);
    }

    #[test]
    fn a_refused_rule_is_an_error_that_names_the_kernels_reason() {
        if !nix::unistd::geteuid().is_root() {
            drop(writeln!(std::io::stderr(), "SKIPPED: making network namespaces needs root"));
            return;
        }
        // A number generator without numbers is refused, as a kernel without it would.
        fn impossible() -> (ChainKind, Rule) {
            (PREROUTING, Rule::new([], Action::Balance { group: 0, size: 0 }))
        }
        let outcome = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(attempt(Attempt::Rule(impossible)))
        });
        assert!(outcome.join().unwrap().is_err());
    }
}
