//! Records and layers on disk, names, leases and collection.

use super::digest::{chain_ids, hex};
use super::manifest::ConfigFile;
use super::unpack::unpack;
use super::{ImageError, ImageRecord, ImageRef};
use crate::link::lock;
use crate::records;
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The lower folder of an image without layers: an overlay needs one.
const EMPTY: &str = "empty";
/// Hexadecimal digits of a layer's folder name: 96 bits, and many names still fit into a mount's options.
const NAME: usize = 24;

#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    state: Mutex<State>,
    counter: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<String, ImageRecord>,
    /// Layer folders that containers and work under way rely on.
    leases: HashMap<String, usize>,
}

/// What is known of an unpacked layer.
#[derive(Debug, Serialize, Deserialize)]
struct Layer {
    chain_id: String,
    diff_id: String,
    bytes: u64,
}

/// Keeps layers from being collected while it exists.
#[derive(Debug)]
pub(crate) struct LayerLease {
    store: Arc<Store>,
    folders: Vec<String>,
}

impl Drop for LayerLease {
    fn drop(&mut self) {
        let mut state = lock(&self.store.state);
        for folder in &self.folders {
            if let Some(count) = state.leases.get_mut(folder) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(folder);
                }
            }
        }
    }
}

fn folder_of(chain_id: &str) -> String {
    chain_id.trim_start_matches("sha256:").chars().take(NAME).collect()
}

/// The topmost layer first.
pub(super) fn layer_folders(diff_ids: &[String]) -> Vec<String> {
    if diff_ids.is_empty() {
        return vec![EMPTY.to_owned()];
    }
    chain_ids(diff_ids).iter().rev().map(|chain| folder_of(chain)).collect()
}

impl Store {
    pub(super) fn open(root: PathBuf) -> Result<Self, ImageError> {
        let store = Self { root, state: Mutex::default(), counter: AtomicU64::new(0) };
        let empty = store.snapshots_folder().join(EMPTY).join("fs");
        for folder in [store.records_folder(), store.blobs_folder(), store.ingest_folder(), empty] {
            fs::create_dir_all(&folder).map_err(ImageError::io(&folder))?;
        }
        store.clear_unfinished();
        let folder = store.records_folder();
        for entry in fs::read_dir(&folder).map_err(ImageError::io(&folder))?.flatten() {
            if entry.path().extension().is_none_or(|e| e != "json") {
                continue;
            }
            match records::read::<ImageRecord>(&entry.path()) {
                Ok(record) => {
                    lock(&store.state).images.insert(record.id.clone(), record);
                }
                Err(error) => tracing::warn!(path = ?entry.path(), %error, "image record is skipped"),
            }
        }
        Ok(store)
    }

