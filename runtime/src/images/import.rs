//! docker-archive and OCI-archive tars, read as a stream.
//!
//! The manifest may come last, so every file is set aside first and looked up by name afterwards. Both layouts can be
//! in one archive (docker since 25 writes both); docker's manifest.json, which knows full names, then wins.

use super::digest::{self, Hashing};
use super::manifest::{self, ConfigFile, Descriptor, DockerEntry, Document};
use super::sniff;
use super::store::{Store, layer_folders, remove_all};
use super::{ImageError, ImageRecord, ImageRef};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tar::{Archive, Entry, EntryType};

const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Links in archives point at files; a longer chain is a loop.
const MAX_LINKS: usize = 8;
/// Indexes within indexes; by way of a link one can even name itself.
const MAX_NESTING: usize = 4;

pub(super) fn import(store: &Arc<Store>, archive: impl Read) -> Result<Vec<ImageRecord>, ImageError> {
    let folder = store.temporary(&store.ingest_folder());
    fs::create_dir_all(&folder).map_err(ImageError::io(&folder))?;
    let result = Contents::read(archive, &folder).and_then(|contents| contents.register(store));
    remove_all(&folder);
    result
}

/// The files of an archive, set aside.
struct Contents {
    files: HashMap<PathBuf, PathBuf>,
    links: HashMap<PathBuf, PathBuf>,
}

fn broken(entry: &str, offset: u64, folder: &Path, error: &io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace(folder.to_path_buf()),
        _ => ImageError::BrokenArchive { entry: entry.to_owned(), offset, reason: error.to_string() },
    }
}

/// Resolves `.` and `..` by name only; these paths are keys, never opened.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            _ => {}
        }
    }
    normal
}

impl Contents {
    fn read(archive: impl Read, folder: &Path) -> Result<Self, ImageError> {
        let tar = sniff::tar_in(archive).map_err(|error| broken("", 0, folder, &error))?;
        let mut archive = Archive::new(tar.map_err(|found| ImageError::NotAnArchive { found })?);
        let mut contents = Self { files: HashMap::new(), links: HashMap::new() };
        let mut last = (0, String::new());
        for entry in archive.entries().map_err(|error| broken("", 0, folder, &error))? {
            let mut entry = entry.map_err(|error| broken(&last.1, last.0, folder, &error))?;
            last = (entry.raw_header_position(), String::from_utf8_lossy(&entry.path_bytes()).into_owned());
            contents.take(&mut entry, folder).map_err(|error| match error {
                ImageError::Io { source, .. } => broken(&last.1, last.0, folder, &source),
                other => other,
            })?;
        }
        if contents.files.is_empty() {
            return Err(ImageError::UnknownArchive("the input".into()));
        }
        Ok(contents)
    }

    fn take(&mut self, entry: &mut Entry<'_, impl Read>, folder: &Path) -> Result<(), ImageError> {
        let at = ImageError::io(folder);
        let path = normal(&entry.path().map_err(&at)?);
        match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name().map_err(&at)?.unwrap_or_default().into_owned();
                let base = match entry.header().entry_type() {
                    EntryType::Symlink => path.parent().unwrap_or(Path::new("")),
                    _ => Path::new(""),
                };
                self.links.insert(path.clone(), normal(&base.join(target)));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let aside = folder.join(self.files.len().to_string());
                let mut file = File::create(&aside).map_err(&at)?;
                match path.strip_prefix("blobs/sha256") {
                    Ok(name) => {
                        let mut hashing = Hashing::new(&mut *entry);
                        io::copy(&mut hashing, &mut file).map_err(&at)?;
                        let (actual, _) = hashing.finish().map_err(&at)?;
                        let expected = format!("sha256:{}", name.display());
                        if actual != expected {
                            let what = format!("archive entry {}", path.display());
                            return Err(ImageError::DigestMismatch { what, expected, actual });
                        }
                    }
                    Err(_) => {
                        io::copy(entry, &mut file).map_err(&at)?;
                    }
                }
                self.files.insert(path, aside);
            }
            _ => {}
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> Option<&Path> {
        let mut path = normal(path);
        for _ in 0..MAX_LINKS {
            if let Some(file) = self.files.get(&path) {
                return Some(file);
            }
            path.clone_from(self.links.get(&path)?);
        }
        None
    }

    fn open(&self, path: &Path) -> Result<File, ImageError> {
        let aside = self.find(path).ok_or_else(|| ImageError::Malformed {
            what: "archive".into(),
            reason: format!("{} is named in its manifest but missing", path.display()),
        })?;
        File::open(aside).map_err(ImageError::io(aside))
    }

    fn document(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let mut file = self.open(path)?.take(manifest::MAX_DOCUMENT);
        file.read_to_end(&mut bytes).map_err(ImageError::io(path))?;
        Ok(bytes)
    }

