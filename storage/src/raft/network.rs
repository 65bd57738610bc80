//! The network of a cluster that has one member: no peer can be reached.

use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{BasicNode, RaftNetwork, RaftNetworkFactory};

use super::Types;

type Failure<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

#[derive(Debug, thiserror::Error)]
#[error("member {0} cannot be reached: this member has no peers")]
struct NoPeers(u64);

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Alone;

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Nowhere(u64);

impl Nowhere {
    fn unreachable<E: std::error::Error>(&self) -> Failure<E> {
        RPCError::Unreachable(Unreachable::new(&NoPeers(self.0)))
    }
}

impl RaftNetworkFactory<Types> for Alone {
    type Network = Nowhere;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Nowhere {
        Nowhere(target)
    }
}

impl RaftNetwork<Types> for Nowhere {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        Err(self.unreachable())
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        Err(self.unreachable())
    }

    async fn vote(&mut self, _request: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        Err(self.unreachable())
    }
}
