//! Opening: take the directory, read snapshot and log, start the Raft core, and become leader if nobody else could.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, ServerState, SnapshotPolicy};

use crate::cluster::Timing;
use crate::data_dir::{DataDir, Wanted};
use crate::disk;
use crate::error::OpenError;
use crate::hard_state::{HardStateError, HardStateFile};
use crate::link::Link;
use crate::log::{Log, LogError};
use crate::members::{self, Membership};
use crate::raft::log_store::{LogFiles, LogStore};
use crate::raft::network::Network;
use crate::raft::state_machine::StateMachine;
use crate::raft::{self, Raft};
use crate::repair;
use crate::snapshot::{self, SnapshotError};
use crate::state::{Applied, Shared};
use crate::store::Config;

/// Longest time for this member to become leader; only a disk that hangs needs it.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Damaged files that are set aside in one start; more are taken for a broken disk.
const MAX_REPAIRS: u32 = 64;

/// A store's parts, ready to serve.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) files: Arc<LogFiles>,
    pub(crate) raft: Raft,
    pub(crate) link: Arc<Link>,
    pub(crate) snapshots: PathBuf,
    /// Grows each time the store is opened.
    pub(crate) session: u64,
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
    /// The newest membership and its index, committed or not.
    membership: Option<(u64, Membership)>,
    alone: bool,
    power_cut: bool,
}

/// Reads and verifies snapshot and log.
pub(crate) fn read(
    config: &Config,
    dir: &DataDir,
    hard_state: &mut HardStateFile,
) -> Result<(Applied, Log), OpenError> {
    let disk = &*config.disk;
    let mut state = Applied::default();
    if let Some(path) = snapshot::newest(disk, &dir.snapshots())? {
        let (meta, read) = snapshot::read(disk, &path)?;
        if meta.cluster_id != dir.cluster.id {
            let (found, expected) = (meta.cluster_id, dir.cluster.id);
            return Err(OpenError::WrongCluster { dir: config.dir.clone(), found, expected });
        }
        state = read;
    } else if hard_state.state.purged.is_some() {
        let what = "the snapshot that the log builds on is missing";
        return Err(OpenError::Corrupt { file: dir.snapshots(), offset: 0, what });
    }
    let purged = hard_state.state.purged.map(|purged| purged.index);
    let mut log = Log::open(config.disk.clone(), &dir.log(), dir.cluster.id, config.segment_bytes, purged)?;
    // A snapshot from the leader is in its place before what it supersedes is gone. A log that ends in an earlier term, or
    // before it, has nothing to add, and may contradict it.
    let last = raft::last_log_id(&log).or(hard_state.state.purged);
    if let Some(snapshot) = state.last.filter(|snapshot| last < Some(*snapshot)) {
        let path = hard_state.path().to_owned();
        let recorded = hard_state.update(|state| state.purged = Some(snapshot));
        recorded.map_err(|source| OpenError::Io { path, source })?;
        log.supersede(snapshot.index)?;
    }
    Ok((state, log))
}

fn recover(config: &Config) -> Result<Recovered, OpenError> {
    let disk = &*config.disk;
    let dir = DataDir::open(disk, &config.dir, &Wanted { node_id: config.node_id, join: config.join })?;
    let mut hard_state = HardStateFile::open(disk, dir.hard_state())?;
    let mut repairs = 0;
    let (state, log) = loop {
        match read(config, &dir, &mut hard_state) {
            Err(OpenError::Corrupt { file, offset, what }) if hard_state.state.peers && repairs < MAX_REPAIRS => {
                let name = file.display();
                tracing::error!(file = %name, offset, "{what}; setting it aside, the rest comes from the other members");
                repair::set_aside(disk, &dir, &mut hard_state, &file)?;
                repairs += 1;
            }
            read => break read?,
        }
    };
    let membership = newest_membership(&log, &state)?;
    let alone = match &membership {
        // What is left of a damaged log may end when the member still was the only voter.
        _ if hard_state.state.recovering => false,
        Some((_, membership)) => members::alone(membership, dir.node_id),
        None => !dir.joined,
    };
    let boot = disk.boot_id();
    let open_in = &hard_state.state.open_in_boot;
    let power_cut = alone && !open_in.is_empty() && *open_in != boot;
    let path = hard_state.path().to_owned();
    let updated = hard_state.update(|state| {
        // After a power cut only once revisions are skipped: a start that is cut short before that must skip them again.
        if !power_cut {
            state.open_in_boot = boot;
        }
        // With others about, a leader that was away begins as a follower, in no term that it led before: what it has
        // promised from memory in that term is forgotten.
        if let Some(vote) = state.vote.as_mut().filter(|_| !alone) {
            vote.committed &= vote.leader_id.node_id != dir.node_id;
        }
    });
    updated.map_err(|source| OpenError::Io { path, source })?;
    Ok(Recovered { dir, state, log, hard_state, membership, alone, power_cut })
}

