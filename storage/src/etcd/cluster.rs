//! The Cluster and Auth services.
//!
//! A member comes by the executable's own command, which knows what etcd's message cannot say: the token, and the new
//! member's identity. There are no users: certificates decide who may connect at all.

use crate::members::{Member, MemberStatus, Role};

use super::serve::Call;
use super::status::{Code, Status};
use super::{Endpoint, wire};

impl Endpoint {
    pub(super) async fn cluster(&self, method: &str, call: Call) {
        match method {
            "MemberList" => call.unary(async |request| self.list_members(request).await).await,
            "MemberAdd" => {
                call.refuse(&Status::unimplemented("a member joins with `rk server --server URL --token TOKEN`"))
            }
            "MemberRemove" => call.unary(async |request| self.remove_member(request).await).await,
            "MemberPromote" => call.unary(async |request| self.promote_member(request).await).await,
            "MemberUpdate" => {
                call.refuse(&Status::unimplemented("a member's addresses come from its own configuration"))
            }
            _ => call.unknown(method),
        }
    }

    async fn list_members(&self, request: wire::MemberListRequest) -> Result<wire::MembersResponse, Status> {
        if request.linearizable {
            self.store().read_barrier().await?;
        }
        Ok(wire::MembersResponse { header: Some(self.header_now()), members: self.members() })
    }

    async fn remove_member(&self, request: wire::MemberIdRequest) -> Result<wire::MembersResponse, Status> {
        self.store().remove_member(request.id).await?;
        Ok(wire::MembersResponse { header: Some(self.header_now()), members: self.members() })
    }

    async fn promote_member(&self, request: wire::MemberIdRequest) -> Result<wire::MembersResponse, Status> {
        self.store().promote(request.id).await?;
        Ok(wire::MembersResponse { header: Some(self.header_now()), members: self.members() })
    }

    pub(super) fn members(&self) -> Vec<wire::Member> {
        let (me, config) = (self.store().node_id(), &self.inner.config);
        let member = |status: MemberStatus| {
            let Member { name, addresses } = status.member;
            let (name, client_urls) = match status.id == me {
                true if name.is_empty() => (config.name.clone(), config.client_urls.clone()),
                true => (name, config.client_urls.clone()),
                // Each member knows its own alone.
                false => (name, Vec::new()),
            };
            wire::Member {
                id: status.id,
                name,
                peer_urls: addresses,
                client_urls,
                is_learner: status.role == Role::Learner,
            }
        };
        self.store().members().into_iter().map(member).collect()
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
