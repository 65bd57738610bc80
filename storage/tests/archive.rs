//! Archives: what is saved comes back, in a cluster that nobody mistakes for the old one; anything else is refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use storage::archive::{self, ArchiveError, Label, Manifest};
use storage::{Config, Durability, Op, OpenError, RangeRequest, Store, StoreError, Txn, WatchError, WatchRequest};

fn put(key: &str, value: impl Into<storage::Bytes>) -> Txn {
    Txn { success: vec![Op::put(key.to_owned(), value)], ..Txn::default() }
}

fn all(store: &Store) -> Vec<storage::KeyValue> {
    store.range(&RangeRequest { end: Some("".into()), ..RangeRequest::default() }).unwrap().kvs
}

async fn open(dir: &Path) -> Store {
    Store::open(Config::new(dir, 0)).await.unwrap()
}

fn label() -> Label {
    let about = serde_json::json!({"node": "edge"});
    Label { created: 1_700_000_000, written_by: "0.1.0".to_owned(), about }
}

/// A store with keys, deletions, several versions and a lease.
async fn filled(dir: &Path) -> Store {
    let store = open(dir).await;
    for number in 0..600 {
        store.txn(put(&format!("key {number:03}"), vec![b'x'; 1000])).await.unwrap();
    }
    for number in 0..50 {
        store.txn(put(&format!("key {number:03}"), format!("second {number}"))).await.unwrap();
        let gone = Op::delete(format!("key {:03}", number + 100));
        store.txn(Txn { success: vec![gone], ..Txn::default() }).await.unwrap();
    }
    let lease = store.lease_grant(7, Duration::from_secs(1 << 20)).await.unwrap();
    let leased = Op::Put { key: "leased".into(), value: "v".into(), lease: lease.id, prev_kv: false };
    store.txn(Txn { success: vec![leased], ..Txn::default() }).await.unwrap();
    store
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn db(&self) -> PathBuf {
        self.folder.path().join("db")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn saved(place: &Place) -> (Store, Manifest) {
    let store = filled(&place.db()).await;
    let manifest = store.save(place.file("one"), label()).await.unwrap();
    (store, manifest)
}

#[tokio::test]
async fn what_was_saved_comes_back_at_revisions_that_nobody_has_seen() {
    let place = Place::new();
    let (store, manifest) = saved(&place).await;
    let (before, cluster, id) = (all(&store), store.cluster(), store.node_id());
    assert_eq!((manifest.revision, manifest.keys), (store.revision(), before.len() as u64));
    assert_eq!(manifest.about["node"], "edge");
    store.txn(put("later", "lost")).await.unwrap();
    let seen = store.revision();
    store.shutdown().await;

    let restored = archive::restore(&Config::new(place.db(), 0), &place.file("one")).unwrap();
    assert_eq!(restored.cluster.id, cluster.id);
    assert_eq!(restored.cluster.generation, cluster.generation + 1);
    let store = open(&place.db()).await;
    assert_eq!((store.cluster(), store.node_id()), (restored.cluster, id));
    assert_eq!(all(&store), before);
    assert!(store.revision() >= seen + 1_000_000, "{} after {seen}", store.revision());
    for stale in [1, manifest.revision, seen] {
        let watched = store.watch(WatchRequest::prefix("", stale)).map(|_| ());
        assert!(matches!(watched, Err(WatchError::Compacted { .. })), "{stale}: {watched:?}");
        let old = RangeRequest { revision: Some(stale), ..RangeRequest::prefix("key") };
        assert!(store.range(&old).is_err(), "{stale}");
    }
    let mut watcher = store.watch(WatchRequest::prefix("", store.revision() + 1)).unwrap();
    let written = store.txn(put("key 001", "third")).await.unwrap().revision;
    assert_eq!(watcher.next().await.unwrap().revision, written);
    let lease = store.lease_status(7).unwrap();
    assert!(lease.remaining > Duration::from_secs((1 << 20) - 60) && lease.keys == ["leased"], "{lease:?}");
    store.lease_revoke(7).await.unwrap();
    assert!(!all(&store).iter().any(|kv| kv.key == "leased"));
    store.shutdown().await;
    let store = open(&place.db()).await;
    assert_eq!(store.revision(), written + 1, "it goes on from there");
    store.shutdown().await;

    let aside = open(&restored.aside.unwrap()).await;
    assert!(all(&aside).iter().any(|kv| kv.key == "later"), "the old state is whole");
    assert_eq!(aside.cluster(), cluster);
    aside.shutdown().await;
}

#[tokio::test]
async fn an_empty_directory_becomes_another_cluster() {
    let place = Place::new();
    let (store, manifest) = saved(&place).await;
    let before = all(&store);
    let restored = archive::restore(&Config::new(place.file("new"), 5), &place.file("one")).unwrap();
    assert!(restored.aside.is_none() && restored.cluster.id != manifest.cluster.id);
    let copy = open(&place.file("new")).await;
    assert_eq!((copy.node_id(), copy.cluster()), (5, restored.cluster));
    assert_eq!(all(&copy), before);
    copy.shutdown().await;
    store.shutdown().await;
}

#[tokio::test]
async fn a_directory_at_rest_is_saved_with_all_of_its_log() {
    let place = Place::new();
    let store = filled(&place.db()).await;
    let coalesced = Txn { durability: Durability::Coalesced, ..put("beat", "1") };
    let changed = store.changed();
    store.txn(coalesced).await.unwrap();
    let (before, revision) = (all(&store), store.revision());
    assert_eq!(store.changed(), changed, "a heartbeat is no change");
    let config = Config::new(place.db(), 0);
    let refused = archive::save_offline(&config, &place.file("one"), label()).unwrap_err();
    assert!(matches!(refused, ArchiveError::Open(OpenError::Locked { .. })), "{refused}");
    store.shutdown().await;
    let manifest = archive::save_offline(&config, &place.file("one"), label()).unwrap();
    assert_eq!((manifest.revision, manifest.changed, manifest.keys), (revision, changed, before.len() as u64));
    archive::restore(&Config::new(place.file("new"), 0), &place.file("one")).unwrap();
    let copy = open(&place.file("new")).await;
    assert_eq!(all(&copy), before);
    copy.shutdown().await;
    let missing = archive::save_offline(&Config::new(place.file("none"), 0), &place.file("two"), label());
    assert!(matches!(missing, Err(ArchiveError::NoStore { .. })) && !place.file("none").exists());
}

#[tokio::test]
async fn a_directory_in_use_is_not_touched() {
    let place = Place::new();
    let (store, _) = saved(&place).await;
    assert!(archive::in_use(&place.db()).unwrap() && !archive::in_use(&place.file("none")).unwrap());
    let refused = archive::restore(&Config::new(place.db(), 0), &place.file("one")).unwrap_err();
    assert!(matches!(refused, ArchiveError::Open(OpenError::Locked { .. })), "{refused}");
    store.txn(put("still", "writable")).await.unwrap();
    store.shutdown().await;
    assert!(!archive::in_use(&place.db()).unwrap());
}

#[tokio::test]
async fn damaged_state_is_replaced_and_kept() {
    let place = Place::new();
    let (store, _) = saved(&place).await;
    let before = all(&store);
    store.shutdown().await;
    std::fs::write(place.db().join("FORMAT"), "{").unwrap();
    std::fs::write(place.db().join("state"), [0; 8192]).unwrap();
    let restored = archive::restore(&Config::new(place.db(), 0), &place.file("one")).unwrap();
    let aside = restored.aside.unwrap();
    assert_eq!(std::fs::read(aside.join("FORMAT")).unwrap(), b"{");
    assert!(aside.join("log").read_dir().unwrap().count() > 0);
    let store = open(&place.db()).await;
    assert_eq!(all(&store), before);
    store.shutdown().await;
}

#[tokio::test]
async fn restoring_twice_keeps_both_old_states() {
    let place = Place::new();
    let (store, _) = saved(&place).await;
    store.shutdown().await;
    let first = archive::restore(&Config::new(place.db(), 0), &place.file("one")).unwrap();
    let second = archive::restore(&Config::new(place.db(), 0), &place.file("one")).unwrap();
    assert_ne!(first.aside, second.aside);
    assert_eq!(second.cluster.generation, first.cluster.generation + 1);
    let again = open(&second.aside.unwrap()).await;
    assert_eq!(again.cluster(), first.cluster);
    again.shutdown().await;
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found_and_nothing_is_restored() {
    let place = Place::new();
    let (store, _) = saved(&place).await;
    store.shutdown().await;
    let good = std::fs::read(place.file("one")).unwrap();
    let config = Config::new(place.file("new"), 0);
    let step = (good.len() / 150).max(1);
    for at in (0..good.len()).step_by(step).chain(good.len() - 40..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(place.file("bad"), &bad).unwrap();
        let refused = archive::restore(&config, &place.file("bad")).unwrap_err();
        let named = refused.to_string();
        assert!(named.contains(&place.file("bad").display().to_string()), "{named}");
        assert!(archive::check(&place.file("bad")).is_err(), "byte {at}");
    }
    for length in (0..good.len()).step_by(step) {
        std::fs::write(place.file("bad"), &good[..length]).unwrap();
        assert!(archive::restore(&config, &place.file("bad")).is_err(), "{length} bytes");
        assert!(archive::check(&place.file("bad")).is_err(), "{length} bytes");
    }
    std::fs::write(place.file("bad"), [&good[..], b"more"].concat()).unwrap();
    assert!(archive::restore(&config, &place.file("bad")).is_err() && archive::check(&place.file("bad")).is_err());
    assert!(!place.file("new").exists(), "a bad file is refused before the directory is made");
    assert!(archive::verify(&place.file("one")).is_ok() && archive::check(&place.file("one")).is_ok());
}

#[tokio::test]
async fn foreign_and_newer_files_are_named_as_such() {
    let place = Place::new();
    let (store, manifest) = saved(&place).await;
    store.shutdown().await;
    let mut file = std::fs::read(place.file("one")).unwrap();
    assert_eq!(archive::describe(&place.file("one")).unwrap(), manifest);
    let head = &file[..usize::try_from(archive::head_bytes(&file[..12]).unwrap()).unwrap()];
    assert!(archive::describe_bytes(Path::new("s3"), &head[..head.len() - 1]).is_err());
    assert_eq!(archive::describe_bytes(Path::new("s3"), head).unwrap(), manifest);
    file[7] = 9;
    std::fs::write(place.file("newer"), &file).unwrap();
    let newer = archive::describe(&place.file("newer")).unwrap_err().to_string();
    assert!(newer.contains("format 9") && newer.contains("0.1.0") && newer.contains("up to format 1"), "{newer}");
    std::fs::write(place.file("foreign"), "a photograph").unwrap();
    assert!(matches!(archive::describe(&place.file("foreign")), Err(ArchiveError::Foreign { .. })));
    std::fs::write(place.file("empty"), "").unwrap();
    assert!(matches!(archive::describe(&place.file("empty")), Err(ArchiveError::Foreign { .. })));
}

#[tokio::test]
async fn a_name_is_taken_once_and_a_failure_leaves_nothing() {
    let place = Place::new();
    let (store, _) = saved(&place).await;
    let there = std::fs::read(place.file("one")).unwrap();
    let refused = store.save(place.file("one"), label()).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Io { .. }), "{refused}");
    assert_eq!(std::fs::read(place.file("one")).unwrap(), there);
    assert!(store.save(place.file("no/such/folder"), label()).await.is_err());
    let names: Vec<_> = place.folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(place.file("one").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    store.shutdown().await;
    assert!(matches!(store.txn(put("k", "v")).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn writes_while_a_file_is_made_are_not_in_it() {
    let place = Place::new();
    let store = filled(&place.db()).await;
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for number in 0..400 {
            writer.txn(put(&format!("key {:03}", 599 - number), "newer")).await.unwrap();
        }
    });
    let mut saved = Vec::new();
    for number in 0..3 {
        saved.push(store.save(place.file(&number.to_string()), label()).await.unwrap());
    }
    writing.await.unwrap();
    for (number, manifest) in saved.iter().enumerate() {
        let at = RangeRequest { revision: Some(manifest.revision), end: Some("".into()), ..RangeRequest::default() };
        let then = store.range(&at).unwrap().kvs;
        let dir = place.file(&format!("new {number}"));
        archive::restore(&Config::new(&dir, 0), &place.file(&number.to_string())).unwrap();
        let copy = open(&dir).await;
        assert_eq!(all(&copy), then);
        copy.shutdown().await;
    }
    store.shutdown().await;
}
