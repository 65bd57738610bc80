//! Opening: take the directory, read snapshot and log, start the Raft core, become leader.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use openraft::{BasicNode, ServerState, SnapshotPolicy};

use crate::data_dir::DataDir;
use crate::disk;
use crate::error::OpenError;
use crate::hard_state::{HardStateError, HardStateFile};
use crate::log::{Log, LogError};
use crate::raft::Raft;
use crate::raft::log_store::{LogFiles, LogStore};
use crate::raft::network::Alone;
use crate::raft::state_machine::StateMachine;
use crate::snapshot::{self, SnapshotError};
use crate::state::{Applied, Shared};
use crate::store::Config;

/// Longest time for this member to become leader; only a disk that hangs needs it.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// A store's parts, ready to serve.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) raft: Raft,
    pub(crate) cluster_id: u64,
    pub(crate) snapshots: std::path::PathBuf,
    /// The machine went down while the store was open: coalesced writes may be missing.
    pub(crate) power_cut: bool,
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io { path, source } => Self::Io { path, source },
            LogError::Corrupt { path, offset, what } => Self::Corrupt { file: path, offset, what },
            LogError::Missing { .. } | LogError::Gap { .. } => Self::Raft(Box::new(error)),
        }
    }
}

impl From<SnapshotError> for OpenError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io { path, source } => Self::Io { path, source },
            SnapshotError::Corrupt { path, offset, what } => Self::Corrupt { file: path, offset, what },
        }
    }
}

impl From<HardStateError> for OpenError {
    fn from(error: HardStateError) -> Self {
        match error {
            HardStateError::Io { path, source } => Self::Io { path, source },
            HardStateError::Corrupt { path } => {
                Self::Corrupt { file: path, offset: 0, what: "neither of its slots is valid" }
            }
        }
    }
}

/// What the files hold, before Raft runs.
struct Recovered {
    dir: DataDir,
    state: Applied,
    log: Log,
    hard_state: HardStateFile,
    power_cut: bool,
}

fn recover(config: &Config) -> Result<Recovered, OpenError> {
    let disk = &*config.disk;
    let dir = DataDir::open(disk, &config.dir, config.node_id)?;
    let mut hard_state = HardStateFile::open(disk, dir.hard_state())?;
    let mut state = Applied::default();
    if let Some(path) = snapshot::newest(disk, &dir.snapshots())? {
        let (meta, read) = snapshot::read(disk, &path)?;
        if meta.cluster_id != dir.cluster_id {
            let (found, expected) = (meta.cluster_id, dir.cluster_id);
            return Err(OpenError::WrongCluster { dir: config.dir.clone(), found, expected });
        }
        state = read;
    } else if hard_state.state.purged.is_some() {
        let what = "the snapshot that the log builds on is missing";
        return Err(OpenError::Corrupt { file: dir.snapshots(), offset: 0, what });
    }
    let purged = hard_state.state.purged.map(|purged| purged.index);
    let log = Log::open(config.disk.clone(), &dir.log(), dir.cluster_id, config.segment_bytes, purged)?;
    let boot = disk.boot_id();
    let power_cut = !hard_state.state.open_in_boot.is_empty() && hard_state.state.open_in_boot != boot;
    let path = hard_state.path().to_owned();
    hard_state.update(|state| state.open_in_boot = boot).map_err(|source| OpenError::Io { path, source })?;
    Ok(Recovered { dir, state, log, hard_state, power_cut })
}

pub(crate) async fn open(config: &Config) -> Result<Opened, OpenError> {
    let recovering = config.clone();
    let recovered = disk::blocking(&*config.disk, move || recover(&recovering)).await;
    let recovered = recovered.map_err(|error| OpenError::Raft(Box::new(error)))??;
    let Recovered { dir, state, log, hard_state, power_cut } = recovered;
    let (cluster_id, snapshots) = (dir.cluster_id, dir.snapshots());
    let members = state.membership.membership().voter_ids().count();
    let shared = Arc::new(Shared::new(state));
    let files = Arc::new(LogFiles::new(config.disk.clone(), dir, log, hard_state, members <= 1));
    reserve(&files, &config.dir)?;
    let machine =
        StateMachine { shared: shared.clone(), files: files.clone(), snapshots: snapshots.clone(), cluster_id };
    let raft = start(config, LogStore(files.clone()), machine).await?;
    shared.start_leases();
    Ok(Opened { shared, files, raft, cluster_id, snapshots, power_cut })
}

fn reserve(files: &LogFiles, dir: &Path) -> Result<(), OpenError> {
    files.log().reserve(0).map_err(|source: io::Error| OpenError::Io { path: dir.to_owned(), source })
}

/// Ticks are off: a single voter has nobody to send heartbeats to and nobody to wait for, and must not wake up when idle.
fn raft_config() -> openraft::Config {
    openraft::Config {
        cluster_name: "rk".to_owned(),
        heartbeat_interval: 500,
        election_timeout_min: 2000,
        election_timeout_max: 4000,
        install_snapshot_timeout: 60_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        enable_tick: false,
        ..openraft::Config::default()
    }
}

async fn start(config: &Config, log: LogStore, machine: StateMachine) -> Result<Raft, OpenError> {
    fn failed(error: impl std::error::Error + Send + Sync + 'static) -> OpenError {
        OpenError::Raft(Box::new(error))
    }
    let settings = Arc::new(raft_config().validate().map_err(failed)?);
    let mut reader = log.clone();
    let last = reader.get_log_state().await.map_err(failed)?.last_log_id.map_or(0, |last| last.index);
    let raft = Raft::new(config.node_id, settings, Alone, log, machine).await.map_err(failed)?;
    if raft.is_initialized().await.map_err(failed)? {
        if raft.metrics().borrow().state != ServerState::Leader {
            raft.trigger().elect().await.map_err(failed)?;
        }
    } else {
        let members = BTreeMap::from([(config.node_id, BasicNode::default())]);
        raft.initialize(members).await.map_err(failed)?;
    }
    raft.wait(Some(LEADER_TIMEOUT)).state(ServerState::Leader, "becoming leader").await.map_err(failed)?;
    raft.wait(Some(LEADER_TIMEOUT)).applied_index_at_least(Some(last), "applying the log").await.map_err(failed)?;
    Ok(raft)
}

#[cfg(test)]
mod tests {
    use crate::disk::Files;
    use crate::hard_state::HardStateFile;
    use crate::{Config, Op, Store, Txn};

    #[tokio::test]
    async fn revisions_are_skipped_after_a_power_cut_only() {
        let dir = tempfile::tempdir().unwrap();
        let put = || Txn { success: vec![Op::put("k", "v")], ..Txn::default() };
        let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
        assert_eq!(store.txn(put()).await.unwrap().revision, 1);
        store.shutdown().await;
        let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
        assert_eq!(store.txn(put()).await.unwrap().revision, 2);
        store.shutdown().await;
        let mut file = HardStateFile::open(&Files, dir.path().join("state")).unwrap();
        file.update(|state| state.open_in_boot = "an earlier boot".to_owned()).unwrap();
        let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
        assert_eq!(store.txn(put()).await.unwrap().revision, 1_000_003);
        store.shutdown().await;
    }
}
