//! What a member tells of itself beside the log: where clients reach it, and whether it hears a leader.
//!
//! Addresses for clients come from each member's own configuration and may be others after each start, so they are asked
//! for when somebody wants to know them, and not replicated.

use std::sync::PoisonError;

use openraft::ServerState;

use super::Cluster;
use crate::members::MemberId;
use crate::rpc::{Request, Response};

impl Cluster {
    /// Sets what others are told who ask.
    pub(crate) fn advertise(&self, urls: Vec<String>) {
        *self.advertised.lock().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    pub(crate) fn advertised(&self) -> Vec<String> {
        self.advertised.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks a member where clients reach it; nothing when it does not answer soon.
    pub(crate) async fn advertised_by(&self, id: MemberId) -> Option<Vec<String>> {
        if id == self.me() {
            return Some(self.advertised());
        }
        let member = self.metrics().borrow().membership_config.membership().get_node(&id).cloned()?;
        match self.link.call(id, &member, &Request::Describe, self.timing.heartbeat * 2).await {
            Ok(Response::Described(urls)) => Some(urls),
            Ok(_) | Err(_) => None,
        }
    }

    /// Who leads, if this member is in touch with it: a follower that is cut off still believes in the last one, and a
    /// leader without a quorum in itself.
    pub(crate) fn reachable_leader(&self) -> Option<MemberId> {
        let (leader, leads) = {
            let metrics = self.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader?, metrics.state == ServerState::Leader)
        };
        let in_touch = match leads {
            true => self.has_quorum(None),
            // One that stands for election follows nobody.
            false => leader != self.me() && self.heard_leader().elapsed() < self.timing.election.1,
        };
        in_touch.then_some(leader)
    }
}
