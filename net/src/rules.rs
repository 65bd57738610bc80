//! Keeps the nftables table in step with services, host ports and the DNS redirect, whoever changes which.

use nlink::Connection;
use nlink::netlink::Netfilter;
use tracing::{debug, warn};

use crate::conntrack::{self, Flows};
use crate::error::NetError;
use crate::nft::firewall::Firewall;
use crate::nft::render::{Groups, Inputs, render};

pub(crate) struct Rules {
    firewall: Firewall,
    conntrack: Connection<Netfilter>,
    inputs: Inputs,
    groups: Groups,
    flows: Flows,
}

impl Rules {
    pub(crate) fn new(firewall: Firewall, conntrack: Connection<Netfilter>, inputs: Inputs) -> Self {
        let flows = Flows::of(&inputs);
        Self { firewall, conntrack, inputs, groups: Groups::default(), flows }
    }

    /// Changes the inputs and makes the table follow. The change is kept even when the kernel refuses it, so that the
    /// next one tries both.
    pub(crate) async fn update(&mut self, change: impl FnOnce(&mut Inputs)) -> Result<(), NetError> {
        change(&mut self.inputs);
        let wanted = render(&self.inputs, &mut self.groups);
        self.firewall.apply(wanted).await?;
        let flows = Flows::of(&self.inputs);
        let stale = conntrack::stale(&self.flows, &flows);
        self.flows = flows;
        if stale.is_empty() {
            return Ok(());
        }
        match conntrack::forget(&self.conntrack, &stale).await {
            Ok(0) => {}
            Ok(deleted) => debug!(deleted, "udp flows to removed endpoints forgotten"),
            // New flows are right; the old ones time out by themselves.
            Err(error) => warn!(%error, "cannot forget udp flows to removed endpoints"),
        }
        Ok(())
    }

    /// Writes the table again when another program removed it; true when it did.
    pub(crate) async fn repair(&mut self) -> Result<bool, NetError> {
        if self.firewall.exists().await.unwrap_or(false) {
            return Ok(false);
        }
        self.firewall.invalidate();
        self.update(|_| ()).await.map(|()| true)
    }

    pub(crate) async fn remove(&mut self) -> Result<(), NetError> {
        self.firewall.remove().await
    }
}
