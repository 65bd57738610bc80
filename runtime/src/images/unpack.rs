//! Unpacking a layer's tar into a folder that becomes a lower directory of overlay mounts.
//!
//! Safe against what a hostile tar holds: every path is looked up with the layer's folder as root (openat2,
//! RESOLVE_IN_ROOT), the last component is never followed, and `..` is refused. Whiteouts become overlayfs' own:
//! a character device 0/0, and the attribute `trusted.overlay.opaque` (OCI image-spec, "Layer Filesystem Changeset").

mod below;

use super::ImageError;
use super::compression::decompress;
use super::digest::Hashing;
use crate::sys::fs::{Confine, get_xattr, open_confined, set_xattr};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType, Header};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names beginning like this are aufs' own and mean nothing here.
const META: &[u8] = b".wh..wh.";
/// Says to overlayfs that a folder shows nothing of the layers below.
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
const PAX_XATTR: &str = "SCHILY.xattr.";

/// Unpacks into `into`, which is made. `parents` are the layers below, the topmost first. Returns the bytes of files.
pub(super) fn unpack(tar: impl Read, into: &Path, parents: &[PathBuf], diff_id: &str) -> Result<u64, ImageError> {
    fs::create_dir_all(into).map_err(ImageError::io(into))?;
    let broken = |offset: u64, entry: &str, error: &io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::NoSpace(into.to_path_buf()),
        _ => ImageError::BrokenArchive { entry: entry.to_owned(), offset, reason: error.to_string() },
    };
    let plain = decompress(tar).map_err(|error| broken(0, "", &error))?;
    let mut archive = Archive::new(Hashing::new(plain));
    let root = File::open(into).map_err(ImageError::io(into))?;
    let mut unpacker = Unpacker { root: root.into(), path: into, parents, bytes: 0, folder: None, folders: Vec::new() };
    let mut last = (0, String::new());
    for entry in archive.entries().map_err(|error| broken(0, "", &error))? {
        let mut entry = entry.map_err(|error| broken(last.0, &last.1, &error))?;
        last = (entry.raw_header_position(), String::from_utf8_lossy(&entry.path_bytes()).into_owned());
        unpacker.entry(&mut entry).map_err(|error| broken(last.0, &last.1, &error))?;
    }
    unpacker.finish().map_err(|error| broken(last.0, &last.1, &error))?;
    let bytes = unpacker.bytes;
    let (actual, _) = archive.into_inner().finish().map_err(|error| broken(last.0, &last.1, &error))?;
    if actual != diff_id {
        return Err(ImageError::DigestMismatch { what: "layer".into(), expected: diff_id.to_owned(), actual });
    }
    Ok(bytes)
}

