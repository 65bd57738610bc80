//! What is mounted below a folder, and taking it away. Called when a pod's volumes are set up and torn down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mount points at or below `root`, the newest first.
pub(crate) fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?, root))
}

fn parse(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut found: Vec<PathBuf> = points.map(PathBuf::from).filter(|p| p.starts_with(root)).collect();
    found.reverse();
    found
}

/// The kernel writes blanks and backslashes as octal.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    below(path).is_ok_and(|all| all.iter().any(|p| p == path))
}

/// A tmpfs at `path`, once.
pub(crate) fn tmpfs(path: &Path, size: Option<u64>) -> io::Result<()> {
    if is_mounted(path) {
        return Ok(());
    }
    let options = match size {
        Some(size) => format!("mode=0777,size={size}"),
        None => "mode=0777".to_owned(),
    };
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Unmounts everything at or below `root`, then deletes it. Never deletes through a mount that would not go.
pub(crate) fn clear(root: &Path) -> io::Result<()> {
    for point in below(root)? {
        umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    if let Some(left) = below(root)?.first() {
        let text = format!("{} is still mounted", left.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_below_a_folder_newest_first() {
        let table = "36 35 98:0 / /pods/u1/a rw - tmpfs tmpfs rw\n37 35 98:0 / /pods/u1/a/b\\040c rw - ext4 x rw\n\
                     38 35 98:0 / /pods/u10 rw - ext4 x rw\n";
        let found = parse(table, Path::new("/pods/u1"));
        assert_eq!(found, [Path::new("/pods/u1/a/b c"), Path::new("/pods/u1/a")]);
    }
}
