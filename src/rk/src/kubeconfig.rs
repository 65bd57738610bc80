//! The administrator's kubeconfig.

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::KeyCert;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A kubeconfig for `server` (URL) with one cluster, user and context, all named `default`.
pub(crate) fn render(server: &str, ca_pem: &str, admin: &KeyCert) -> String {
    let [ca, cert, key] = [ca_pem, &admin.cert_pem, &admin.key_pem].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: default
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: default
  context:
    cluster: default
    user: default
current-context: default
"
    )
}

/// Writes it with the wanted mode; it is born 0600, so a wider mode never precedes the owner's wish.
pub(crate) fn write(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    pki::files::write_private(path, content.as_bytes())?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("set mode {mode:o} on {}", path.display()))
}
