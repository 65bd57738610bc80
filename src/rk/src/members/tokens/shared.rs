//! The tokens in the store: read behind its barrier, so that a token that was replaced anywhere lets nobody in any more,
//! and copied to this server's files whenever they change. Called by joins, the start of a server and `rk token rotate`.

use super::sealed::{Seal, SealError};
use super::state::{self, Place, Rotation, State};
use super::{Given, Kept, Tokens};
use anyhow::Context;
use jiff::Timestamp;
use pki::Ca;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::{Compare, Op, RangeRequest, Revision, Store, StoreError, Txn, WatchError, WatchRequest};
use tokio_util::sync::CancellationToken;

/// No kind of the API.
const KEY: &str = "/registry/rk.io/tokens";
const PAUSE: Duration = Duration::from_millis(200);
/// Longest secret that is taken.
const MOST_SECRET: usize = 512;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokensError {
    #[error("the store cannot be asked for the cluster's tokens")]
    Store(#[from] StoreError),
    #[error("the cluster has no tokens yet: its first server is starting")]
    None,
    #[error("the cluster's tokens cannot be read: {0}")]
    Unreadable(String),
    #[error("somebody else changed the tokens at the same time; try again")]
    Raced,
    #[error("a token's secret has 1 to {MOST_SECRET} characters, and no blanks")]
    Secret,
}

impl From<SealError> for TokensError {
    fn from(error: SealError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterTokens {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    seal: Seal,
    ca_der: Vec<u8>,
    data_dir: PathBuf,
}

impl ClusterTokens {
    pub(crate) fn new(store: Store, ca: &Ca, ca_key_pem: &str, data_dir: &Path) -> anyhow::Result<Self> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(ca_key_pem.as_bytes()).context("read the CA's key")?;
        let seal = Seal::new(key.secret_pkcs8_der());
        let inner = Inner { store, seal, ca_der: ca.cert_der().to_vec(), data_dir: data_dir.to_owned() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The tokens, whichever server changed them last.
    pub(crate) async fn current(&self) -> Result<Tokens, TokensError> {
        self.inner.store.read_barrier().await?;
        let (_, state) = self.read()?;
        state.ok_or(TokensError::None)?.tokens().map_err(|error| TokensError::Unreadable(error.to_string()))
    }

    /// What this server's store has now, and the revision of it.
    fn read(&self) -> Result<(Revision, Option<State>), TokensError> {
        let found = self.inner.store.range(&RangeRequest::key(KEY)).map_err(StoreError::from)?.kvs.pop();
        let Some(found) = found else { return Ok((0, None)) };
        let state = serde_json::from_slice(&self.inner.seal.open(&found.value)?);
        let state = state.map_err(|_| TokensError::Unreadable("they are of another version".to_owned()))?;
        Ok((found.mod_revision, Some(state)))
    }

    /// Writes, if nobody else has written since.
    async fn write(&self, before: Revision, state: &State) -> Result<bool, TokensError> {
        let content = serde_json::to_vec(state).map_err(|error| TokensError::Unreadable(error.to_string()))?;
        let sealed = self.inner.seal.close(&content)?;
        let txn = Txn {
            compares: vec![Compare::unchanged(KEY, before)],
            success: vec![Op::put(KEY, sealed)],
            ..Txn::default()
        };
        Ok(self.inner.store.txn(txn).await?.succeeded)
    }

    /// Brings flags, files and store together at a start. Refuses flags that contradict.
    pub(crate) async fn settle(&self, given: &Given) -> anyhow::Result<()> {
        loop {
            match self.try_to_settle(given).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => match error.downcast_ref() {
                    Some(TokensError::Store(StoreError::NoLeader | StoreError::Unknown)) => {}
                    // Whoever waits for the exclusion ends this.
                    Some(TokensError::Store(StoreError::Excluded(_))) => std::future::pending().await,
                    _ => return Err(error),
                },
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_to_settle(&self, given: &Given) -> anyhow::Result<bool> {
        let store = &self.inner.store;
        store.read_barrier().await.map_err(TokensError::from)?;
        let alone = store.is_sole_member();
        let (before, found) = match self.read() {
            Err(error @ TokensError::Unreadable(_)) if alone => {
                tracing::warn!(%error, "the tokens in the store give way to those in this server's files");
                (store.range(&RangeRequest::key(KEY))?.kvs.first().map_or(0, |found| found.mod_revision), None)
            }
            read => read?,
        };
        let kept = Kept::load(&self.inner.data_dir)?;
        let place = Place { cluster: store.cluster(), alone, ca_der: &self.inner.ca_der };
        let (state, tokens) = state::settled(found.as_ref(), &kept, given, &place)?;
        if found.as_ref() != Some(&state) && !self.write(before, &state).await? {
            return Ok(false);
        }
        tokens.store(&self.inner.data_dir)?;
        Ok(true)
    }

    /// Replaces tokens, for the whole cluster.
    pub(crate) async fn rotate(&self, rotation: &Rotation) -> Result<(), TokensError> {
        let fits = |secret: &String| {
            (1..=MOST_SECRET).contains(&secret.len()) && !secret.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if ![&rotation.server, &rotation.node].into_iter().flatten().all(fits) {
            return Err(TokensError::Secret);
        }
        let store = &self.inner.store;
        store.read_barrier().await?;
        let (before, found) = self.read()?;
        let found = found.ok_or(TokensError::None)?;
        let state = state::rotated(&found, rotation, store.cluster(), &self.inner.ca_der, Timestamp::now())
            .map_err(|error| TokensError::Unreadable(error.to_string()))?;
        if !self.write(before, &state).await? {
            return Err(TokensError::Raced);
        }
        self.copy();
        Ok(())
    }

    /// Keeps this server's files up with the store until `stop`, and says when its own flags no longer fit.
    pub(crate) async fn follow(self, given: Given, stop: CancellationToken) {
        let store = &self.inner.store;
        loop {
            let from = store.revision() + 1;
            self.copy();
            self.warn_of(&given);
            let mut changes = match store.watch(WatchRequest { key: KEY.into(), end: None, from, prev_kv: false }) {
                Ok(changes) => changes,
                Err(WatchError::Closed) => return,
                Err(_) => continue,
            };
            match stop.run_until_cancelled(changes.next()).await {
                None | Some(Err(WatchError::Closed)) => return,
                Some(_) => {}
            }
        }
    }

    /// Told while somebody is at it, rather than by a server that does not come back from a reboot.
    fn warn_of(&self, given: &Given) {
        let Ok((_, Some(state))) = self.read() else { return };
        if let Some(error) = state.tokens().ok().and_then(|tokens| state::compare(&state, &tokens, given).err()) {
            tracing::warn!(%error, "this server will not start again as it was started");
        }
    }

    fn copy(&self) {
        let copied = match self.read() {
            Ok((_, Some(state))) => state.tokens().map_err(anyhow::Error::from),
            // A server that has just joined, or of an older version.
            Ok((_, None)) => return,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = copied.and_then(|tokens| tokens.store(&self.inner.data_dir)) {
            tracing::error!(
                error = format!("{error:#}"),
                "the cluster's tokens were not copied to this server's files"
            );
        }
    }
}

/// Refuses flags that contradict the cluster that is about to let this server in.
pub(crate) fn agree(tokens: &Tokens, given: &Given) -> Result<(), state::Contradiction> {
    state::agree(tokens, given)
}
