//! The JSON documents of images: indexes, manifests and configs, of OCI and of docker.

use super::{ImageConfig, ImageError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

pub(super) const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Larger documents are not read: these are lists of a few dozen entries.
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub platform: Option<Platform>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub architecture: String,
    pub os: String,
    pub variant: Option<String>,
}

/// An index and a manifest in one: which it is shows in what it has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Document {
    pub media_type: String,
    pub schema_version: u32,
    pub manifests: Vec<Descriptor>,
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
}

/// An entry of docker-archive's manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerEntry {
    pub config: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    pub architecture: String,
    pub os: String,
    pub config: Option<RunConfig>,
    pub rootfs: RootFs,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RunConfig {
    pub user: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    pub working_dir: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::Malformed { what: what.to_owned(), reason: error.to_string() })
}

impl ConfigFile {
    pub(super) fn run_config(&self) -> ImageConfig {
        let Some(config) = &self.config else { return ImageConfig::default() };
        ImageConfig {
            user: config.user.clone(),
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            working_dir: config.working_dir.clone(),
            exposed_ports: config.exposed_ports.keys().cloned().collect(),
            volumes: config.volumes.keys().cloned().collect(),
            stop_signal: config.stop_signal.clone(),
            labels: config.labels.clone(),
        }
    }

    /// An image for another machine is refused; one that does not say is taken.
    pub(super) fn check_platform(&self, what: &str) -> Result<(), ImageError> {
        let fits = |is: &str, wanted: &str| is.is_empty() || is == wanted;
        if fits(&self.os, "linux") && fits(&self.architecture, architecture()) {
            return Ok(());
        }
        Err(ImageError::Platform(what.to_owned(), format!("linux/{}", architecture())))
    }
}

/// This machine's architecture, by the name images use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The manifest for this machine.
pub(super) fn choose<'a>(what: &str, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, ImageError> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| {
            p.os == "linux"
                && p.architecture == architecture()
                && p.variant.as_deref().is_none_or(|v| architecture() != "arm" || v <= "v7")
        })
    };
    let undeclared = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.architecture.is_empty());
    manifests
        .iter()
        .find(fits)
        .or_else(|| manifests.iter().find(undeclared).filter(|_| manifests.len() == 1))
        .ok_or_else(|| ImageError::Platform(what.to_owned(), format!("linux/{}", architecture())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(architecture: &str, digest: &str) -> Descriptor {
        Descriptor {
            digest: digest.into(),
            platform: Some(Platform { architecture: architecture.into(), os: "linux".into(), variant: None }),
            ..Descriptor::default()
        }
    }

    #[test]
    fn the_machines_own_platform_is_chosen() {
        let all = [descriptor("mips", "a"), descriptor(architecture(), "b"), descriptor("unknown", "c")];
        assert_eq!(choose("x", &all).unwrap().digest, "b");
        assert!(matches!(choose("x", &all[..1]), Err(ImageError::Platform(..))));
    }

    #[test]
    fn a_single_manifest_without_platform_will_do() {
        assert_eq!(choose("x", &[Descriptor { digest: "d".into(), ..Descriptor::default() }]).unwrap().digest, "d");
    }

    #[test]
    fn nulls_in_configs_are_empty() {
        let text = br#"{"config":{"Env":null,"Cmd":["a"],"Volumes":null},"rootfs":{"diff_ids":[]}}"#;
        let config: ConfigFile = parse("config", text).unwrap();
        assert_eq!(config.run_config().cmd, ["a"]);
        config.check_platform("x").unwrap();
    }

    #[test]
    fn images_for_other_machines_are_refused() {
        let config = ConfigFile { architecture: "mips".into(), ..ConfigFile::default() };
        assert!(config.check_platform("x").is_err());
    }
}
