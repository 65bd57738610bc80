//! The folder of snapshots: names, what lies there, and which of it is old.
//!
//! A snapshot is called `BASE-NODE-SECONDS`. Listing believes what a file says about itself, not its name; pruning takes
//! only what is whole, of this node, and of the base that was asked for.

use super::about::About;
use anyhow::Context;
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use storage::archive::{self, Manifest};

/// One thing in the folder or the bucket.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) location: String,
    pub(super) size: u64,
    /// What it says about itself, or why it is no snapshot.
    #[serde(flatten)]
    pub(super) state: State,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    #[serde(untagged)]
    Good(Facts),
    #[serde(untagged)]
    Bad { error: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) revision: u64,
    pub(super) changed: u64,
    pub(super) keys: u64,
    pub(super) base: String,
    pub(super) node: String,
    pub(super) cluster: String,
    pub(super) version: String,
}

impl Facts {
    pub(super) fn of(manifest: &Manifest) -> Result<Self, serde_json::Error> {
        let About { base, node, .. } = About::of(manifest)?;
        Ok(Self {
            created: manifest.created,
            revision: manifest.revision,
            changed: manifest.changed,
            keys: manifest.keys,
            base,
            node,
            cluster: manifest.cluster.to_string(),
            version: manifest.written_by.clone(),
        })
    }
}

impl State {
    pub(super) fn of(manifest: Result<Manifest, archive::ArchiveError>) -> Self {
        match manifest {
            Ok(manifest) => match Facts::of(&manifest) {
                Ok(facts) => Self::Good(facts),
                Err(error) => Self::Bad { error: format!("it does not say what it is of: {error}") },
            },
            Err(error) => Self::Bad { error: error.to_string() },
        }
    }
}

impl Entry {
    pub(super) fn facts(&self) -> Option<&Facts> {
        match &self.state {
            State::Good(facts) => Some(facts),
            State::Bad { .. } => None,
        }
    }
}

/// The name of a snapshot.
pub(super) fn name(base: &str, node: &str, created: i64) -> String {
    format!("{base}-{node}-{created}")
}

/// Whether a text may be a snapshot's name, or the beginning of one: no path, nothing hidden.
pub(super) fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.len() <= 200 && !text.starts_with(['.', '-']) && text.bytes().all(good)
}

/// A name that may come to a snapshot while it is written.
fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Everything in the folder, newest first. Reads each file as a whole, to tell damage. Blocking.
pub(super) fn list(folder: &Path) -> anyhow::Result<Vec<Entry>> {
    entries(folder, archive::check)
}

/// The same by the files' heads alone. Blocking.
pub(super) fn glance(folder: &Path) -> anyhow::Result<Vec<Entry>> {
    entries(folder, archive::describe)
}

fn entries(
    folder: &Path,
    look: impl Fn(&Path) -> Result<Manifest, archive::ArchiveError>,
) -> anyhow::Result<Vec<Entry>> {
    let place = || format!("read {}", folder.display());
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(place),
    };
    let mut entries = Vec::new();
    for file in files {
        let file = file.with_context(place)?;
        let name = file.file_name().to_string_lossy().into_owned();
        if is_partial(&name) {
            continue;
        }
        let path = file.path();
        let metadata = match file.metadata() {
            // Pruned meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.with_context(place)?,
        };
        let looked = metadata.is_file().then(|| look(&path));
        let state = match looked {
            None => State::Bad { error: "it is not a file".to_owned() },
            Some(Err(archive::ArchiveError::Io { source, .. })) if source.kind() == io::ErrorKind::NotFound => continue,
            Some(looked) => State::of(looked),
        };
        entries.push(Entry { name, location: path.display().to_string(), size: metadata.len(), state });
    }
    sort(&mut entries);
    Ok(entries)
}

/// Newest first; what is no snapshot comes last.
pub(super) fn sort(entries: &mut [Entry]) {
    let order = |entry: &Entry| (entry.facts().map(|facts| facts.created), entry.name.clone());
    entries.sort_by_key(|entry| std::cmp::Reverse(order(entry)));
}

