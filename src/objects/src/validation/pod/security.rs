//! Security contexts of pods and containers.

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext, Sysctl};

use super::volumes::local_descending_path;
use crate::field::{BadValue, Errors, Path};
use crate::validation::{one_of, shown};

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn id(errors: &mut Errors, path: &Path<'_>, id: Option<i64>) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, ID_RANGE);
    }
}

pub(super) fn pod(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec) {
    let Some(context) = &spec.security_context else { return };
    id(errors, &path.child("fsGroup"), context.fs_group);
    id(errors, &path.child("runAsUser"), context.run_as_user);
    id(errors, &path.child("runAsGroup"), context.run_as_group);
    let groups = path.child("supplementalGroups");
    for (n, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(errors, &groups.index(n), Some(*group));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    sysctls(errors, &path.child("sysctls"), spec, context.sysctls.as_deref().unwrap_or_default());
    let policies: [(&str, &Option<String>, &[&str]); 3] = [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
    ];
    for (field, value, supported) in policies {
        if let Some(value) = value {
            one_of(errors, &path.child(field), value, supported);
        }
    }
    seccomp(errors, &path.child("seccompProfile"), context.seccomp_profile.as_ref());
    app_armor(errors, &path.child("appArmorProfile"), context.app_armor_profile.as_ref());
}

fn is_sysctl_name(name: &str) -> bool {
    let part = |part: &str| {
        let ends = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(ends)
            && bytes.last().is_some_and(ends)
            && bytes.iter().all(|c| ends(c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn sysctls(errors: &mut Errors, path: &Path<'_>, spec: &PodSpec, sysctls: &[Sysctl]) {
    for (n, sysctl) in sysctls.iter().enumerate() {
        let item = path.index(n);
        let path = &item.child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(path, "");
        } else if !is_sysctl_name(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(path, name, detail);
        } else if sysctls[..n].iter().any(|earlier| earlier.name == name) {
            errors.duplicate(path, name);
        }
        let dotted = name.replace('/', ".");
        let ipc = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.invalid(path, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.host_ipc == Some(true) && ipc {
            errors.invalid(path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn seccomp(errors: &mut Errors, path: &Path<'_>, profile: Option<&SeccompProfile>) {
    let Some(profile) = profile else { return };
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        kind => one_of(errors, &path.child("type"), kind, PROFILES),
    }
    let path = &path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(path, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => local_descending_path(errors, path, file),
        (_, Some(_)) => {
            errors.invalid(path, BadValue::json(profile), "can only be set when seccomp type is Localhost");
        }
        (_, None) => {}
    }
}

fn app_armor(errors: &mut Errors, path: &Path<'_>, profile: Option<&AppArmorProfile>) {
    const MISSING: &str = "must be set when AppArmor type is Localhost";
    let Some(profile) = profile else { return };
    let local = &path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => errors.required(local, MISSING),
        ("Localhost", Some(name)) if name.trim() != name => {
            errors.invalid(local, name, "must not be padded with whitespace");
        }
        ("Localhost", Some("")) => errors.required(local, MISSING),
        ("Localhost", Some(name)) if name.len() > 4095 => errors.too_long(local, 4095),
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(local, name, "can only be set when AppArmor type is Localhost");
        }
        ("", _) => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        (kind, _) => one_of(errors, &path.child("type"), kind, PROFILES),
    }
}

pub(super) fn container(errors: &mut Errors, path: &Path<'_>, context: Option<&SecurityContext>, host_users: bool) {
    let Some(context) = context else { return };
    id(errors, &path.child("runAsUser"), context.run_as_user);
    id(errors, &path.child("runAsGroup"), context.run_as_group);
    if let Some(kind) = &context.proc_mount {
        one_of(errors, &path.child("procMount"), kind, &["Default", "Unmasked"]);
        if host_users && kind == "Unmasked" {
            errors.invalid(&path.child("procMount"), kind, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(errors, &path.child("seccompProfile"), context.seccomp_profile.as_ref());
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, shown(context), detail);
        }
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_deref()).unwrap_or_default();
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, shown(context), detail);
        }
    }
    app_armor(errors, &path.child("appArmorProfile"), context.app_armor_profile.as_ref());
}
