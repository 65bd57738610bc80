//! Who a process runs as, by the image's own /etc/passwd and /etc/group.

use crate::spec::UserSpec;
use serde::{Deserialize, Serialize};

/// A user in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resolved {
    pub uid: u32,
    pub gid: u32,
    /// All supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [name, _, uid, gid, _, home, ..] => {
                Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
            }
            _ => None,
        }
    })
}

/// (name, gid, members)
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [name, _, gid, members, ..] => Some((name, gid.parse().ok()?, members)),
            _ => None,
        }
    })
}

/// `image_user` is the image's `User` field, used when the spec names nobody.
pub(crate) fn resolve(spec: &UserSpec, image_user: &str, passwd: &str, group: &str) -> Result<Resolved, UserError> {
    let text = spec.username.as_deref().unwrap_or(if spec.uid.is_some() { "" } else { image_user });
    let (user, named_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let entry = match (spec.uid, user.parse::<u32>()) {
        (Some(uid), _) | (None, Ok(uid)) => passwd_entries(passwd).find(|e| e.uid == uid),
        (None, Err(_)) if user.is_empty() => passwd_entries(passwd).find(|e| e.uid == 0),
        (None, Err(_)) => {
            Some(passwd_entries(passwd).find(|e| e.name == user).ok_or_else(|| UserError::NoUser(user.to_owned()))?)
        }
    };
    let uid = match (spec.uid, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) => user.parse().unwrap_or(0),
    };
    let gid = match (spec.gid, named_group) {
        (Some(gid), _) => gid,
        (None, Some(named)) => find_group(named, group)?,
        (None, None) => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups = vec![gid];
    let listed = group_entries(group)
        .filter(|(_, _, members)| entry.as_ref().is_some_and(|e| members.split(',').any(|m| m == e.name)))
        .map(|(_, gid, _)| gid)
        // A group given outright replaces those the file lists, as `user:group` does in engines.
        .filter(|_| !spec.strict_supplementary && named_group.is_none());
    for extra in spec.supplementary.iter().copied().chain(listed) {
        if !groups.contains(&extra) {
            groups.push(extra);
        }
    }
    let home = entry.map_or("/", |e| e.home);
    Ok(Resolved { uid, gid, groups, home: if home.is_empty() { "/" } else { home }.to_owned() })
}

fn find_group(name: &str, group: &str) -> Result<u32, UserError> {
    if let Some((_, gid, _)) = group_entries(group).find(|(n, ..)| *n == name) {
        return Ok(gid);
    }
    name.parse().map_err(|_| UserError::NoGroup(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\ndisk:x:6:web,other\n";

    fn named(name: &str) -> UserSpec {
        UserSpec { username: Some(name.into()), ..UserSpec::default() }
    }

    #[test]
    fn nobody_named_means_root() {
        let user = resolve(&UserSpec::default(), "", PASSWD, GROUP).unwrap();
        assert_eq!(user, Resolved { uid: 0, gid: 0, groups: vec![0], home: "/root".into() });
        assert_eq!(resolve(&UserSpec::default(), "", "", "").unwrap().home, "/");
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let user = resolve(&UserSpec::default(), "web", PASSWD, GROUP).unwrap();
        assert_eq!(user, Resolved { uid: 33, gid: 34, groups: vec![34, 6], home: "/var/www".into() });
    }

    #[test]
    fn numbers_need_no_entry() {
        let spec = UserSpec { uid: Some(1000), supplementary: vec![7], ..UserSpec::default() };
        let user = resolve(&spec, "web", PASSWD, GROUP).unwrap();
        assert_eq!(user, Resolved { uid: 1000, gid: 0, groups: vec![0, 7], home: "/".into() });
        assert_eq!(resolve(&named("1234:56"), "", PASSWD, GROUP).unwrap().gid, 56);
    }

    #[test]
    fn strict_groups_leave_out_the_files() {
        let spec = UserSpec { strict_supplementary: true, ..named("web") };
        assert_eq!(resolve(&spec, "", PASSWD, GROUP).unwrap().groups, [34]);
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!(resolve(&named("ghost"), "", PASSWD, GROUP), Err(UserError::NoUser("ghost".into())));
        assert_eq!(resolve(&named("web:ghosts"), "", PASSWD, GROUP), Err(UserError::NoGroup("ghosts".into())));
    }
}