pub(crate) fn newest_membership(log: &Log, state: &Applied) -> Result<Option<(u64, Membership)>, OpenError> {
    let applied = state.membership.log_id().map(|id| (id.index, state.membership.membership().clone()));
    let newer = log.memberships().next().filter(|index| applied.as_ref().is_none_or(|(known, _)| index > known));
    let Some(index) = newer else { return Ok(applied) };
    let entry = raft::decode(&log.read(index)?).map_err(|error| OpenError::Raft(Box::new(error)))?;
    match entry.payload {
        EntryPayload::Membership(membership) => Ok(Some((index, membership))),
        EntryPayload::Blank | EntryPayload::Normal(_) => Ok(applied),
    }
}

pub(crate) async fn open(config: &Config) -> Result<Opened, OpenError> {
    let recovering = config.clone();
    let recovered = disk::blocking(&*config.disk, move || recover(&recovering)).await;
    let recovered = recovered.map_err(|error| OpenError::Raft(Box::new(error)))??;
    let Recovered { dir, state, log, hard_state, membership, alone, power_cut } = recovered;
    let (cluster, joined, snapshots) = (dir.cluster, dir.joined, dir.snapshots());
    let session = hard_state.state.sequence;
    // A store that is alone by its nature speaks to nobody.
    let process = (session, config.transport.as_ref().map_or(0, |_| config.disk.random()));
    let link = Arc::new(Link::new(cluster, dir.node_id, process, config.transport.clone()));
    let shared = Arc::new(Shared::new(state));
    let files = Arc::new(LogFiles::new(config.disk.clone(), dir, log, hard_state, link.me, alone));
    let known = membership.is_some();
    if let Some((index, membership)) = membership {
        files.new_membership(index, &membership);
    }
    reserve(&files, &config.dir)?;
    let machine = StateMachine {
        shared: shared.clone(),
        files: files.clone(),
        snapshots: snapshots.clone(),
        cluster_id: cluster.id,
    };
    let log = LogStore { files: files.clone(), machine: machine.clone() };
    let raft = start(config, &link, log, machine, alone, joined).await?;
    if known {
        // Who asks an open store for its members is not told that there are none.
        let mut metrics = raft.metrics();
        let told = metrics.wait_for(|metrics| metrics.membership_config.nodes().next().is_some());
        told.await.map(drop).map_err(failed)?;
    }
    if alone {
        shared.lead(true);
    }
    Ok(Opened { shared, files, raft, link, snapshots, session, power_cut })
}

fn reserve(files: &LogFiles, dir: &Path) -> Result<(), OpenError> {
    files.log().reserve(0).map_err(|source: io::Error| OpenError::Io { path: dir.to_owned(), source })
}

