//! The files of configMap, secret, downwardAPI and projected volumes. Pure: tokens and objects are inputs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection};

use crate::spec::fields::{self, Addresses, Allocatable, FieldError};

/// What files get when the volume says nothing.
const DEFAULT_MODE: i32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("configmap references non-existent config key: {0}")]
    NoConfigKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("invalid path {0:?}: must be relative and not contain '..'")]
    BadPath(String),
    #[error("token for path {0:?} is not available")]
    NoToken(String),
    #[error("{0} sources are not supported by this node")]
    Unsupported(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    /// Owner, where it must not be root.
    pub(crate) owner: Option<u32>,
}

/// Relative path → file.
pub(crate) type Payload = BTreeMap<String, File>;

/// What the files are made of.
pub(crate) struct PayloadInput<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) config_map: &'a dyn Fn(&str) -> Option<std::sync::Arc<ConfigMap>>,
    pub(crate) secret: &'a dyn Fn(&str) -> Option<std::sync::Arc<Secret>>,
    /// The token to be put at this path of this volume.
    pub(crate) token: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) addresses: &'a Addresses,
    pub(crate) allocatable: &'a Allocatable,
}

/// Whether a volume's files are made here.
pub(crate) fn is_data(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Computes the files of `volume`.
pub(crate) fn payload(input: &PayloadInput<'_>, volume: &Volume) -> Result<Payload, PayloadError> {
    let mut out = Payload::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        config_map(&mut out, input, &source.name, source.items.as_deref(), mode, optional)?;
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        secret(&mut out, input, name, source.items.as_deref(), mode, source.optional == Some(true))?;
    }
    if let Some(source) = &volume.downward_api {
        downward(&mut out, input, source.items.as_deref(), source.default_mode.unwrap_or(DEFAULT_MODE))?;
    }
    if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            projected(&mut out, input, projection, mode)?;
        }
    }
    Ok(out)
}

fn projected(
    out: &mut Payload,
    input: &PayloadInput<'_>,
    source: &VolumeProjection,
    mode: i32,
) -> Result<(), PayloadError> {
    if let Some(map) = &source.config_map {
        config_map(out, input, &map.name, map.items.as_deref(), mode, map.optional == Some(true))?;
    }
    if let Some(from) = &source.secret {
        secret(out, input, &from.name, from.items.as_deref(), mode, from.optional == Some(true))?;
    }
    if let Some(from) = &source.downward_api {
        downward(out, input, from.items.as_deref(), mode)?;
    }
    if let Some(token) = &source.service_account_token {
        let text = (input.token)(&token.path).ok_or_else(|| PayloadError::NoToken(token.path.clone()))?;
        let owner = common_user(input.pod);
        let grouped = fs_group(input.pod).is_some();
        // Someone beside root must read it, and as few as possible.
        let mode = if owner.is_some() || grouped { 0o600 } else { mode };
        add(out, &token.path, text.into_bytes(), mode, owner)?;
    }
    if let Some(bundle) = &source.cluster_trust_bundle
        && bundle.optional != Some(true)
    {
        return Err(PayloadError::Unsupported("clusterTrustBundle"));
    }
    if source.pod_certificate.is_some() {
        return Err(PayloadError::Unsupported("podCertificate"));
    }
    Ok(())
}

/// The group the pod's volumes belong to.
pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// The user all containers run as, when the specification says so of each.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let whole = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(whole));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn config_map(
    out: &mut Payload,
    input: &PayloadInput<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), PayloadError> {
    let Some(map) = (input.config_map)(name) else {
        return if optional { Ok(()) } else { Err(PayloadError::NoConfigMap(name.to_owned())) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
    let entries: BTreeMap<&str, &[u8]> = text.chain(binary).collect();
    pick(out, &entries, items, mode, optional, PayloadError::NoConfigKey)
}

fn secret(
    out: &mut Payload,
    input: &PayloadInput<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), PayloadError> {
    let Some(secret) = (input.secret)(name) else {
        return if optional { Ok(()) } else { Err(PayloadError::NoSecret(name.to_owned())) };
    };
    let entries = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    pick(out, &entries, items, mode, optional, PayloadError::NoSecretKey)
}

/// All entries, or the chosen ones under their paths.
fn pick(
    out: &mut Payload,
    entries: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: impl Fn(String) -> PayloadError,
) -> Result<(), PayloadError> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return entries.iter().try_for_each(|(key, content)| add(out, key, content.to_vec(), mode, None));
    };
    for item in items {
        match entries.get(item.key.as_str()) {
            Some(content) => add(out, &item.path, content.to_vec(), item.mode.unwrap_or(mode), None)?,
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(())
}

fn downward(
    out: &mut Payload,
    input: &PayloadInput<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
) -> Result<(), PayloadError> {
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(input.pod, input.addresses, &field.field_path)?,
            (None, Some(resource)) => fields::resource(input.pod, None, resource, input.allocatable)?,
            (None, None) => continue,
        };
        add(out, &item.path, text.into_bytes(), item.mode.unwrap_or(mode), None)?;
    }
    Ok(())
}

