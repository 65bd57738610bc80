//! Config maps, secrets and service accounts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::names;
use crate::strategy::typed::Rules;
use crate::strategy::{Context, SelectableField};
use crate::validation::{check, immutable, text};

const MAX_SIZE: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";

pub struct ConfigMapRules;

impl Rules for ConfigMapRules {
    type Object = ConfigMap;
    const COLUMNS: &'static [Column] = columns::core::CONFIG_MAP;

    fn validate(map: &ConfigMap, errors: &mut Errors) {
        let (data, binary) = (map.data.iter().flatten(), map.binary_data.iter().flatten());
        let mut size = 0;
        let path = Path::root("data");
        for (key, value) in data {
            let path = path.key(key);
            check(errors, &path, key, names::config_key(key));
            if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                errors.invalid(&path, key, "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        let path = Path::root("binaryData");
        for (key, value) in binary {
            check(errors, &path.key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > MAX_SIZE {
            errors.too_long(&Path::root(""), MAX_SIZE);
        }
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap, errors: &mut Errors) {
        if old.immutable == Some(true) {
            still_immutable(errors, new.immutable);
            if new.data != old.data {
                errors.forbidden(&Path::root("data"), FROZEN);
            }
            if new.binary_data != old.binary_data {
                errors.forbidden(&Path::root("binaryData"), FROZEN);
            }
        }
        Self::validate(new, errors);
    }

    fn cells(map: &ConfigMap, now: Timestamp) -> Vec<Value> {
        columns::core::config_map(map, now)
    }
}

fn still_immutable(errors: &mut Errors, new: Option<bool>) {
    if new != Some(true) {
        errors.forbidden(&Path::root("immutable"), FROZEN);
    }
}

const SECRET_FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
    SelectableField { label: "type", path: &["type"], absent: "" },
];

pub struct SecretRules;

impl Rules for SecretRules {
    type Object = Secret;
    const FIELDS: &'static [SelectableField] = SECRET_FIELDS;
    const COLUMNS: &'static [Column] = columns::core::SECRET;

    fn default(secret: &mut Secret) {
        fill(&mut secret.type_, "Opaque");
        let plain = secret.string_data.take().unwrap_or_default();
        if !plain.is_empty() {
            let plain = plain.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes())));
            secret.data.get_or_insert_default().extend(plain);
        }
    }

    fn validate(secret: &Secret, errors: &mut Errors) {
        let path = Path::root("data");
        let mut size = 0;
        for (key, value) in secret.data.iter().flatten() {
            check(errors, &path.key(key), key, names::config_key(key));
            size += value.0.len();
        }
        if size > MAX_SIZE {
            errors.too_long(&path, MAX_SIZE);
        }
        of_type(errors, &path, secret);
    }

    fn validate_update(new: &Secret, old: &Secret, errors: &mut Errors) {
        immutable(errors, &Path::root("type"), &new.type_, &old.type_);
        if old.immutable == Some(true) {
            still_immutable(errors, new.immutable);
            if new.data != old.data {
                errors.forbidden(&Path::root("data"), FROZEN);
            }
        }
        Self::validate(new, errors);
    }

    fn cells(secret: &Secret, now: Timestamp) -> Vec<Value> {
        columns::core::secret(secret, now)
    }
}

/// What each well-known type has to hold.
fn of_type(errors: &mut Errors, path: &Path<'_>, secret: &Secret) {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let missing = |keys: &[&'static str]| -> Vec<&'static str> {
        keys.iter().copied().filter(|key| !data.contains_key(*key)).collect()
    };
    let required = match text(secret.type_.as_ref()) {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.and_then(|all| all.get(ACCOUNT)).is_none_or(String::is_empty) {
                errors.required(&Path::root("metadata.annotations").key(ACCOUNT), "");
            }
            return;
        }
        "kubernetes.io/dockercfg" => return docker_config(errors, path, data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => return docker_config(errors, path, data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" => match missing(&["username", "password"]) {
            both if both.len() == 2 => both,
            _ => return,
        },
        "kubernetes.io/ssh-auth" => {
            let key = "ssh-privatekey";
            if data.get(key).is_none_or(|value| value.0.is_empty()) { vec![key] } else { return }
        }
        "kubernetes.io/tls" => missing(&["tls.crt", "tls.key"]),
        _ => return,
    };
    for key in required {
        errors.required(&path.key(key), "");
    }
}

fn docker_config(errors: &mut Errors, path: &Path<'_>, data: &BTreeMap<String, ByteString>, key: &str) {
    match data.get(key) {
        None => errors.required(&path.key(key), ""),
        Some(content) => {
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&content.0) {
                errors.invalid(&path.key(key), "<secret contents redacted>", &error.to_string());
            }
        }
    }
}

pub struct ServiceAccountRules;

impl Rules for ServiceAccountRules {
    type Object = ServiceAccount;
    const COLUMNS: &'static [Column] = columns::core::SERVICE_ACCOUNT;

    fn prepare_create(account: &mut ServiceAccount, _context: &Context<'_>) {
        if account.secrets.as_ref().is_some_and(Vec::is_empty) {
            account.secrets = None;
        }
    }

    fn cells(account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        columns::core::service_account(account, now)
    }
}

#[cfg(test)]
mod tests {
    use crate::strategy::{Context, Part, Strategy, strategy_for};
    use serde_json::{Value, json};

    fn context() -> Context<'static> {
        Context::sample(Some("default"))
    }

    fn create(strategy: &dyn Strategy, object: Value) -> Result<Value, String> {
        strategy.create(object, &context()).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn string_data_becomes_data() {
        let secret = strategy_for("", "v1", "Secret").unwrap();
        let created = create(secret, json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}})).unwrap();
        assert_eq!(created["data"], json!({"k": "dg=="}));
        assert_eq!(created["type"], "Opaque");
        assert!(created.get("stringData").is_none());
    }

    #[test]
    fn typed_secrets_need_their_keys() {
        let secret = strategy_for("", "v1", "Secret").unwrap();
        assert_eq!(
            create(secret, json!({"metadata": {"name": "a"}, "type": "kubernetes.io/tls"})).unwrap_err(),
            "Secret \"a\" is invalid: [data[tls.crt]: Required value, data[tls.key]: Required value]"
        );
    }

    #[test]
    fn immutable_maps_stay_as_they_are() {
        let map = strategy_for("", "v1", "ConfigMap").unwrap();
        let old = create(map, json!({"metadata": {"name": "a"}, "data": {"k": "v"}, "immutable": true})).unwrap();
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("1");
        new["data"]["k"] = json!("w");
        assert_eq!(
            map.update(Part::Main, new, &old, &context()).unwrap_err().message(),
            "ConfigMap \"a\" is invalid: data: Forbidden: field is immutable when `immutable` is set"
        );
        assert!(
            create(map, json!({"metadata": {"name": "a"}, "data": {"a b": ""}}))
                .unwrap_err()
                .contains("data[a b]: Invalid value: \"a b\": a valid config key must consist of")
        );
    }

    #[test]
    fn another_namespace_in_the_body_is_refused() {
        let map = strategy_for("", "v1", "ConfigMap").unwrap();
        assert_eq!(
            create(map, json!({"metadata": {"name": "a", "namespace": "other"}})).unwrap_err(),
            "the namespace of the provided object does not match the namespace sent on the request"
        );
    }
}
