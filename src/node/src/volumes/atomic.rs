//! Writes a volume's files so that readers see all of the old or all of the new.
//!
//! The files live in a hidden folder `..<stamp>`; `..data` is a symlink to it, swapped by rename; each visible name is
//! a symlink through `..data`. It is the layout programs watch for changes of configuration.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `target` show exactly `payload`; returns whether anything had to change. `stamp` names the new folder and
/// must not have been used in this volume before.
pub(crate) fn write(target: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    let data = target.join(DATA);
    let current = fs::read_link(&data).ok().map(|name| target.join(name));
    if current.as_deref().is_some_and(|folder| shows(folder, payload)) {
        // A crash after the swap may have left the visible names behind.
        link_names(target, payload)?;
        return Ok(false);
    }
    let folder = target.join(format!("..{stamp}"));
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let at = folder.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, &file.content)?;
        // The group reads what the owner reads.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        if file.owner.is_some() || group.is_some() {
            chown(&at, file.owner, group)?;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    let new = target.join(DATA_NEW);
    remove_if_there(&new)?;
    symlink(folder.file_name().unwrap_or_default(), &new)?;
    fs::rename(&new, &data)?;
    link_names(target, payload)?;
    if let Some(old) = current {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

/// Whether the folder holds these files with this content.
fn shows(folder: &Path, payload: &Payload) -> bool {
    let Ok(present) = list(folder) else { return false };
    present.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            let at = folder.join(path);
            let owner = || fs::metadata(&at).map(|m| m.uid()).ok();
            fs::read(&at).is_ok_and(|content| content == file.content)
                && file.owner.is_none_or(|wanted| owner() == Some(wanted))
        })
}

/// All files below a folder.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    Ok(found)
}

fn link_names(target: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<OsString> =
        payload.keys().filter_map(|path| path.split('/').next()).map(OsString::from).collect();
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with("..");
        if !hidden && !wanted.contains(&name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let at = target.join(&name);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new(DATA).join(&name), at)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File { content: content.as_bytes().to_vec(), mode: 0o640, owner: None };
        files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.retain(|n| !n.starts_with(".."));
        all.sort();
        all
    }

    #[test]
    fn updates_swap_everything_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert!(write(at, &payload(&[("a", "1"), ("d/b", "2")]), None, "1").unwrap());
        assert_eq!(names(at), ["a", "d"]);
        assert_eq!(fs::read_to_string(at.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(at.join("a")).unwrap().mode() & 0o777, 0o640);
        assert!(!write(at, &payload(&[("a", "1"), ("d/b", "2")]), None, "2").unwrap(), "nothing changed");
        assert!(write(at, &payload(&[("a", "9"), ("c", "3")]), None, "3").unwrap());
        assert_eq!(names(at), ["a", "c"]);
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "9");
        assert_eq!(fs::read_link(at.join("..data")).unwrap(), Path::new("..3"));
        assert!(!at.join("..1").exists());
    }

    #[test]
    fn names_lost_in_a_crash_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let files = payload(&[("a", "1")]);
        write(folder.path(), &files, None, "1").unwrap();
        fs::remove_file(folder.path().join("a")).unwrap();
        assert!(!write(folder.path(), &files, None, "2").unwrap());
        assert_eq!(names(folder.path()), ["a"]);
    }
}
