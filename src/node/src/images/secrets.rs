//! Registry credentials from a pod's `imagePullSecrets`. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use runtime::Auth;
use serde::Deserialize;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// base64 of `user:password`.
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// The credentials for `image` (a canonical name), most specific first.
pub(super) fn matching(image: &str, secrets: &[Arc<Secret>]) -> Vec<Auth> {
    let mut found: Vec<(usize, Auth)> = Vec::new();
    for secret in secrets {
        for (registry, entry) in entries(secret) {
            if let (Some(weight), Some(auth)) = (fits(&registry, image), auth(&entry)) {
                found.push((weight, auth));
            }
        }
    }
    found.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    if let Some(json) = data(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(json).map(|c| c.auths).unwrap_or_default();
    }
    data(".dockercfg").and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

fn auth(entry: &Entry) -> Option<Auth> {
    if !entry.identity_token.is_empty() {
        return Some(Auth::IdentityToken(entry.identity_token.clone()));
    }
    if !entry.username.is_empty() {
        return Some(Auth::Basic { username: entry.username.clone(), password: entry.password.clone() });
    }
    let text = String::from_utf8(STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Auth::Basic { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// How well `registry`, a key of the configuration, fits the image; `None`: not at all.
///
/// Keys may carry a scheme, a path (which must be a prefix of the image's) and `*` as a whole label part of the host.
fn fits(registry: &str, image: &str) -> Option<usize> {
    let key = registry.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.trim_end_matches('/');
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/')?;
    let docker = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let key_path = if matches!(key_path, "v1" | "v2") { "" } else { key_path };
    let same_host = (docker(key_host) && docker(host)) || host_matches(key_host, host);
    let same_path = key_path.is_empty()
        || path.strip_prefix(key_path).is_some_and(|r| r.is_empty() || r.starts_with(['/', ':', '@']));
    (same_host && same_path).then_some(key_path.len())
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let (mut patterns, mut labels) = (pattern.split('.'), host.split('.'));
    loop {
        match (patterns.next(), labels.next()) {
            (None, None) => return true,
            (Some(p), Some(l)) if p == l => {}
            (Some(p), Some(l)) => match p.split_once('*') {
                Some((head, tail))
                    if l.len() >= head.len() + tail.len() && l.starts_with(head) && l.ends_with(tail) => {}
                _ => return false,
            },
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(json: &str) -> Vec<Arc<Secret>> {
        let data = [(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))].into();
        vec![Arc::new(Secret { data: Some(data), ..Secret::default() })]
    }

    #[test]
    fn the_most_specific_credential_comes_first() {
        let secrets = secret(
            r#"{"auths": {"reg.example:5000": {"username": "a", "password": "x"},
                "https://reg.example:5000/team": {"auth": "Yjp5"}, "other": {"username": "c"}}}"#,
        );
        let got = matching("reg.example:5000/team/app:1", &secrets);
        let basic = |u: &str, p: &str| Auth::Basic { username: u.into(), password: p.into() };
        assert_eq!(got, [basic("b", "y"), basic("a", "x")]);
        assert_eq!(matching("reg.example:5000/teamwork/app:1", &secrets), [basic("a", "x")]);
        assert!(matching("elsewhere/app:1", &secrets).is_empty());
    }

    #[test]
    fn docker_hub_goes_by_many_names() {
        let secrets = secret(r#"{"auths": {"https://index.docker.io/v1/": {"username": "u", "password": "p"}}}"#);
        assert_eq!(matching("docker.io/library/busybox:latest", &secrets).len(), 1);
    }

    #[test]
    fn hosts_may_have_wildcards() {
        assert!(host_matches("*.example.com", "a.example.com"));
        assert!(!host_matches("*.example.com", "a.b.example.com"));
        assert!(host_matches("reg-*.x", "reg-1.x"));
    }

    #[test]
    fn broken_secrets_give_nothing() {
        assert!(matching("docker.io/library/x:1", &secret("{nonsense")).is_empty());
    }
}
