//! Seccomp profiles in the JSON form container engines share, compiled to BPF without a C library.
//!
//! One filter has one action besides "allow", so a profile with several becomes a stack of filters: the kernel takes
//! the strictest answer of all. The default profile is data (`default.json`). Programs of another architecture than
//! this build's (32-bit ones on a 64-bit machine) are killed by any filter. Used by the shim's forked children.

mod syscalls;

use crate::bundle::capability;
use crate::spec::SeccompProfile;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

const DEFAULT_PROFILE: &str = include_str!("seccomp/default.json");
/// System calls newer than those known here answer ENOSYS, so that programs fall back; EPERM they take for final.
const FUTURE_CALLS: i64 = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("seccomp profile {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("seccomp profile is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("seccomp action {0:?} is not supported")]
    Action(String),
    #[error("seccomp comparison {0:?} is not supported")]
    Comparison(String),
    #[error("seccomp filter: {0}")]
    Filter(#[from] BackendError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Older profiles have one `name` instead.
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

/// Rules by system call; an empty list matches whatever the arguments are.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters for a process that will have `capabilities`.
pub(crate) fn compile(profile: &SeccompProfile, capabilities: u64) -> Result<Vec<BpfProgram>, SeccompError> {
    match profile {
        SeccompProfile::Unconfined => Ok(Vec::new()),
        SeccompProfile::RuntimeDefault => compile_profile(&serde_json::from_str(DEFAULT_PROFILE)?, capabilities),
        SeccompProfile::Localhost(path) => {
            let text = std::fs::read(path).map_err(|source| SeccompError::Read { path: path.clone(), source })?;
            compile_profile(&serde_json::from_slice(&text)?, capabilities)
        }
    }
}

fn compile_profile(profile: &Profile, capabilities: u64) -> Result<Vec<BpfProgram>, SeccompError> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut allowed = Rules::new();
    let mut others: Vec<(SeccompAction, Rules)> = Vec::new();
    for entry in profile.syscalls.iter().filter(|entry| applies(entry, capabilities)) {
        let action = action(&entry.action, entry.errno_ret.or(profile.default_errno_ret))?;
        if action == default {
            continue;
        }
        add_entry(&mut allowed, entry)?;
        if action != SeccompAction::Allow {
            add_entry(group(&mut others, action), entry)?;
        }
    }
    let mut filters = Vec::new();
    if default != SeccompAction::Allow {
        if matches!(default, SeccompAction::Errno(_)) {
            let future = (1..=FUTURE_CALLS).map(|n| syscalls::highest() + n);
            let enosys = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
            for number in future {
                allowed.insert(number, Vec::new());
                group(&mut others, enosys.clone()).insert(number, Vec::new());
            }
        }
        filters.push(build(allowed, default, SeccompAction::Allow)?);
    }
    for (action, rules) in others {
        filters.push(build(rules, SeccompAction::Allow, action)?);
    }
    Ok(filters)
}

fn group(groups: &mut Vec<(SeccompAction, Rules)>, action: SeccompAction) -> &mut Rules {
    let place = groups.iter().position(|(a, _)| *a == action).unwrap_or_else(|| {
        groups.push((action, Rules::new()));
        groups.len() - 1
    });
    &mut groups[place].1
}

fn build(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, arch)?.try_into()?)
}

fn applies(entry: &Entry, capabilities: u64) -> bool {
    let has = |names: &[String]| names.iter().any(|n| capability::bit(n).is_some_and(|bit| capabilities & bit != 0));
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let here = |arches: &[String]| arches.iter().any(|a| a == arch);
    (entry.includes.caps.is_empty() || has(&entry.includes.caps))
        && !has(&entry.excludes.caps)
        && (entry.includes.arches.is_empty() || here(&entry.includes.arches))
        && !here(&entry.excludes.arches)
}

fn add_entry(rules: &mut Rules, entry: &Entry) -> Result<(), SeccompError> {
    // Names this architecture lacks are left out, as profiles list those of all.
    for number in entry.names.iter().chain(&entry.name).filter_map(|name| syscalls::number(name)) {
        match entry.args.as_deref() {
            None | Some([]) => {
                rules.insert(number, Vec::new());
            }
            Some(args) => {
                let unconditional = rules.get(&number).is_some_and(Vec::is_empty);
                if !unconditional {
                    rules.entry(number).or_default().push(SeccompRule::new(conditions(args)?)?);
                }
            }
        }
    }
    Ok(())
}

fn conditions(args: &[Argument]) -> Result<Vec<SeccompCondition>, SeccompError> {
    args.iter()
        .map(|arg| {
            let (op, value) = match arg.op.as_str() {
                "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, arg.value),
                "SCMP_CMP_NE" => (SeccompCmpOp::Ne, arg.value),
                "SCMP_CMP_LT" => (SeccompCmpOp::Lt, arg.value),
                "SCMP_CMP_LE" => (SeccompCmpOp::Le, arg.value),
                "SCMP_CMP_GT" => (SeccompCmpOp::Gt, arg.value),
                "SCMP_CMP_GE" => (SeccompCmpOp::Ge, arg.value),
                "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two),
                other => return Err(SeccompError::Comparison(other.to_owned())),
            };
            Ok(SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, op, value)?)
        })
        .collect()
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, SeccompError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(libc::EPERM.cast_unsigned())),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(libc::EPERM.cast_unsigned())),
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        other => return Err(SeccompError::Action(other.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_compiles_to_a_list_and_one_for_enosys() {
        let filters = compile(&SeccompProfile::RuntimeDefault, 0).unwrap();
        assert_eq!(filters.len(), 2);
        assert!(filters.iter().all(|f| f.len() < 4096));
    }

    #[test]
    fn capabilities_open_their_calls() {
        let profile: Profile = serde_json::from_str(DEFAULT_PROFILE).unwrap();
        let mount = profile.syscalls.iter().find(|e| e.names.iter().any(|n| n == "mount")).unwrap();
        assert!(!applies(mount, 0));
        assert!(applies(mount, capability::bit("SYS_ADMIN").unwrap()));
    }

    #[test]
    fn unconfined_means_no_filter() {
        assert!(compile(&SeccompProfile::Unconfined, 0).unwrap().is_empty());
    }

    #[test]
    fn unknown_actions_are_errors() {
        let profile: Profile = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap();
        assert!(matches!(compile_profile(&profile, 0), Err(SeccompError::Action(_))));
    }

    #[test]
    fn what_is_dangerous_is_not_in_the_default_list() {
        let profile: Profile = serde_json::from_str(DEFAULT_PROFILE).unwrap();
        let mut open = profile.syscalls.iter().filter(|e| applies(e, 0)).flat_map(|e| &e.names);
        assert!(!open.any(|n| ["mount", "bpf", "keyctl", "kexec_load", "userfaultfd"].contains(&n.as_str())));
    }
}
