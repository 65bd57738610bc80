//! The administrator's kubeconfig.

use anyhow::Context;
use client::Kubeconfig;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Reads the one that rk's own commands use.
pub(crate) fn read(path: &Path) -> anyhow::Result<Kubeconfig> {
    Kubeconfig::parse(&pki::files::read(path)?).with_context(|| format!("read {}", path.display()))
}

/// Writes it with the wanted mode; it is born 0600, so a wider mode never precedes the owner's wish.
pub(crate) fn write(path: &Path, config: &Kubeconfig, mode: u32) -> anyhow::Result<()> {
    pki::files::write_private(path, config.render().as_bytes())?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("set mode {mode:o} on {}", path.display()))
}