    fn register(&self, store: &Arc<Store>) -> Result<Vec<ImageRecord>, ImageError> {
        if self.find(Path::new("manifest.json")).is_some() {
            let entries: Vec<DockerEntry> =
                manifest::parse("manifest.json", &self.document(Path::new("manifest.json"))?)?;
            return entries.iter().map(|entry| self.docker_image(store, entry)).collect();
        }
        if self.find(Path::new("index.json")).is_none() {
            return Err(ImageError::UnknownArchive("the input".into()));
        }
        let index: Document = manifest::parse("index.json", &self.document(Path::new("index.json"))?)?;
        // Entries of one name are platforms of one image.
        let mut by_name: Vec<(Option<String>, Vec<Descriptor>)> = Vec::new();
        for descriptor in index.manifests {
            let name = name_of(&descriptor);
            match by_name.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(descriptor),
                None => by_name.push((name, vec![descriptor])),
            }
        }
        by_name.iter().map(|(name, all)| self.oci_image(store, name.as_deref(), all)).collect()
    }

    fn docker_image(&self, store: &Arc<Store>, entry: &DockerEntry) -> Result<ImageRecord, ImageError> {
        let names = entry
            .repo_tags
            .iter()
            .map(|tag| Ok(tag.parse::<ImageRef>()?.tagged_name().unwrap_or_default()))
            .collect::<Result<Vec<_>, ImageError>>()?;
        let config = self.document(Path::new(&entry.config))?;
        let layers: Vec<PathBuf> = entry.layers.iter().map(PathBuf::from).collect();
        self.image(store, &config, &layers, &names, None)
    }

    fn oci_image(
        &self,
        store: &Arc<Store>,
        name: Option<&str>,
        choices: &[Descriptor],
    ) -> Result<ImageRecord, ImageError> {
        let what = name.unwrap_or("index.json");
        let mut descriptor = match choices {
            [only] => only.clone(),
            _ => manifest::choose(what, choices)?.clone(),
        };
        let mut document: Document = manifest::parse(&descriptor.digest, &self.blob(&descriptor.digest)?)?;
        // An entry may itself be the index of an image for several platforms.
        for _ in 0..MAX_NESTING {
            if document.config.is_some() || document.manifests.is_empty() {
                break;
            }
            descriptor = manifest::choose(what, &document.manifests)?.clone();
            document = manifest::parse(&descriptor.digest, &self.blob(&descriptor.digest)?)?;
        }
        let Some(config) = &document.config else {
            return Err(ImageError::Malformed { what: descriptor.digest, reason: "it names no config".into() });
        };
        let layers = document.layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Result<Vec<_>, _>>()?;
        let name = name.map(str::parse::<ImageRef>).transpose()?;
        let names: Vec<String> = name.iter().filter_map(ImageRef::tagged_name).collect();
        let repo_digest = name.map(|name| format!("{}@{}", name.repository(), descriptor.digest));
        self.image(store, &self.blob(&config.digest)?, &layers, &names, repo_digest)
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        self.document(&blob_path(digest)?)
    }

    fn image(
        &self,
        store: &Arc<Store>,
        config_bytes: &[u8],
        layers: &[PathBuf],
        names: &[String],
        repo_digest: Option<String>,
    ) -> Result<ImageRecord, ImageError> {
        let what = names.first().map_or("image config", String::as_str);
        let config: ConfigFile = manifest::parse(what, config_bytes)?;
        config.check_platform(what)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            let reason = format!("{} layers, but its config lists {}", layers.len(), diff_ids.len());
            return Err(ImageError::Malformed { what: what.to_owned(), reason });
        }
        let chain = digest::chain_ids(diff_ids);
        let _lease = Store::lease(store, &layer_folders(diff_ids));
        for (index, path) in layers.iter().enumerate() {
            if !store.has_layer(&chain[index]) {
                store.add_layer(diff_ids, index, self.open(path)?)?;
            }
        }
        let id = digest::of(config_bytes);
        store.write_blob(&id, config_bytes)?;
        // Pinned: perhaps no registry has it, and whoever imported it may be without one.
        let record = store.register(&id, &config, names, repo_digest, true)?;
        // Told are the names that the archive brings; the image may have had others before.
        Ok(ImageRecord { names: names.to_vec(), ..record })
    }
}

fn blob_path(digest: &str) -> Result<PathBuf, ImageError> {
    let hex = digest::hex(digest).ok_or_else(|| super::store::bad_digest(digest))?;
    Ok(Path::new("blobs/sha256").join(hex))
}

/// A bare tag is no name: it does not say of what.
fn name_of(descriptor: &Descriptor) -> Option<String> {
    let name = NAME_ANNOTATIONS.iter().find_map(|key| descriptor.annotations.get(*key))?;
    name.contains(['/', ':']).then(|| name.clone())
}