fn add(out: &mut Payload, path: &str, content: Vec<u8>, mode: i32, owner: Option<u32>) -> Result<(), PayloadError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.starts_with("..")
        || path.split('/').any(|part| part == ".." || part.is_empty());
    if bad {
        return Err(PayloadError::BadPath(path.to_owned()));
    }
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    out.insert(path.to_owned(), File { content, mode, owner });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn files(volume: serde_json::Value) -> Result<Payload, PayloadError> {
        files_of(json!({"containers": [{"name": "c"}]}), volume)
    }

    fn files_of(spec: serde_json::Value, volume: serde_json::Value) -> Result<Payload, PayloadError> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}, "spec": spec}),
        )
        .unwrap();
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"k": "v", "k2": "w"}, "binaryData": {"b": "AAE="}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"pw": "aGk="}})).unwrap();
        let (map, secret) = (Arc::new(map), Arc::new(secret));
        let mut volume = volume;
        volume["name"] = json!("v");
        payload(
            &PayloadInput {
                pod: &pod,
                config_map: &|n| (n == "cm").then(|| map.clone()),
                secret: &|n| (n == "sec").then(|| secret.clone()),
                token: &|path| (path == "token").then(|| "jwt".to_owned()),
                addresses: &Addresses::default(),
                allocatable: &Allocatable::default(),
            },
            &serde_json::from_value(volume).unwrap(),
        )
    }

    #[test]
    fn a_config_map_gives_its_keys() {
        let got = files(json!({"configMap": {"name": "cm", "defaultMode": 0o600}})).unwrap();
        assert_eq!(got.keys().collect::<Vec<_>>(), ["b", "k", "k2"]);
        assert_eq!((got["b"].content.as_slice(), got["k"].mode), ([0, 1].as_slice(), 0o600));
        let items = json!([{"key": "k", "path": "dir/x", "mode": 0o400}]);
        let got = files(json!({"configMap": {"name": "cm", "items": items}})).unwrap();
        assert_eq!((got.len(), got["dir/x"].mode), (1, 0o400));
    }

    #[test]
    fn what_is_missing_is_said_unless_optional() {
        let message = |v: serde_json::Value| files(v).unwrap_err().to_string();
        assert_eq!(message(json!({"configMap": {"name": "x"}})), "configmap \"x\" not found");
        assert_eq!(message(json!({"secret": {"secretName": "x"}})), "secret \"x\" not found");
        assert_eq!(
            message(json!({"secret": {"secretName": "sec", "items": [{"key": "q", "path": "q"}]}})),
            "references non-existent secret key: q"
        );
        assert!(files(json!({"configMap": {"name": "x", "optional": true}})).unwrap().is_empty());
        let both = json!({"configMap": {"name": "cm", "optional": true, "items": [{"key": "q", "path": "q"}]}});
        assert!(files(both).unwrap().is_empty());
    }

    #[test]
    fn projected_sources_are_laid_together() {
        let volume = json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "cm", "items": [{"key": "k", "path": "ca.crt"}]}},
            {"secret": {"name": "sec"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}});
        let got = files(volume.clone()).unwrap();
        assert_eq!(got.keys().collect::<Vec<_>>(), ["ca.crt", "labels", "pw", "token"]);
        assert_eq!((got["token"].mode, got["token"].owner), (0o644, None));
        assert_eq!(got["labels"].content, b"a=\"b\"");
        let user = json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "c"}]});
        let got = files_of(user, volume).unwrap();
        assert_eq!((got["token"].mode, got["token"].owner), (0o600, Some(7)));
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        for path in ["../x", "/x", "a/../b", "..data"] {
            let volume = json!({"configMap": {"name": "cm", "items": [{"key": "k", "path": path}]}});
            assert!(matches!(files(volume), Err(PayloadError::BadPath(_))), "{path}");
        }
    }
}
