//! Files of the layers below, for hard links to them.

use super::{OVERLAY_OPAQUE, Unpacker};
use crate::sys::fs::{Confine, get_xattr, open_confined, set_xattr};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A regular file of a layer below.
struct Source {
    file: File,
    metadata: Metadata,
    path: PathBuf,
}

/// What one layer says of a path.
enum Seen {
    File(Box<Source>),
    /// Nothing: the layers below that one decide.
    Nothing,
    /// It hides the path, or has something else there.
    Hidden,
}

impl Unpacker<'_> {
    /// Copies a file of the layers below into this one, with its attributes. False: there is none.
    pub(super) fn copy_up(&mut self, target: &Path) -> io::Result<bool> {
        let Some(Source { mut file, metadata, path }) = self.find_below(target)? else { return Ok(false) };
        let (Some(name), folder) = (target.file_name(), target.parent().unwrap_or(Path::new(""))) else {
            return Ok(false);
        };
        self.enter(folder)?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let into = self.folder.as_ref().map_or(&self.root, |(_, fd)| fd);
        let mut copy = File::from(open_confined(into, Path::new(name), flags, 0o600, Confine::NoLinks)?);
        self.bytes += io::copy(&mut file, &mut copy)?;
        let at = self.here();
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        for attribute in ["security.capability", "system.posix_acl_access"] {
            if let Ok(value) = get_xattr(&path, attribute) {
                set_xattr(&self.magic(name), attribute, &value)?;
            }
        }
        fchmodat(at, name, Mode::from_bits_truncate(metadata.mode() & 0o7777), FchmodatFlags::FollowSymlink)?;
        let time = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
        utimensat(at, name, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        Ok(true)
    }

    fn find_below(&self, target: &Path) -> io::Result<Option<Source>> {
        for layer in self.parents {
            match look(layer, target)? {
                Seen::File(source) => return Ok(Some(*source)),
                Seen::Nothing => {}
                Seen::Hidden => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Looks a path up in one layer, component by component: each may be hidden there. Links are not followed.
fn look(layer: &Path, target: &Path) -> io::Result<Seen> {
    let root = File::open(layer)?;
    let mut walked = PathBuf::new();
    let mut opaque = false;
    for component in target {
        walked.push(component);
        let entry = match open_confined(&root, &walked, libc::O_PATH | libc::O_NOFOLLOW, 0, Confine::NoLinks) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !opaque => return Ok(Seen::Nothing),
            Err(_) => return Ok(Seen::Hidden),
            Ok(entry) => File::from(entry),
        };
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        if kind.is_file() && walked == target {
            let file = open_confined(&root, &walked, libc::O_RDONLY | libc::O_NOFOLLOW, 0, Confine::NoLinks)?;
            return Ok(Seen::File(Box::new(Source { file: file.into(), metadata, path: layer.join(&walked) })));
        }
        if !kind.is_dir() {
            return Ok(Seen::Hidden);
        }
        opaque |= get_xattr(&layer.join(&walked), OVERLAY_OPAQUE).is_ok_and(|mark| mark == b"y");
    }
    Ok(Seen::Hidden)
}