    /// What an earlier process had under way, except downloads that can go on.
    fn clear_unfinished(&self) {
        for (folder, keep) in [(self.ingest_folder(), ".part"), (self.snapshots_folder(), "")] {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let unfinished = if keep.is_empty() { name.starts_with("new-") } else { !name.ends_with(keep) };
                if unfinished {
                    remove_all(&entry.path());
                }
            }
        }
    }

    fn records_folder(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn snapshots_folder(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn blobs_folder(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn ingest_folder(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// A fresh name in a folder, for something to be renamed when complete.
    pub(super) fn temporary(&self, folder: &Path) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        folder.join(format!("new-{}-{number}", std::process::id()))
    }

    pub(super) fn lease(store: &Arc<Self>, layers: &[String]) -> LayerLease {
        let mut state = lock(&store.state);
        for layer in layers {
            *state.leases.entry(layer.clone()).or_default() += 1;
        }
        LayerLease { store: Arc::clone(store), folders: layers.to_vec() }
    }

    /// Keeps a small document, named by its digest.
    pub(super) fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let Some(hex) = hex(digest) else { return Err(bad_digest(digest)) };
        let path = self.blobs_folder().join(hex);
        let new = self.temporary(&self.blobs_folder());
        let written = File::create(&new).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()));
        written.and_then(|()| fs::rename(&new, &path)).map_err(ImageError::io(&path))
    }

    /// Whether the layer `diff_ids` ends with is unpacked on top of those before it.
    pub(super) fn has_layer(&self, chain_id: &str) -> bool {
        let record = self.snapshots_folder().join(folder_of(chain_id)).join("layer.json");
        records::read::<Layer>(&record).is_ok_and(|layer| layer.chain_id == chain_id)
    }

    /// Unpacks layer `index` of `diff_ids` from its tar, compressed or not, and checks it against its diff id.
    pub(super) fn add_layer(&self, diff_ids: &[String], index: usize, tar: impl Read) -> Result<(), ImageError> {
        let chain = chain_ids(&diff_ids[..=index]);
        let (chain_id, diff_id) = (&chain[index], &diff_ids[index]);
        let folder = self.snapshots_folder();
        let parents: Vec<PathBuf> =
            chain[..index].iter().rev().map(|below| folder.join(folder_of(below)).join("fs")).collect();
        let new = self.temporary(&folder);
        let result = unpack(tar, &new.join("fs"), &parents, diff_id).and_then(|bytes| {
            let layer = Layer { chain_id: chain_id.clone(), diff_id: diff_id.clone(), bytes };
            records::write(&new.join("layer.json"), &layer).map_err(ImageError::io(&new))?;
            match fs::rename(&new, folder.join(folder_of(chain_id))) {
                // Somebody else was faster with the same layer.
                Err(_) if self.has_layer(chain_id) => Ok(()),
                result => result.map_err(ImageError::io(&new)),
            }
        });
        remove_all(&new);
        result
    }

    /// Records an image whose layers are unpacked. Names it takes over leave the images that had them.
    pub(super) fn register(
        &self,
        id: &str,
        config: &ConfigFile,
        names: &[String],
        repo_digest: Option<String>,
        pinned: bool,
    ) -> Result<ImageRecord, ImageError> {
        self.sync();
        let mut state = lock(&self.state);
        let known = state.images.get(id).cloned();
        let diff_ids = config.rootfs.diff_ids.clone();
        let mut record = known.unwrap_or_else(|| ImageRecord {
            id: id.to_owned(),
            names: Vec::new(),
            repo_digests: Vec::new(),
            size: self.layers_size(&diff_ids),
            config: config.run_config(),
            diff_ids,
            pinned: false,
            added_at: Timestamp::now(),
        });
        record.pinned |= pinned;
        for name in names.iter().filter(|n| !n.is_empty()) {
            if !record.names.contains(name) {
                record.names.push(name.clone());
            }
        }
        if let Some(digest) = repo_digest.filter(|d| !record.repo_digests.contains(d)) {
            record.repo_digests.push(digest);
        }
        let others: Vec<ImageRecord> = state
            .images
            .values()
            .filter(|other| other.id != id && other.names.iter().any(|n| names.contains(n)))
            .cloned()
            .collect();
        for mut other in others {
            other.names.retain(|n| !names.contains(n));
            // What was pinned for its name has lost its reason to stay.
            other.pinned &= !other.names.is_empty();
            self.save(&other)?;
            state.images.insert(other.id.clone(), other);
        }
        self.save(&record)?;
        state.images.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    /// Layers have to be on disk before a record that promises them.
    fn sync(&self) {
        let folder = self.snapshots_folder();
        if let Err(error) = File::open(&folder).and_then(crate::sys::fs::sync_file_system) {
            tracing::warn!(?folder, %error, "layers may not be on disk yet");
        }
    }

    fn save(&self, record: &ImageRecord) -> Result<(), ImageError> {
        let Some(hex) = hex(&record.id) else { return Err(bad_digest(&record.id)) };
        let path = self.records_folder().join(format!("{hex}.json"));
        records::write(&path, record).map_err(ImageError::io(&path))
    }

    fn layers_size(&self, diff_ids: &[String]) -> u64 {
        chain_ids(diff_ids).iter().map(|chain| self.layer_size(&folder_of(chain))).sum()
    }

    fn layer_size(&self, folder: &str) -> u64 {
        let record = self.snapshots_folder().join(folder).join("layer.json");
        records::read::<Layer>(&record).map_or(0, |layer| layer.bytes)
    }

    pub(super) fn get(&self, name_or_id: &str) -> Option<ImageRecord> {
        let state = lock(&self.state);
        if let Some(record) = state.images.get(name_or_id) {
            return Some(record.clone());
        }
        let bare = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        if bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
            let mut fitting = state.images.values().filter(|r| hex(&r.id).is_some_and(|h| h.starts_with(bare)));
            if let (Some(record), None) = (fitting.next(), fitting.next()) {
                return Some(record.clone());
            }
        }
        let name: ImageRef = name_or_id.parse().ok()?;
        let found = match name.digest() {
            Some(digest) => {
                let wanted = format!("{}@{digest}", name.repository());
                state.images.values().find(|r| r.repo_digests.contains(&wanted) || r.id == digest)
            }
            None => {
                let wanted = name.to_string();
                state.images.values().find(|r| r.names.contains(&wanted))
            }
        };
        found.cloned()
    }

    pub(super) fn list(&self) -> Vec<ImageRecord> {
        lock(&self.state).images.values().cloned().collect()
    }

    pub(super) fn remove(&self, name_or_id: &str) -> Result<(), ImageError> {
        let mut record = self.present(name_or_id)?;
        if let Some(name) = one_of_several(&record, name_or_id) {
            record.names.retain(|n| *n != name);
            self.save(&record)?;
            lock(&self.state).images.insert(record.id.clone(), record);
            return Ok(());
        }
        self.drop_image(&record)?;
        self.collect_layers().map(drop)
    }

    pub(super) fn doomed(&self, name_or_id: &str) -> Result<Option<ImageRecord>, ImageError> {
        let record = self.present(name_or_id)?;
        Ok(Some(record).filter(|record| one_of_several(record, name_or_id).is_none()))
    }

    fn present(&self, name_or_id: &str) -> Result<ImageRecord, ImageError> {
        self.get(name_or_id).ok_or_else(|| ImageError::NotPresent(name_or_id.to_owned()))
    }

    fn drop_image(&self, record: &ImageRecord) -> Result<(), ImageError> {
        if let Some(hex) = hex(&record.id) {
            let path = self.records_folder().join(format!("{hex}.json"));
            fs::remove_file(&path).map_err(ImageError::io(&path))?;
            remove_all(&self.blobs_folder().join(hex));
        }
        for digest in record.repo_digests.iter().filter_map(|d| d.split_once('@')).filter_map(|(_, d)| hex(d)) {
            remove_all(&self.blobs_folder().join(digest));
        }
        lock(&self.state).images.remove(&record.id);
        Ok(())
    }

    pub(super) fn tag(&self, name_or_id: &str, name: &ImageRef) -> Result<(), ImageError> {
        let record = self.present(name_or_id)?;
        let config = ConfigFile::default();
        self.register(&record.id, &config, &[name.tagged_name().unwrap_or_default()], None, record.pinned).map(drop)
    }

    pub(super) fn pin(&self, name_or_id: &str, pinned: bool) -> Result<(), ImageError> {
        let mut record = self.present(name_or_id)?;
        record.pinned = pinned;
        self.save(&record)?;
        lock(&self.state).images.insert(record.id.clone(), record);
        Ok(())
    }

    pub(super) fn gc(&self, in_use: &HashSet<String>) -> Result<u64, ImageError> {
        for record in self.list() {
            if !record.pinned && !in_use.contains(&record.id) {
                self.drop_image(&record)?;
            }
        }
        self.collect_layers()
    }

    /// Removes layers no image and no lease needs. Returns their bytes.
    fn collect_layers(&self) -> Result<u64, ImageError> {
        let folder = self.snapshots_folder();
        let mut doomed = Vec::new();
        {
            // Moved away under the lock: from here on nobody can lease them.
            let state = lock(&self.state);
            let needed: HashSet<String> =
                state.images.values().flat_map(|image| layer_folders(&image.diff_ids)).collect();
            for entry in fs::read_dir(&folder).map_err(ImageError::io(&folder))?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let kept = name == EMPTY || name.starts_with("new-");
                if kept || needed.contains(&name) || state.leases.contains_key(&name) {
                    continue;
                }
                let bytes = self.layer_size(&name);
                let away = self.temporary(&folder);
                fs::rename(entry.path(), &away).map_err(ImageError::io(&folder))?;
                doomed.push((away, bytes));
            }
        }
        Ok(doomed
            .into_iter()
            .map(|(path, bytes)| {
                remove_all(&path);
                bytes
            })
            .sum())
    }

    pub(super) fn fs_usage(&self) -> io::Result<(u64, u64, u64)> {
        let folder = self.snapshots_folder();
        let used =
            fs::read_dir(&folder)?.flatten().map(|entry| self.layer_size(&entry.file_name().to_string_lossy())).sum();
        let disk = statvfs(&folder)?;
        let unit = disk.fragment_size();
        Ok((used, disk.blocks_available() * unit, disk.blocks() * unit))
    }
}

/// The name in full, when it is one and the image has others.
fn one_of_several(record: &ImageRecord, name_or_id: &str) -> Option<String> {
    let name = name_or_id.parse::<ImageRef>().ok()?.to_string();
    (record.names.contains(&name) && record.names.len() > 1).then_some(name)
}

pub(super) fn bad_digest(digest: &str) -> ImageError {
    ImageError::Malformed { what: format!("digest {digest:?}"), reason: "only sha256 is supported".into() }
}

/// Removes a file or folder; what cannot be removed is logged, and looked at again at the next start.
pub(super) fn remove_all(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "leftover cannot be removed");
    }
}
