//! Secrets of type `kubernetes.io/service-account-token`: each is given a token of the account that it names, without
//! an end, and goes with that account. Kept so here, because this is where the signing key is.

use std::sync::Arc;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use objects::{
    status::Status,
    strategy::{Part, deletion::DeleteOptions},
};
use serde_json::{Value, json};

use crate::{
    authn::{User, user::MASTERS},
    cache::Entry,
    encoded::{child_mut, meta_str, metadata_mut},
    rest::{
        Place,
        delete::delete_object,
        options::WriteOptions,
        store,
        update::{self, Change, Mode},
    },
    server::Inner,
};

pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// Looks again after each change of a secret or a service account.
pub(crate) async fn run(inner: Arc<Inner>) {
    let caches = inner.hub.kind("secrets").and_then(|secrets| Ok((secrets, inner.hub.kind("serviceaccounts")?)));
    let (mut secrets, mut accounts) = match caches {
        Ok((secrets, accounts)) => (secrets.changes(), accounts.changes()),
        Err(error) => return tracing::error!(%error, "cannot watch service-account tokens"),
    };
    loop {
        if let Err(error) = once(&inner).await {
            tracing::warn!(%error, "cannot complete service-account tokens");
        }
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = secrets.changed() => if changed.is_err() { return },
            changed = accounts.changed() => if changed.is_err() { return },
        }
    }
}

async fn once(inner: &Arc<Inner>) -> Result<(), Status> {
    let cache = inner.hub.kind("secrets")?;
    let Some(position) = cache.projector().position("type") else { return Ok(()) };
    let is_token = |entry: &Entry| entry.projection.fields.get(position).is_some_and(|kind| &**kind == TYPE);
    for entry in cache.list("", |entry| is_token(entry) && !entry.projection.terminating).entries {
        match complete(inner, &entry).await {
            Err(status) if status.is_not_found() || status.is_conflict() => {}
            done => done?,
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Fill,
    Delete,
}

/// What is to be done with a secret whose account, as it is now, has this UID.
fn plan(secret: &Secret, account_uid: Option<&str>, root_ca: &str) -> Plan {
    let noted = secret.metadata.annotations.as_ref().and_then(|a| a.get(UID)).filter(|uid| !uid.is_empty());
    let Some(uid) = account_uid.filter(|uid| noted.is_none_or(|noted| noted == uid)) else { return Plan::Delete };
    let has = |name: &str| secret.data.as_ref().and_then(|data| data.get(name)).filter(|value| !value.0.is_empty());
    let ca_is_right = has("ca.crt").is_some_and(|ca: &ByteString| ca.0 == root_ca.as_bytes());
    let is_complete = has("token").is_some() && has("namespace").is_some() && ca_is_right;
    if is_complete && noted.is_some_and(|noted| noted == uid) { Plan::Nothing } else { Plan::Fill }
}

async fn complete(inner: &Arc<Inner>, entry: &Entry) -> Result<(), Status> {
    let secret: Secret = entry.typed()?;
    let account = secret.metadata.annotations.as_ref().and_then(|a| a.get(ACCOUNT)).cloned().unwrap_or_default();
    let root_ca = &inner.config.client_ca_pem;
    let uid = inner.hub.kind("serviceaccounts")?.get_in(entry.namespace(), &account);
    let uid = uid.map(|account| account.projection.uid.to_string());
    if plan(&secret, uid.as_deref(), root_ca) == Plan::Nothing {
        return Ok(());
    }
    // The cache may be behind: the store knows the account.
    let key = crate::keys::object("serviceaccounts", entry.namespace(), &account);
    let uid = match store::read(inner, &key).await? {
        Some(kv) => Some(meta_str(&crate::encoded::decode(&kv.value, kv.mod_revision)?, "uid").to_owned()),
        None => None,
    };
    let resource = inner.registry.load().find("v1", "secrets").cloned().ok_or_else(Status::unknown_path)?;
    let place = Place { resource, namespace: entry.namespace(), name: entry.name(), subresource: "" };
    match plan(&secret, uid.as_deref(), root_ca) {
        Plan::Nothing => Ok(()),
        Plan::Fill => fill(inner, &place, &account, &uid.unwrap_or_default()).await,
        Plan::Delete => {
            let options = DeleteOptions { uid: secret.metadata.uid, ..DeleteOptions::default() };
            delete_object(inner, &user(), &place, &options, false, &mut Vec::new()).await.map(drop)
        }
    }
}

fn user() -> User {
    User::new("system:serviceaccount:kube-system:token-controller", [MASTERS])
}

async fn fill(inner: &Arc<Inner>, place: &Place<'_>, account: &str, uid: &str) -> Result<(), Status> {
    let tokens = &inner.authn.service_accounts;
    let token = tokens.issue_legacy(place.namespace, account, uid, place.name).map_err(Status::internal)?;
    let encode = |bytes: &str| serde_json::to_value(ByteString(bytes.as_bytes().to_vec())).map_err(Status::internal);
    let (token, namespace) = (encode(&token)?, encode(place.namespace)?);
    let root_ca = encode(&inner.config.client_ca_pem)?;
    let next = |old: &Value| {
        let mut new = old.clone();
        let annotations = metadata_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
        annotations[UID] = uid.into();
        let data = child_mut(&mut new, "data");
        data.insert("ca.crt".into(), root_ca.clone());
        data.entry("namespace").or_insert_with(|| namespace.clone());
        data.entry("token").or_insert_with(|| token.clone());
        Ok(new)
    };
    let options = WriteOptions { field_manager: "kube-controller-manager".into(), ..WriteOptions::default() };
    let user = user();
    let change = Change { inner, user: &user, part: Part::Main, options: &options, mode: Mode::Plain };
    update::apply(&change, place, &mut Vec::new(), next).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let secret = |uid: &str, data: Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"annotations": {UID: uid}}, "data": data})).unwrap()
        };
        let full = json!({"token": "dA==", "namespace": "bg==", "ca.crt": "Y2E="});
        assert_eq!(plan(&secret("", json!({})), Some("u"), "ca"), Plan::Fill);
        assert_eq!(plan(&secret("u", full.clone()), Some("u"), "ca"), Plan::Nothing);
        assert_eq!(plan(&secret("u", full.clone()), Some("u"), "other"), Plan::Fill);
        assert_eq!(plan(&secret("u", full.clone()), Some("v"), "ca"), Plan::Delete);
        assert_eq!(plan(&secret("u", full), None, "ca"), Plan::Delete);
    }
}
