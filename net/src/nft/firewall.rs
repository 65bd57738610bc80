//! The applied table: holds the netlink socket and the last ruleset, applies a new one as one batch.
//!
//! The first apply after a start, and any after a failure, replaces the whole table; the others send the difference.
//! Either is one transaction, and neither touches connection tracking: established flows keep their translation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use nlink::Connection;
use nlink::netlink::Nftables;
use tracing::{debug, warn};

use super::diff::{self, Change};
use super::model::{Action, Data, Ruleset, SetName, key};
use super::wire::{self, FAMILY};
use crate::error::NetError;

/// A batch travels in one piece: room for tens of thousands of services.
const SEND_BUFFER: usize = 64 << 20;

pub(crate) struct Firewall {
    connection: Connection<Nftables>,
    table: String,
    applied: Option<Ruleset>,
}

impl Firewall {
    pub(crate) fn new(connection: Connection<Nftables>, table: String) -> Self {
        use nix::sys::socket::{setsockopt, sockopt};
        if let Err(error) = setsockopt(connection.socket(), sockopt::SndBufForce, &SEND_BUFFER) {
            debug!(%error, "cannot raise the send buffer of the nftables socket");
        }
        Self { connection, table, applied: None }
    }

    /// Makes the kernel's table be `wanted`.
    pub(crate) async fn apply(&mut self, wanted: Ruleset) -> Result<(), NetError> {
        if let Some(applied) = self.applied.take() {
            match self.apply_delta(&applied, &wanted).await {
                Ok(true) => {
                    self.forget_gone(&applied, &wanted).await;
                    self.applied = Some(wanted);
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => warn!(%error, table = %self.table, "nftables table is not as it was left; rebuilding it"),
            }
        }
        self.rebuild(&wanted)
            .await
            .map_err(|source| NetError::Netlink { doing: format!("write nftables table {}", self.table), source })?;
        self.applied = Some(wanted);
        Ok(())
    }

    /// True when the difference was applied, false when there is no way but a rebuild.
    async fn apply_delta(&self, applied: &Ruleset, wanted: &Ruleset) -> nlink::Result<bool> {
        let Some(changes) = diff::delta(applied, wanted) else { return Ok(false) };
        if !changes.is_empty() {
            self.commit(self.connection.transaction(), &changes).await?;
        }
        Ok(true)
    }

    async fn rebuild(&self, wanted: &Ruleset) -> nlink::Result<()> {
        let mut tx = self.connection.transaction();
        if self.exists().await? {
            tx = tx.del_table(&self.table, FAMILY);
        }
        self.commit(tx.add_table(&self.table, FAMILY), &diff::build(wanted)).await
    }

    async fn commit(&self, tx: nlink::netlink::nftables::Transaction, changes: &[Change<'_>]) -> nlink::Result<()> {
        let tx = changes.iter().try_fold(tx, |tx, change| wire::append(tx, &self.table, change))?;
        tx.commit(&self.connection).await
    }

    /// Whether the kernel still has the table (another program may have flushed everything).
    pub(crate) async fn exists(&self) -> nlink::Result<bool> {
        let tables = self.connection.list_tables_in(FAMILY).await?;
        Ok(tables.iter().any(|table| table.name == self.table))
    }

    /// Makes the next apply a rebuild.
    pub(crate) fn invalidate(&mut self) {
        self.applied = None;
    }

    pub(crate) async fn remove(&mut self) -> Result<(), NetError> {
        self.applied = None;
        self.connection
            .del_table_if_exists(self.table.as_str(), FAMILY)
            .await
            .map(drop)
            .map_err(|source| NetError::Netlink { doing: format!("delete nftables table {}", self.table), source })
    }

    /// Makes clients forget endpoints that are gone; they are balanced anew. An entry may expire meanwhile, so each
    /// goes on its own, and a failure only means that a client keeps trying a dead endpoint until its entry times out.
    async fn forget_gone(&self, applied: &Ruleset, wanted: &Ruleset) {
        let before = sticky_endpoints(applied);
        if before.is_empty() {
            return;
        }
        let after = sticky_endpoints(wanted);
        let lost =
            |(group, endpoints): (&u32, &BTreeSet<_>)| after.get(group).is_none_or(|left| !endpoints.is_subset(left));
        if !before.iter().any(lost) {
            return;
        }
        let name = SetName::Affinity;
        let elements = match self.connection.list_set_elements(&self.table, name.as_str(), FAMILY).await {
            Ok(elements) => elements,
            Err(error) => {
                warn!(%error, "cannot list remembered clients");
                return;
            }
        };
        let set = wire::set(&self.table, name);
        for element in elements {
            let Some((group, _)) = element.key().split_first_chunk::<4>() else { continue };
            let endpoints = after.get(&u32::from_ne_bytes(*group));
            let alive = wire::endpoint_of(&element).is_some_and(|to| endpoints.is_some_and(|all| all.contains(&to)));
            if alive {
                continue;
            }
            let gone = nlink::netlink::nftables::SetElement::new(element.key().to_vec());
            if let Err(error) = self.connection.del_set_elements(&set, &[gone]).await
                && !error.is_not_found()
            {
                warn!(%error, "cannot forget a client of a removed endpoint");
            }
        }
    }
}

/// The endpoints of every group whose clients are remembered.
fn sticky_endpoints(ruleset: &Ruleset) -> BTreeMap<u32, BTreeSet<(Ipv4Addr, u16)>> {
    let mut groups = BTreeMap::new();
    let all = &ruleset.sets[&SetName::Endpoints];
    for rule in ruleset.chains.values().flat_map(|chain| &chain.rules) {
        let Action::Balance { group, size, keep: Some(_) } = rule.action else { continue };
        let endpoints = (0..size).filter_map(|index| match all.get(&key::member(group, index)) {
            Some(Data::Endpoint(ip, port)) => Some((*ip, *port)),
            _ => None,
        });
        groups.insert(group, endpoints.collect());
    }
    groups
}