/// The whole snapshots of one node and base beyond the newest `keep`.
pub(super) fn surplus<'a>(entries: &'a [Entry], base: &str, node: &str, keep: usize) -> Vec<&'a Entry> {
    let mut own: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((entry.facts().filter(|facts| facts.base == base && facts.node == node)?, entry)))
        .collect();
    own.sort_by_key(|(facts, entry)| std::cmp::Reverse((facts.created, &entry.name)));
    own.into_iter().skip(keep).map(|(_, entry)| entry).collect()
}

/// Removes snapshots of this node and base beyond the newest `keep`; returns their names. Blocking.
pub(super) fn prune(folder: &Path, base: &str, node: &str, keep: usize) -> anyhow::Result<Vec<String>> {
    let entries = list(folder)?;
    let mut removed = Vec::new();
    for entry in surplus(&entries, base, node, keep) {
        let path = folder.join(&entry.name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        removed.push(entry.name.clone());
    }
    Ok(removed)
}

/// Removes what a write that was cut short has left. Blocking.
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        if is_partial(&file.file_name().to_string_lossy()) && file.file_type()?.is_file() {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// Where a snapshot of that name lies, or would.
pub(super) fn path(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(is_name(name), "{name:?} cannot be the name of a snapshot");
    Ok(folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(base: &str, node: &str, created: i64) -> Entry {
        let facts = Facts {
            created,
            revision: 1,
            changed: 1,
            keys: 1,
            base: base.into(),
            node: node.into(),
            cluster: "c".into(),
            version: "1".into(),
        };
        let name = name(base, node, created);
        Entry { location: name.clone(), name, size: 1, state: State::Good(facts) }
    }

    #[test]
    fn only_old_whole_snapshots_of_this_node_and_base_are_surplus() {
        let mut entries: Vec<_> = (1..=4).map(|time| entry("snapshot", "edge", time)).collect();
        entries.push(entry("snapshot", "edge-2", 0));
        entries.push(entry("before-upgrade", "edge", 0));
        let bad = State::Bad { error: "damaged".into() };
        entries.push(Entry { name: "snapshot-edge-0".into(), location: String::new(), size: 1, state: bad });
        let names = |keep| -> Vec<_> {
            surplus(&entries, "snapshot", "edge", keep).iter().map(|entry| entry.name.clone()).collect()
        };
        assert_eq!(names(2), ["snapshot-edge-2", "snapshot-edge-1"]);
        assert!(names(4).is_empty() && names(0).len() == 4);
        sort(&mut entries);
        assert_eq!((entries[0].name.as_str(), entries[6].facts()), ("snapshot-edge-4", None));
    }

    #[test]
    fn names_lead_nowhere_else() {
        for bad in ["", ".", "..", "a/b", "../a", ".hidden", "-rf", "a b", "a\n"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_name(&name("snapshot", "edge-1.lab", 1_700_000_000)));
    }

    #[test]
    fn what_is_foreign_is_listed_with_the_reason_and_stays() {
        let folder = std::env::temp_dir().join(format!("rk-snapshot-folder-{}", std::process::id()));
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("photo"), "jpeg").unwrap();
        fs::write(folder.join(".snapshot-a-1.tmp"), "half").unwrap();
        let found = list(&folder).unwrap();
        let errors: Vec<_> = found.iter().map(|entry| serde_json::to_value(entry).unwrap()["error"].clone()).collect();
        assert_eq!(found.len(), 2);
        assert!(errors.iter().any(|error| error.as_str().unwrap().contains("not a snapshot of rk")), "{errors:?}");
        assert!(prune(&folder, "snapshot", "a", 0).unwrap().is_empty() && folder.join("photo").exists());
        sweep(&folder).unwrap();
        assert!(!folder.join(".snapshot-a-1.tmp").exists() && folder.join("photo").exists());
        assert!(list(&folder.join("none")).unwrap().is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }
}
