//! The applied table: holds the netlink socket and the last ruleset, applies a new one as one batch.
//!
//! The first apply after a start, and any after a failure, replaces the whole table; the others send the difference.
//! Either is one transaction, and neither touches connection tracking: established flows keep their translation.

use nlink::Connection;
use nlink::netlink::Nftables;
use nlink::netlink::nftables::{Family, Hook, Policy, Transaction};
use tracing::{debug, warn};

use super::diff::{self, Change};
use super::model::Ruleset;
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
            commit(&self.connection, &self.table, self.connection.transaction(), &changes).await?;
        }
        Ok(true)
    }

    async fn rebuild(&self, wanted: &Ruleset) -> nlink::Result<()> {
        let mut tx = self.connection.transaction();
        if self.exists().await? {
            tx = tx.del_table(&self.table, FAMILY);
        }
        let tx = tx.add_table(&self.table, FAMILY);
        commit(&self.connection, &self.table, tx, &diff::build(wanted)).await
    }

    /// Whether the kernel still has the table (another program may have flushed everything).
    pub(crate) async fn exists(&self) -> nlink::Result<bool> {
        let tables = self.connection.list_tables_in(FAMILY).await?;
        Ok(tables.iter().any(|table| table.name == self.table))
    }

    /// Whether this process wrote the table.
    pub(crate) fn wrote(&self) -> bool {
        self.applied.is_some()
    }

    /// Makes the next apply a rebuild.
    pub(crate) fn invalidate(&mut self) {
        self.applied = None;
    }

    /// Chains of other tables that drop forwarded or incoming packets, and so the pods', unless told otherwise.
    pub(crate) async fn strict_chains(&self) -> Vec<String> {
        let hooks = [Hook::Forward, Hook::Input].map(|hook| Some(hook.number(FAMILY)));
        let chains = self.connection.list_chains().await.unwrap_or_default();
        let strict = chains.iter().filter(|chain| {
            matches!(chain.family, Family::Ip | Family::Inet)
                && hooks.contains(&chain.hook)
                && chain.policy == Some(Policy::Drop.to_u32())
        });
        strict.map(|chain| format!("{} {}", chain.table, chain.name)).collect()
    }
}

/// Deletes the table; none is no error.
pub(crate) async fn remove(connection: &Connection<Nftables>, table: &str) -> nlink::Result<()> {
    connection.del_table_if_exists(table, FAMILY).await.map(drop)
}

/// Sends the changes as one batch.
pub(crate) async fn commit(
    connection: &Connection<Nftables>,
    table: &str,
    tx: Transaction,
    changes: &[Change<'_>],
) -> nlink::Result<()> {
    let tx = changes.iter().try_fold(tx, |tx, change| wire::append(tx, table, change))?;
    tx.commit(connection).await
}
