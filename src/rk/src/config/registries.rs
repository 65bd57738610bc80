//! The registries file (YAML): `mirrors.<registry>.endpoint` and `configs.<registry>.{auth,tls}`, as k3s users have it.

use anyhow::Context;
use base64::Engine;
use runtime::Auth;
use runtime::images::RegistriesConfig;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Registry {
    auth: Credentials,
    tls: Tls,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Credentials {
    username: String,
    password: String,
    /// `base64(username:password)`
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credentials(…)")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    ca_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

/// Reads the file; an absent one is an empty one.
pub(crate) fn load(path: &Path) -> anyhow::Result<RegistriesConfig> {
    let place = || format!("registries file {}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).with_context(place),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(RegistriesConfig::default()),
        Err(error) => Err(error).with_context(place),
    }
}

fn parse(text: &str) -> anyhow::Result<RegistriesConfig> {
    let file: Option<File> = serde_yaml_ng::from_str(text)?;
    let mut config = RegistriesConfig::default();
    let Some(File { mirrors, configs }) = file else { return Ok(config) };
    config.mirrors = mirrors.into_iter().map(|(registry, mirror)| (registry, mirror.endpoint)).collect();
    for (registry, Registry { auth, tls }) in configs {
        if tls.insecure_skip_verify {
            config.insecure.push(registry.clone());
        }
        if let Some(file) = tls.ca_file {
            config.ca_files.insert(registry.clone(), file);
        }
        if let Some(auth) = auth.resolve().with_context(|| format!("configs.{registry}.auth"))? {
            config.auth.insert(registry, auth);
        }
    }
    Ok(config)
}

impl Credentials {
    fn resolve(self) -> anyhow::Result<Option<Auth>> {
        if !self.identity_token.is_empty() {
            return Ok(Some(Auth::IdentityToken(self.identity_token)));
        }
        if !self.auth.is_empty() {
            let decoded = base64::engine::general_purpose::STANDARD.decode(&self.auth).context("auth is not base64")?;
            let decoded = String::from_utf8(decoded).context("auth is not text")?;
            return parse_pair(&decoded).map(Some);
        }
        let some = !self.username.is_empty();
        Ok(some.then_some(Auth::Basic { username: self.username, password: self.password }))
    }
}

/// `user:password`
pub(crate) fn parse_pair(text: &str) -> anyhow::Result<Auth> {
    let (username, password) = text.split_once(':').context("credentials must look like user:password")?;
    Ok(Auth::Basic { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_credentials_are_read() {
        let config = parse(
            "mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:5000\"]\nconfigs:\n  r.lab:\n    auth: {auth: dTpw}\n    tls: {insecure_skip_verify: true}\n  a.lab:\n    tls: {ca_file: /a.pem}\n  b.lab:5000:\n    tls: {ca_file: /b.pem}\n",
        )
        .unwrap();
        assert_eq!(config.mirrors["docker.io"], ["http://127.0.0.1:5000"]);
        assert_eq!(config.insecure, ["r.lab"]);
        assert_eq!(config.ca_files["a.lab"], Path::new("/a.pem"));
        assert_eq!(config.ca_files["b.lab:5000"], Path::new("/b.pem"));
        assert_eq!(config.auth["r.lab"], Auth::Basic { username: "u".into(), password: "p".into() });
        assert!(parse("").unwrap().auth.is_empty());
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(parse("mirror: {}").unwrap_err().to_string().contains("mirror"));
    }
}
