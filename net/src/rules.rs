//! Keeps the nftables table in step with services, host ports and the DNS redirect, whoever changes which.

use nlink::Connection;
use nlink::netlink::Netfilter;
use tracing::{debug, warn};

use crate::conntrack::{self, Flows};
use crate::error::NetError;
use crate::nft::firewall::Firewall;
use crate::nft::render::{Inputs, Numbers, render};
use crate::service::ServiceTable;

pub(crate) struct Rules {
    firewall: Firewall,
    conntrack: Connection<Netfilter>,
    inputs: Inputs,
    numbers: Numbers,
    flows: Flows,
    /// False until the services are known once. A table that an earlier process left is better than one without
    /// services, so it stays until then.
    settled: bool,
}

impl Rules {
    pub(crate) fn new(firewall: Firewall, conntrack: Connection<Netfilter>, inputs: Inputs) -> Self {
        let flows = Flows::of(&inputs);
        Self { firewall, conntrack, inputs, numbers: Numbers::default(), flows, settled: false }
    }

    /// Changes the inputs and makes the table follow. The change is kept even when the kernel refuses it, so that the
    /// next one tries both.
    pub(crate) async fn update(&mut self, change: impl FnOnce(&mut Inputs)) -> Result<(), NetError> {
        change(&mut self.inputs);
        if !self.settled && !self.firewall.wrote() && self.firewall.exists().await.unwrap_or(false) {
            return Ok(());
        }
        let wanted = render(&self.inputs, &mut self.numbers);
        self.firewall.apply(wanted).await?;
        let flows = Flows::of(&self.inputs);
        let stale = conntrack::stale(&self.flows, &flows);
        self.flows = flows;
        if stale.is_empty() {
            return Ok(());
        }
        match conntrack::forget(&self.conntrack, &stale).await {
            Ok(0) => {}
            Ok(deleted) => debug!(deleted, "flows to removed endpoints forgotten"),
            // New flows are right; the old ones time out by themselves.
            Err(error) => warn!(%error, "cannot forget flows to removed endpoints"),
        }
        Ok(())
    }

    /// The services are what the table is for: with them it is worth writing.
    pub(crate) async fn set_services(&mut self, services: ServiceTable) -> Result<(), NetError> {
        self.settled = true;
        self.update(|inputs| inputs.services = services).await
    }

    /// Writes the table again when another program removed it; true when it did.
    pub(crate) async fn repair(&mut self) -> Result<bool, NetError> {
        if self.firewall.exists().await.unwrap_or(false) {
            return Ok(false);
        }
        self.firewall.invalidate();
        self.update(|_| ()).await.map(|()| true)
    }

    /// After the table was removed: the next change writes it anew.
    pub(crate) fn invalidate(&mut self) {
        self.firewall.invalidate();
    }

    pub(crate) async fn strict_chains(&self) -> Vec<String> {
        self.firewall.strict_chains().await
    }
}