/// Ticks are off: a single voter has nobody to send heartbeats to and nobody to wait for, and must not wake up when idle.
/// With several, `cluster::election` does what ticks do. What openraft calls heartbeat and election times is then only
/// how long it waits for an answer, and how long a member is loyal to a leader it has heard.
fn raft_config(timing: &Timing) -> openraft::Config {
    let patience = u64::try_from(timing.heartbeat.as_millis()).unwrap_or(u64::MAX / 8).max(1) * 2;
    openraft::Config {
        cluster_name: "rk".to_owned(),
        heartbeat_interval: patience,
        election_timeout_min: patience + 1,
        election_timeout_max: patience + 2,
        install_snapshot_timeout: 60_000,
        snapshot_policy: SnapshotPolicy::Never,
        // The log is purged by `upkeep`, which knows whether others may still need it.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_tick: false,
        ..openraft::Config::default()
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> OpenError {
    OpenError::Raft(Box::new(error))
}

async fn start(
    config: &Config,
    link: &Arc<Link>,
    log: LogStore,
    machine: StateMachine,
    alone: bool,
    joined: bool,
) -> Result<Raft, OpenError> {
    let settings = Arc::new(raft_config(&config.timing).validate().map_err(failed)?);
    let mut reader = log.clone();
    let last = reader.get_log_state().await.map_err(failed)?.last_log_id.map_or(0, |last| last.index);
    let pause = config.timing.heartbeat / 2;
    let network = Network {
        link: link.clone(),
        disk: config.disk.clone(),
        files: log.files.clone(),
        pause,
        patience: config.timing.answer,
    };
    let raft = Raft::new(link.me, settings, network, log, machine).await.map_err(failed)?;
    link.metrics.get_or_init(|| raft.server_metrics());
    if !alone {
        return Ok(raft);
    }
    if raft.is_initialized().await.map_err(failed)? {
        if raft.metrics().borrow().state != ServerState::Leader {
            raft.trigger().elect().await.map_err(failed)?;
        }
    } else if !joined {
        let members = BTreeMap::from([(link.me, config.member.clone())]);
        raft.initialize(members).await.map_err(failed)?;
    }
    raft.wait(Some(LEADER_TIMEOUT)).state(ServerState::Leader, "becoming leader").await.map_err(failed)?;
    raft.wait(Some(LEADER_TIMEOUT)).applied_index_at_least(Some(last), "applying the log").await.map_err(failed)?;
    Ok(raft)
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};

    use crate::data_dir::{DataDir, Wanted};
    use crate::disk::Files;
    use crate::hard_state::HardStateFile;
    use crate::log::Append;
    use crate::state::{Applied, Shared};
    use crate::{Config, Op, Store, Txn, raft, snapshot};

    fn id(term: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    /// What is left of the log, first and next index, after a start with a log of term 2 and a snapshot.
    fn left_of_log(entries: u64, snapshot: LogId<u64>) -> (u64, u64) {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path(), 1);
        let dir = DataDir::open(&Files, folder.path(), &Wanted { node_id: 1, join: None }).unwrap();
        let mut hard_state = HardStateFile::open(&Files, dir.hard_state()).unwrap();
        let (_, mut log) = super::read(&config, &dir, &mut hard_state).unwrap();
        log.reserve(0).unwrap();
        for index in 0..entries {
            let entry = Entry { log_id: id(2, index), payload: EntryPayload::Blank };
            let append = Append::new(index, (2, 1), Vec::new(), |out| raft::encode_into(&entry, out));
            log.append(&mut [append.unwrap()]).unwrap();
        }
        let state = Shared::new(Applied { last: Some(snapshot), ..Applied::default() });
        snapshot::write(&Files, &state, dir.cluster.id, &dir.snapshots()).unwrap();
        drop(log);
        // A second start finds what the first has left.
        let (_, once) = super::read(&config, &dir, &mut hard_state).unwrap();
        let found = (once.first(), once.next());
        drop(once);
        let (state, again) = super::read(&config, &dir, &mut hard_state).unwrap();
        assert_eq!((again.first(), again.next(), state.last), (found.0, found.1, Some(snapshot)));
        found
    }

    /// The power went when a snapshot from the leader was in its place, and the log was not dealt with.
    #[test]
    fn a_snapshot_supersedes_a_log_of_an_earlier_term() {
        assert_eq!(left_of_log(10, id(3, 5)), (6, 6), "the rest contradicts it");
        assert_eq!(left_of_log(10, id(2, 5)), (0, 10), "the rest goes on from it");
        assert_eq!(left_of_log(10, id(2, 9)), (0, 10));
        assert_eq!(left_of_log(10, id(2, 10)), (11, 11), "it is ahead");
        assert_eq!(left_of_log(10, id(1, 5)), (0, 10));
        assert_eq!(left_of_log(0, id(3, 5)), (6, 6));
    }

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
