//! The Cluster and Auth services.
//!
//! A member comes by the executable's own command, which knows what etcd's message cannot say: the token, and the new
//! member's identity. There are no users: certificates decide who may connect at all.

use std::collections::HashMap;
use std::sync::PoisonError;

use tokio::task::JoinSet;

use crate::members::{Member, MemberError, MemberId, MemberStatus, Role};

use super::serve::Call;
use super::status::{Code, Status};
use super::{Endpoint, wire};

/// The `HOST:PORT` of a URL, as a member's transport has it.
fn address(url: &str) -> Option<&str> {
    let (scheme, address) = url.split_once("://")?;
    let (host, port) = address.rsplit_once(':')?;
    let whole =
        matches!(scheme, "http" | "https") && !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    (whole && !address.contains(['/', '?', '#', '@', ' '])).then_some(address)
}

impl Endpoint {
    pub(super) async fn cluster(&self, method: &str, call: Call) {
        match method {
            "MemberList" => call.unary(async |request| self.list_members(request).await).await,
            "MemberAdd" => {
                call.refuse(&Status::unimplemented("a member joins with `rk server --server URL --token TOKEN`"))
            }
            "MemberRemove" => call.unary(async |request| self.remove_member(request).await).await,
            "MemberPromote" => call.unary(async |request| self.promote_member(request).await).await,
            "MemberUpdate" => call.unary(async |request| self.update_member(request).await).await,
            _ => call.unknown(method),
        }
    }

    async fn list_members(&self, request: wire::MemberListRequest) -> Result<wire::MembersResponse, Status> {
        if request.linearizable {
            self.store().read_barrier().await?;
        }
        Ok(self.all_members().await)
    }

    async fn all_members(&self) -> wire::MembersResponse {
        wire::MembersResponse { header: Some(self.header_now()), members: self.members().await }
    }

    async fn remove_member(&self, request: wire::MemberIdRequest) -> Result<wire::MembersResponse, Status> {
        self.store().remove_member(request.id).await?;
        Ok(self.all_members().await)
    }

    async fn promote_member(&self, request: wire::MemberIdRequest) -> Result<wire::MembersResponse, Status> {
        let members = self.store().members();
        if members.iter().any(|member| member.id == request.id && member.role == Role::Voter) {
            let message = "etcdserver: can only promote a learner member";
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        self.store().promote(request.id).await?;
        Ok(self.all_members().await)
    }

    async fn update_member(&self, request: wire::MemberUpdateRequest) -> Result<wire::MembersResponse, Status> {
        let addresses: Option<Vec<_>> = request.peer_urls.iter().map(|url| address(url).map(str::to_owned)).collect();
        let invalid = || Status::invalid("etcdserver: given member URLs are invalid");
        let addresses = addresses.filter(|addresses| !addresses.is_empty()).ok_or_else(invalid)?;
        self.store().read_barrier().await?;
        let members = self.store().members();
        let Some(known) = members.iter().find(|member| member.id == request.id) else {
            return Err(MemberError::NotFound(request.id).into());
        };
        let mut others = members.iter().filter(|member| member.id != request.id);
        if others.any(|other| other.member.addresses.iter().any(|address| addresses.contains(address))) {
            return Err(Status::new(Code::FailedPrecondition, "etcdserver: Peer URLs already exists"));
        }
        let member = Member { name: known.member.name.clone(), addresses };
        self.store().update_member(request.id, member).await?;
        Ok(self.all_members().await)
    }

    /// Where clients reach the others. They are asked, all at once; of those that do not answer it is what they said last.
    async fn client_urls(&self, members: &[MemberStatus]) -> HashMap<MemberId, Vec<String>> {
        let mut asked = JoinSet::new();
        for id in members.iter().map(|member| member.id).filter(|id| *id != self.store().node_id()) {
            let store = self.store().clone();
            asked.spawn(async move { (id, store.advertised_by(id).await) });
        }
        let answers = asked.join_all().await;
        let mut known = self.inner.client_urls.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| members.iter().any(|member| member.id == *id));
        known.extend(answers.into_iter().filter_map(|(id, urls)| Some((id, urls?))));
        known.clone()
    }

    pub(super) async fn members(&self) -> Vec<wire::Member> {
        let (me, config) = (self.store().node_id(), &self.inner.config);
        let members = self.store().members();
        let mut client_urls = self.client_urls(&members).await;
        client_urls.insert(me, config.client_urls.clone());
        let member = |status: MemberStatus| {
            let Member { name, addresses } = status.member;
            let unnamed = status.id == me && name.is_empty();
            let url = |address| format!("{}{address}", config.peer_scheme);
            wire::Member {
                id: status.id,
                name: if unnamed { config.name.clone() } else { name },
                peer_urls: addresses.into_iter().map(url).collect(),
                client_urls: client_urls.remove(&status.id).unwrap_or_default(),
                is_learner: status.role == Role::Learner,
            }
        };
        members.into_iter().map(member).collect()
    }

    pub(super) async fn authentication(&self, method: &str, call: Call) {
        match method {
            "AuthStatus" => {
                let status = |_: wire::Empty| wire::AuthStatusResponse {
                    header: Some(self.header_now()),
                    enabled: false,
                    auth_revision: 1,
                };
                call.unary(async |request| Ok(status(request))).await;
            }
            "Authenticate" | "AuthDisable" => {
                call.refuse(&Status::new(Code::FailedPrecondition, "etcdserver: authentication is not enabled"));
            }
            _ => call.refuse(&Status::unimplemented("there are no users and roles: client certificates decide")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_member_is_reached_at_a_host_and_a_port() {
        assert_eq!(address("https://10.0.0.1:6443"), Some("10.0.0.1:6443"));
        assert_eq!(address("http://[fd00::1]:2380"), Some("[fd00::1]:2380"));
        for bad in
            ["10.0.0.1:6443", "https://", "https://host", "https://:1", "https://a:0", "https://a:1/x", "unix://a:1"]
        {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