struct Unpacker<'a> {
    root: OwnedFd,
    path: &'a Path,
    parents: &'a [PathBuf],
    bytes: u64,
    /// The folder of the last entry, open: neighbours come one after the other.
    folder: Option<(PathBuf, OwnedFd)>,
    /// Times of folders are set last, as filling a folder changes them.
    folders: Vec<(PathBuf, TimeSpec)>,
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// The entry's path without `/` and `.`; `..` is an error.
fn clean(path: &[u8]) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(invalid("its path leads out of the layer")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

/// Some writers leave number fields blank where they mean zero.
fn filled(field: &[u8], parse: impl Fn() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { parse() }
}

/// overlayfs' mark for what a layer removes: a character device 0/0.
fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<()> {
        let path = clean(&entry.path_bytes())?;
        let Some(name) = path.file_name().map(OsStr::to_os_string) else {
            // The layer's own root: only its attributes count.
            return self.attributes(entry, &PathBuf::new());
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&folder, name.as_bytes());
        }
        self.enter(&folder)?;
        self.make(entry, &folder, &name)?;
        self.attributes(entry, &path)
    }

    fn whiteout(&mut self, folder: &Path, name: &[u8]) -> io::Result<()> {
        if name == OPAQUE {
            self.enter(folder)?;
            return set_xattr(&self.magic(OsStr::new(".")), OVERLAY_OPAQUE, b"y");
        }
        if name.starts_with(META) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if hidden.is_empty() || matches!(hidden.as_bytes(), b"." | b"..") {
            return Err(invalid("it hides nothing"));
        }
        self.enter(folder)?;
        self.clear(hidden, false)?;
        mknodat(self.here(), hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?;
        Ok(())
    }

    /// Opens a folder of the layer, making what is missing of it as the layers below have it.
    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        if self.folder.as_ref().is_some_and(|(open, _)| open == folder) {
            return Ok(());
        }
        let fd = match self.open_folder(folder) {
            // Missing, or removed by a whiteout of this very layer.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.make_folders(folder)?;
                self.open_folder(folder)?
            }
            result => result?,
        };
        self.folder = Some((folder.to_path_buf(), fd));
        Ok(())
    }

    fn open_folder(&self, folder: &Path) -> io::Result<OwnedFd> {
        open_confined(&self.root, folder, libc::O_RDONLY | libc::O_DIRECTORY, 0, Confine::InRoot)
    }

    fn make_folders(&mut self, folder: &Path) -> io::Result<()> {
        let mut done = PathBuf::new();
        for component in folder {
            let parent = self.open_folder(&done)?;
            done.push(component);
            let own = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(component);
            let at = Some(parent.as_raw_fd());
            let replaces = is_whiteout(&own);
            if replaces {
                unlinkat(at, component, UnlinkatFlags::NoRemoveDir)?;
            }
            match mkdirat(at, component, Mode::from_bits_truncate(0o755)) {
                Err(nix::errno::Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
                Ok(()) if replaces => set_xattr(&own, OVERLAY_OPAQUE, b"y")?,
                Ok(()) => self.copy_from_below(&done, &parent, component)?,
            }
        }
        Ok(())
    }

    /// A folder the tar takes for granted keeps the owner, mode and attributes it has below.
    fn copy_from_below(&self, path: &Path, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        for below in self.parents {
            let root = File::open(below)?;
            let Ok(fd) = open_confined(&root, path, libc::O_RDONLY | libc::O_DIRECTORY, 0, Confine::NoLinks) else {
                continue;
            };
            let metadata = File::from(fd).metadata()?;
            let at = Some(parent.as_raw_fd());
            let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
            fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let mode = Mode::from_bits_truncate(metadata.mode() & 0o7777);
            fchmodat(at, name, mode, FchmodatFlags::FollowSymlink)?;
            let own = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
            for attribute in ["security.capability", "system.posix_acl_access", "system.posix_acl_default"] {
                if let Ok(value) = get_xattr(&below.join(path), attribute) {
                    set_xattr(&own, attribute, &value)?;
                }
            }
            return Ok(());
        }
        Ok(())
    }

    /// The open folder, for the `*at` calls.
    fn here(&self) -> Option<i32> {
        Some(self.folder.as_ref().map_or_else(|| self.root.as_raw_fd(), |(_, fd)| fd.as_raw_fd()))
    }

    /// A path to something in the open folder for calls that take no descriptor.
    fn magic(&self, name: &OsStr) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.here().unwrap_or_default())).join(name)
    }

    /// Removes what an earlier entry has put at the name. A folder may stay when it is to be a folder again.
    fn clear(&mut self, name: &OsStr, keep_folder: bool) -> io::Result<()> {
        let path = self.magic(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(()) };
        if !metadata.is_dir() {
            unlinkat(self.here(), name, UnlinkatFlags::NoRemoveDir)?;
        } else if !keep_folder {
            fs::remove_dir_all(&path)?;
        }
        Ok(())
    }

    fn make<R: Read>(&mut self, entry: &mut Entry<'_, R>, folder: &Path, name: &OsStr) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let was_hidden = is_whiteout(&self.magic(name));
        self.clear(name, kind.is_dir())?;
        match kind {
            EntryType::Directory => {
                self.make_folder(folder, name)?;
                // What the whiteout hid is not to come back through the folder that takes its place.
                if was_hidden { set_xattr(&self.magic(name), OVERLAY_OPAQUE, b"y") } else { Ok(()) }
            }
            EntryType::Symlink => {
                let target = OsString::from_vec(entry.link_name_bytes().unwrap_or_default().into_owned());
                symlinkat(target.as_os_str(), self.here(), name)?;
                Ok(())
            }
            EntryType::Link => self.make_link(&entry.link_name_bytes().unwrap_or_default(), folder, name),
            EntryType::Char => self.make_node(entry.header(), name, SFlag::S_IFCHR),
            EntryType::Block => self.make_node(entry.header(), name, SFlag::S_IFBLK),
            EntryType::Fifo => self.make_node(entry.header(), name, SFlag::S_IFIFO),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.make_file(entry, name),
            other => Err(invalid(&format!("entries of type {other:?} are not supported"))),
        }
    }

    fn make_folder(&mut self, folder: &Path, name: &OsStr) -> io::Result<()> {
        match mkdirat(self.here(), name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // What the open folder stands for may have been a link until now.
        if self.folder.as_ref().is_some_and(|(open, _)| open.starts_with(folder.join(name))) {
            self.folder = None;
        }
        Ok(())
    }

    fn make_link(&mut self, target: &[u8], folder: &Path, name: &OsStr) -> io::Result<()> {
        let target = clean(target)?;
        if target.file_name().is_none() {
            return Err(invalid("it links to a folder"));
        }
        match self.link(&target, name) {
            // What a layer links to may lie in one below: it is brought up, as a running overlay would.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.copy_up(&target)? {
                    let reason = format!("the hard link's target {} is in no layer", target.display());
                    return Err(invalid(&reason));
                }
                self.enter(folder)?;
                self.link(&target, name)
            }
            linked => linked,
        }
    }

    fn link(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        let folder = self.open_folder(target.parent().unwrap_or(Path::new("")))?;
        let file = target.file_name().unwrap_or_default();
        Ok(linkat(Some(folder.as_raw_fd()), file, self.here(), name, AtFlags::empty())?)
    }

    fn make_node(&mut self, header: &Header, name: &OsStr, kind: SFlag) -> io::Result<()> {
        let device = kind != SFlag::S_IFIFO;
        let major = if device { header.device_major()?.unwrap_or(0) } else { 0 };
        let minor = if device { header.device_minor()?.unwrap_or(0) } else { 0 };
        mknodat(self.here(), name, kind, Mode::empty(), makedev(major.into(), minor.into()))?;
        Ok(())
    }

    fn make_file<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &OsStr) -> io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let folder = self.folder.as_ref().map_or(&self.root, |(_, fd)| fd);
        let mut file = File::from(open_confined(folder, Path::new(name), flags, 0o600, Confine::NoLinks)?);
        self.bytes += io::copy(entry, &mut file)?;
        Ok(())
    }

    fn attributes<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::Link {
            return Ok(());
        }
        let (folder, name) = match path.file_name() {
            Some(name) => (path.parent().unwrap_or(Path::new("")).to_path_buf(), name.to_os_string()),
            None => (PathBuf::new(), OsString::from(".")),
        };
        self.enter(&folder)?;
        let header = entry.header();
        let number = |n: u64| u32::try_from(n).map_err(|_| invalid("its owner's number is too large"));
        let raw = header.as_old();
        let uid = Uid::from_raw(number(filled(&raw.uid, || header.uid())?)?);
        let gid = Gid::from_raw(number(filled(&raw.gid, || header.gid())?)?);
        let (mode, mtime) = (header.mode()? & 0o7777, filled(&raw.mtime, || header.mtime())?);
        fchownat(self.here(), name.as_os_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        self.extended_attributes(entry, &name)?;
        let time = TimeSpec::new(i64::try_from(mtime).unwrap_or(0), 0);
        if kind != EntryType::Symlink {
            let mode = Mode::from_bits_truncate(mode);
            fchmodat(self.here(), name.as_os_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if kind.is_dir() {
            self.folders.push((path.to_path_buf(), time));
        } else {
            let at = self.here();
            utimensat(at, name.as_os_str(), &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
        Ok(())
    }

    fn extended_attributes<R: Read>(&self, entry: &mut Entry<'_, R>, name: &OsStr) -> io::Result<()> {
        let path = self.magic(name);
        let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
        for extension in extensions {
            let extension = extension?;
            let Some(attribute) = extension.key().ok().and_then(|key| key.strip_prefix(PAX_XATTR)) else { continue };
            // These are overlayfs' own marks; a layer that could set them could show what is not its.
            if attribute.starts_with("trusted.overlay.") {
                continue;
            }
            match set_xattr(&path, attribute, extension.value_bytes()) {
                // A file system without user attributes on links or devices.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let root = self.root.try_clone()?;
        for (path, time) in self.folders.iter().rev() {
            let Ok(folder) = open_confined(&root, path, libc::O_RDONLY | libc::O_DIRECTORY, 0, Confine::NoLinks) else {
                // A later entry has put something else there.
                continue;
            };
            nix::sys::stat::futimens(folder.as_raw_fd(), time, time)?;
        }
        tracing::trace!(path = ?self.path, bytes = self.bytes, "layer unpacked");
        Ok(())
    }
}
