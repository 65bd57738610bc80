//! The one alarm there is: NOSPACE, for as long as writes are refused because a disk is full.
//!
//! Nobody has to disarm it: the store takes writes again by itself once there is space. So the alarm is a memory of the
//! last refusal, and whoever asks for it has that looked at again.

use std::sync::atomic::Ordering;

use super::status::Status;
use super::{Endpoint, wire};
use crate::error::StoreError;

/// There is space again when a write of so many bytes is taken.
const PROBE: usize = 16 << 10;

impl Endpoint {
    /// Remembers whether there is space, and translates what a write came to.
    pub(super) fn wrote<T>(&self, outcome: Result<T, StoreError>) -> Result<T, Status> {
        let full = matches!(outcome, Err(StoreError::DiskFull { .. }));
        if full != self.inner.full.load(Ordering::Relaxed) && (full || outcome.is_ok()) {
            self.inner.full.store(full, Ordering::Relaxed);
        }
        outcome.map_err(Into::into)
    }

    pub(super) fn alarmed(&self) -> bool {
        self.inner.full.load(Ordering::Relaxed)
    }

    fn alarms(&self) -> Vec<wire::AlarmMember> {
        if !self.alarmed() {
            return Vec::new();
        }
        // Whoever leads has refused to write.
        let member_id = self.store().reachable_leader().unwrap_or_else(|| self.store().node_id());
        vec![wire::AlarmMember { member_id, alarm: wire::NO_SPACE }]
    }

    /// Lists alarms, or tells which of them are over. To disarm one is to look whether it is.
    pub(super) async fn alarm(&self, request: wire::AlarmRequest) -> Result<wire::AlarmResponse, Status> {
        if request.action == wire::AlarmAction::Activate as i32 {
            return Err(Status::unimplemented("alarms cannot be raised by hand"));
        }
        let before = self.alarms();
        if self.alarmed() {
            match self.wrote(self.store().probe(PROBE).await) {
                Ok(()) => {}
                Err(_) if self.alarmed() => {}
                Err(status) => return Err(status),
            }
        }
        let now = self.alarms();
        let alarms = if request.action == wire::AlarmAction::Deactivate as i32 {
            before.into_iter().filter(|alarm| !now.contains(alarm)).collect()
        } else {
            now
        };
        Ok(wire::AlarmResponse { header: Some(self.header_now()), alarms })
    }
}
