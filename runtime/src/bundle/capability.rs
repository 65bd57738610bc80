//! Names of capabilities and the sets containers get.

use crate::spec::Capabilities;

/// In the kernel's order: the index is the capability's number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What container engines give by default.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const ALL: u64 = (1 << NAMES.len()) - 1;

/// The bit of a capability, by its name with or without `CAP_`, in any case.
pub(crate) fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|n| *n == name).map(|number| 1 << number)
}

/// The set after additions and removals; the error is the first unknown name.
pub(crate) fn resolve(changes: &Capabilities, privileged: bool) -> Result<u64, String> {
    if privileged {
        return Ok(ALL);
    }
    let is_all = |name: &&String| name.eq_ignore_ascii_case("all");
    let mut set = DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit);
    if changes.add.iter().any(|n| is_all(&n)) {
        set = ALL;
    }
    if changes.drop.iter().any(|n| is_all(&n)) {
        set = 0;
    }
    for name in changes.add.iter().filter(|n| !is_all(n)) {
        set |= bit(name).ok_or_else(|| name.clone())?;
    }
    for name in changes.drop.iter().filter(|n| !is_all(n)) {
        set &= !bit(name).ok_or_else(|| name.clone())?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(add: &[&str], drop: &[&str]) -> Capabilities {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Capabilities { add: own(add), drop: own(drop) }
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        assert_eq!(resolve(&changes(&["NET_BIND_SERVICE"], &["ALL"]), false), Ok(1 << 10));
    }

    #[test]
    fn adding_all_still_honours_single_drops() {
        let set = resolve(&changes(&["all"], &["CAP_SYS_ADMIN"]), false).unwrap();
        assert_eq!(set, ALL & !bit("SYS_ADMIN").unwrap());
    }

    #[test]
    fn unknown_names_are_named() {
        assert_eq!(resolve(&changes(&["FLY"], &[]), false), Err("FLY".to_owned()));
    }

    #[test]
    fn every_default_is_a_known_name() {
        assert!(DEFAULT.iter().all(|name| bit(name).is_some()));
        assert_eq!(bit("CAP_CHECKPOINT_RESTORE"), Some(1 << 40));
    }
}
