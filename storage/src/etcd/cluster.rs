//! The Cluster and Auth services.
//!
//! Members come and go by the executable's own commands, which know what etcd's messages cannot say: the token and the
//! address of a member that joins. There are no users: certificates decide who may connect at all.

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

    pub(super) fn members(&self) -> Vec<wire::Member> {
        let super::Config { name, peer_urls, client_urls } = self.inner.config.clone();
        vec![wire::Member { id: self.store().node_id(), name, peer_urls, client_urls, is_learner: false }]
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
