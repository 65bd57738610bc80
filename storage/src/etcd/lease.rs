//! The Lease service.

use std::time::Duration;

use crate::error::StoreError;

use super::grpc::{Gone, Inbound, Outbound};
use super::serve::Call;
use super::status::{Code, Status};
use super::{Endpoint, wire};

/// etcd's own bound, in seconds.
const MAX_TTL: i64 = 9_000_000_000;

impl Endpoint {
    pub(super) async fn leases(&self, method: &str, call: Call) {
        match method {
            "LeaseGrant" => call.unary(async |request| self.grant(request).await).await,
            "LeaseRevoke" => call.unary(async |request| self.revoke(request).await).await,
            "LeaseKeepAlive" => {
                call.stream(async |inbound, outbound| self.keep_alive(inbound, outbound).await).await;
            }
            "LeaseTimeToLive" => call.unary(async |request| self.time_to_live(request).await).await,
            "LeaseLeases" => call.unary(async |request| self.list_leases(request).await).await,
            _ => call.unknown(method),
        }
    }

    async fn grant(&self, request: wire::LeaseGrantRequest) -> Result<wire::LeaseGrantResponse, Status> {
        if request.ttl > MAX_TTL {
            return Err(Status::new(Code::OutOfRange, "etcdserver: too large lease TTL"));
        }
        let ttl = Duration::from_secs(u64::try_from(request.ttl).unwrap_or(0));
        let granted = self.wrote(self.store().lease_grant(request.id, ttl).await)?;
        let ttl = seconds(granted.ttl);
        Ok(wire::LeaseGrantResponse { header: Some(self.header_now()), id: granted.id, ttl, error: String::new() })
    }

    async fn revoke(&self, request: wire::LeaseIdRequest) -> Result<wire::HeaderOnly, Status> {
        self.store().lease_revoke(request.id).await?;
        Ok(wire::HeaderOnly { header: Some(self.header_now()) })
    }

    /// A lease that is gone is renewed to 0 seconds, which is how etcd says so.
    async fn keep_alive(&self, inbound: &mut Inbound, outbound: &mut Outbound) -> Result<Status, Gone> {
        loop {
            let request: wire::LeaseIdRequest = match inbound.next().await {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(Status::ok()),
                Err(status) => return Ok(status),
            };
            let ttl = match self.store().lease_renew(request.id).await {
                Ok(ttl) => seconds(ttl),
                Err(StoreError::LeaseNotFound(_)) => 0,
                Err(error) => return Ok(error.into()),
            };
            let header = Some(self.header_now());
            outbound.send(&wire::LeaseKeepAliveResponse { header, id: request.id, ttl }).await?;
        }
    }

    async fn time_to_live(
        &self,
        request: wire::LeaseTimeToLiveRequest,
    ) -> Result<wire::LeaseTimeToLiveResponse, Status> {
        self.store().read_barrier().await?;
        let header = Some(self.header_now());
        let id = request.id;
        let left = match self.store().lease_time_left(id).await {
            Ok(left) => Some(left),
            Err(StoreError::LeaseNotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let (Some(lease), Some(left)) = (self.store().lease_status(id), left) else {
            return Ok(wire::LeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() });
        };
        let keys = if request.keys { lease.keys } else { Vec::new() };
        let (ttl, granted_ttl) = (seconds(left), seconds(lease.granted_ttl));
        Ok(wire::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys })
    }

    async fn list_leases(&self, _: wire::Empty) -> Result<wire::LeaseLeasesResponse, Status> {
        self.store().read_barrier().await?;
        let leases = self.store().leases().into_iter().map(|id| wire::LeaseEntry { id }).collect();
        Ok(wire::LeaseLeasesResponse { header: Some(self.header_now()), leases })
    }
}

fn seconds(time: Duration) -> i64 {
    time.as_secs().cast_signed()
}
