//! `fsGroup`: gives a volume's files to the pod's group.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Gives everything below `root` to `group`, readable and writable for it, and makes new files inherit it. With
/// `on_mismatch`, only when the root itself is not already so.
pub(crate) fn give(root: &Path, group: u32, on_mismatch: bool) -> io::Result<()> {
    const GROUP_DIRECTORY: u32 = 0o2770;
    let top = fs::metadata(root)?;
    if on_mismatch && top.gid() == group && top.mode() & GROUP_DIRECTORY == GROUP_DIRECTORY {
        return Ok(());
    }
    let mut open = vec![root.to_owned()];
    while let Some(next) = open.pop() {
        let meta = fs::symlink_metadata(&next)?;
        lchown(&next, None, Some(group))?;
        if meta.is_symlink() {
            continue;
        }
        let extra = if meta.is_dir() { GROUP_DIRECTORY & !0o700 } else { 0o060 };
        fs::set_permissions(&next, fs::Permissions::from_mode(meta.mode() & 0o7777 | extra))?;
        if meta.is_dir() {
            for entry in fs::read_dir(&next)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}
