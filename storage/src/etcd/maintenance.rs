//! The Maintenance service: status, checksums, alarms, backups.

use crate::members::{MemberError, MemberStatus, Role};

use super::grpc::{Gone, Inbound, Outbound};
use super::serve::Call;
use super::status::{Code, Status};
use super::{Endpoint, VERSION, backup, wire};

impl Endpoint {
    pub(super) async fn maintenance(&self, method: &str, call: Call) {
        match method {
            "Status" => call.unary(async |_: wire::Empty| Ok(self.status())).await,
            "Hash" => call.unary(async |request| self.hash(request).await).await,
            "HashKV" => call.unary(async |request| self.hash_keys(request).await).await,
            "Snapshot" => {
                call.stream(async |inbound, outbound| self.snapshot(inbound, outbound).await).await;
            }
            "Alarm" => call.unary(async |request| self.alarm(request).await).await,
            "MoveLeader" => call.unary(async |request| self.move_leader(request).await).await,
            // Memory of superseded versions is freed as it becomes free, and files are rewritten by snapshots.
            "Defragment" => {
                call.unary(async |_: wire::Empty| {
                    self.store().purge().await;
                    Ok(wire::HeaderOnly { header: Some(self.header_now()) })
                })
                .await;
            }
            "Downgrade" => call.refuse(&Status::unimplemented("this is not etcd: there is nothing to downgrade")),
            _ => call.unknown(method),
        }
    }

    fn status(&self) -> wire::StatusResponse {
        let (status, stats) = (self.store().status(), self.store().stats());
        let mut errors = Vec::new();
        let leader = self.store().reachable_leader();
        if leader.is_none() {
            errors.push(super::leader::no_leader().message);
        }
        if self.alarmed() {
            errors.push("etcdserver: mvcc: database space exceeded".to_owned());
        }
        errors.extend(status.excluded.map(|excluded| format!("etcdserver: {excluded}")));
        let learner = |member: &MemberStatus| member.id == status.id && member.role == Role::Learner;
        wire::StatusResponse {
            header: Some(self.header_now()),
            version: VERSION.to_owned(),
            db_size: (stats.live_bytes + stats.log_bytes).cast_signed(),
            leader: leader.unwrap_or(0),
            raft_index: status.last,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors,
            db_size_in_use: stats.live_bytes.cast_signed(),
            is_learner: status.members.iter().any(learner),
        }
    }

    async fn hash(&self, _: wire::Empty) -> Result<wire::HashResponse, Status> {
        let hash = self.store().hash(None).await?;
        Ok(wire::HashResponse { header: Some(self.header_now()), hash: hash.hash })
    }

    async fn hash_keys(&self, request: wire::HashKvRequest) -> Result<wire::HashKvResponse, Status> {
        let revision = u64::try_from(request.revision).ok().filter(|revision| *revision > 0);
        let found = self.store().hash(revision).await?;
        Ok(wire::HashKvResponse {
            header: Some(self.header_now()),
            hash: found.hash,
            compact_revision: found.compacted.cast_signed(),
            hash_revision: found.revision.cast_signed(),
        })
    }

    async fn move_leader(&self, request: wire::MoveLeaderRequest) -> Result<wire::HeaderOnly, Status> {
        self.store().transfer_leader(request.target_id).await.map_err(|error| match error {
            MemberError::NotFound(_) => Status::from(MemberError::NotAVoter(request.target_id)),
            error => error.into(),
        })?;
        Ok(wire::HeaderOnly { header: Some(self.header_now()) })
    }

    async fn snapshot(&self, inbound: &mut Inbound, outbound: &mut Outbound) -> Result<Status, Gone> {
        if let Err(status) = inbound.only::<wire::Empty>().await {
            return Ok(status);
        }
        let failed = |error: backup::BackupError| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot write a backup");
            Status::new(Code::Internal, format!("etcdserver: {error}"))
        };
        let members = self.members().await;
        let mut backup = match backup::write(self.store(), members).await {
            Ok(backup) => backup,
            Err(error) => return Ok(failed(error)),
        };
        let header = self.header(backup.revision);
        loop {
            match backup.read().await {
                Ok(Some((blob, remaining_bytes))) => {
                    let version = VERSION.to_owned();
                    let part = wire::SnapshotResponse { header: Some(header), remaining_bytes, blob, version };
                    outbound.send(&part).await?;
                }
                Ok(None) => return Ok(Status::ok()),
                Err(error) => return Ok(failed(error)),
            }
        }
    }
}
