//! The outgoing side: asks one member something, and remembers who has answered and who has shut this member out.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::members::{ClusterId, Exclusion, Member, MemberId};
use crate::rpc::frame::{self, Envelope};
use crate::rpc::{Refusal, Request, Response};
use crate::transport::{Transport, TransportError};

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing has happened there.
    #[error("the member cannot be reached")]
    Unreachable,
    #[error("the answer was lost")]
    Lost,
    /// Nothing has happened there.
    #[error("the member refused the request: {0}")]
    Refused(Refusal),
}

/// Whether who takes a request has space for more.
fn proves_space(request: &Request) -> bool {
    match request {
        Request::Append(append) => !append.entries.is_empty(),
        Request::Alive { .. } => true,
        _ => false,
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) cluster: ClusterId,
    pub(crate) me: MemberId,
    session: u64,
    process: u64,
    transport: Option<Arc<dyn Transport>>,
    heard: Mutex<HashMap<MemberId, Instant>>,
    /// Members whose disks are full, as far as they have said.
    full: Mutex<BTreeSet<MemberId>>,
    pub(crate) excluded: watch::Sender<Option<Exclusion>>,
    /// Set once the Raft core runs.
    pub(crate) metrics: OnceLock<watch::Receiver<RaftServerMetrics<u64, Member>>>,
}

impl Link {
    /// `session` grows each time the directory is opened, `process` is random.
    pub(crate) fn new(
        cluster: ClusterId,
        me: MemberId,
        (session, process): (u64, u64),
        transport: Option<Arc<dyn Transport>>,
    ) -> Self {
        Self {
            cluster,
            me,
            session,
            process,
            transport,
            heard: Mutex::default(),
            full: Mutex::default(),
            excluded: watch::Sender::new(None),
            metrics: OnceLock::new(),
        }
    }

    /// Asks a member. An answer after `limit` counts as lost.
    pub(crate) async fn call(
        &self,
        id: MemberId,
        member: &Member,
        request: &Request,
        limit: Duration,
    ) -> Result<Response, CallError> {
        let Some(transport) = &self.transport else { return Err(CallError::Unreachable) };
        let Self { cluster, me, session, process, .. } = *self;
        let envelope = Envelope { cluster, from: me, to: id, session, process };
        let bytes = frame::request(&envelope, request).map_err(|error| {
            tracing::error!(%error, "a request cannot be written");
            CallError::Unreachable
        })?;
        let answer = tokio::time::timeout(limit, transport.call(id, member, bytes, limit)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(TransportError::Unreachable)) => return Err(CallError::Unreachable),
            Ok(Err(TransportError::Lost)) | Err(_) => return Err(CallError::Lost),
        };
        match frame::open_response(&answer) {
            Ok(Response::Refused(refusal)) => {
                self.refused(id, refusal);
                Err(CallError::Refused(refusal))
            }
            Ok(response) => {
                if proves_space(request) {
                    self.full().remove(&id);
                }
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Instant::now());
                Ok(response)
            }
            Err(refusal) => {
                tracing::warn!(member = id, %refusal, "a member's answer cannot be read");
                Err(CallError::Lost)
            }
        }
    }

    /// Time since a member last answered.
    pub(crate) fn heard(&self, id: MemberId) -> Option<Duration> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&id).map(Instant::elapsed)
    }

    fn full(&self) -> MutexGuard<'_, BTreeSet<MemberId>> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a member has said that its disk is full, and not yet that it is no more.
    pub(crate) fn is_full(&self, id: MemberId) -> bool {
        self.full().contains(&id)
    }

    /// Forgets those who are no members any more.
    pub(crate) fn forget_others(&self, members: &BTreeSet<MemberId>) {
        self.full().retain(|id| members.contains(id));
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| members.contains(id));
    }

    fn refused(&self, by: MemberId, refusal: Refusal) {
        match refusal {
            Refusal::DiskFull => {
                if self.full().insert(by) {
                    tracing::warn!(member = by, "no space is left on a member's disk");
                }
                // It lives, and it follows.
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(by, Instant::now());
            }
            Refusal::Twin => self.exclude(Exclusion::Twin),
            Refusal::NotAMember(index) if self.is_news(index) => self.exclude(Exclusion::Removed),
            Refusal::Forked(generation) if generation > self.cluster.generation => {
                self.exclude(Exclusion::Forked { generation });
            }
            _ => tracing::debug!(member = by, %refusal, "a member refused a request"),
        }
    }

    /// Whether a membership at `index` is newer than the one this member knows: one that lags behind may not know this
    /// member yet.
    fn is_news(&self, index: u64) -> bool {
        let Some(metrics) = self.metrics.get() else { return false };
        let metrics = metrics.borrow();
        let known = metrics.membership_config.log_id().map_or(0, |id| id.index);
        let listed = metrics.membership_config.membership().get_node(&self.me).is_some();
        index > known || index == known && !listed
    }

    pub(crate) fn exclude(&self, exclusion: Exclusion) {
        let news = self.excluded.send_if_modified(|excluded| {
            let news = excluded.is_none();
            excluded.get_or_insert(exclusion);
            news
        });
        if news {
            tracing::error!(member = self.me, cluster = %self.cluster, "{exclusion}");
        }
    }
}
