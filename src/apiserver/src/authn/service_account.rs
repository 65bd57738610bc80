//! Service-account tokens: making bound ones, and accepting them only while what they are bound to exists.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    User,
    jwt::{JwtError, SigningKey},
};
use crate::{cache::Hub, config::ServiceAccountConfig, legacy_tokens::TYPE};

/// How long after an object's deletion began a token bound to it is still good.
const DELETION_LEEWAY: Duration = Duration::from_secs(60);

/// An object that a token names: a pod, secret, node or the service account itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRef {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
}

/// The private claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: ObjectRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<ObjectRef>,
}

/// All claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// Issuer of the tokens that are kept in secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token that is kept in a secret. It has no end but the secret's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LegacyClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyClaims {
    Bound(Box<Claims>),
    Legacy(LegacyClaims),
}

/// Why a token is not accepted.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("the token cannot be verified")]
    Jwt(#[from] JwtError),
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is not valid at this time")]
    Time,
    #[error("the token is for another audience")]
    Audience,
    #[error("the {kind} the token is bound to is gone or another one")]
    Gone { kind: &'static str },
    #[error("the cache cannot be read")]
    Cache(#[source] objects::status::Status),
}

/// Makes and verifies tokens.
pub(crate) struct TokenAuthenticator {
    key: Arc<SigningKey>,
    issuer: String,
    audiences: Vec<String>,
    hub: Arc<Hub>,
}

impl TokenAuthenticator {
    pub(crate) fn new(key: Arc<SigningKey>, config: &ServiceAccountConfig, hub: Arc<Hub>) -> TokenAuthenticator {
        TokenAuthenticator { key, issuer: config.issuer.clone(), audiences: config.audiences.clone(), hub }
    }

    /// Audiences of this server.
    pub(crate) fn own_audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A signed token.
    pub(crate) fn issue(
        &self,
        bound: Bound,
        audiences: Vec<String>,
        lifetime: Duration,
    ) -> Result<(String, i64), JwtError> {
        let now = Timestamp::now().as_second();
        let exp = now + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        let claims = Claims {
            aud: audiences,
            exp,
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
            bound,
            nbf: now,
        };
        Ok((self.key.sign(&claims)?, exp))
    }

    /// A signed token for a secret.
    pub(crate) fn issue_legacy(
        &self,
        namespace: &str,
        account: &str,
        uid: &str,
        secret: &str,
    ) -> Result<String, JwtError> {
        self.key.sign(&LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        })
    }

    /// The user of a token, and which of the wanted audiences (the server's own when none) it is for.
    pub(crate) async fn verify(&self, token: &str, wanted: &[String]) -> Result<(Arc<User>, Vec<String>), TokenError> {
        let claims = match self.key.verify(token)? {
            AnyClaims::Bound(claims) => claims,
            AnyClaims::Legacy(claims) => return self.verify_legacy(token, &claims, wanted).await,
        };
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        let now = Timestamp::now();
        if now.as_second() >= claims.exp || now.as_second() + 60 < claims.nbf {
            return Err(TokenError::Time);
        }
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let audiences: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience);
        }
        if self.check_bound(&claims.bound, now).is_err() {
            // Perhaps made a moment ago through another member: ask again with all that is acknowledged.
            self.hub.linearize().await.map_err(TokenError::Cache)?;
            self.check_bound(&claims.bound, now)?;
        }
        Ok((Arc::new(user_of(&claims)), audiences))
    }

    async fn verify_legacy(
        &self,
        token: &str,
        claims: &LegacyClaims,
        wanted: &[String],
    ) -> Result<(Arc<User>, Vec<String>), TokenError> {
        if claims.iss != LEGACY_ISSUER {
            return Err(TokenError::Issuer);
        }
        let own = self.audiences.iter();
        let audiences: Vec<String> = own.filter(|own| wanted.is_empty() || wanted.contains(own)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience);
        }
        if self.check_legacy(token, claims).is_err() {
            self.hub.linearize().await.map_err(TokenError::Cache)?;
            self.check_legacy(token, claims)?;
        }
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", claims.namespace)];
        let mut user = User::new(claims.sub.clone(), groups);
        user.uid.clone_from(&claims.uid);
        Ok((Arc::new(user), audiences))
    }

    /// The secret must be there and hold this very token, and the account must be the same still.
    fn check_legacy(&self, token: &str, claims: &LegacyClaims) -> Result<(), TokenError> {
        let account = ObjectRef { name: claims.account.clone(), uid: claims.uid.clone() };
        self.check("serviceaccounts", "service account", &claims.namespace, Some(&account), Timestamp::now())?;
        let gone = || TokenError::Gone { kind: "secret" };
        let secrets = self.hub.kind("secrets").map_err(TokenError::Cache)?;
        let entry = secrets.get_in(&claims.namespace, &claims.secret).ok_or_else(gone)?;
        let secret: Secret = entry.typed().map_err(TokenError::Cache)?;
        let held = secret.data.as_ref().and_then(|data| data.get("token")).map(|held| held.0.as_slice());
        let good = secret.type_.as_deref() == Some(TYPE) && held == Some(token.as_bytes());
        if good && !entry.projection.terminating { Ok(()) } else { Err(gone()) }
    }

    fn check_bound(&self, bound: &Bound, now: Timestamp) -> Result<(), TokenError> {
        let namespace = &bound.namespace;
        self.check("serviceaccounts", "service account", namespace, Some(&bound.serviceaccount), now)?;
        self.check("pods", "pod", namespace, bound.pod.as_ref(), now)?;
        self.check("secrets", "secret", namespace, bound.secret.as_ref(), now)?;
        // A pod's token names the pod's node for information only; the pod is what it is bound to.
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        self.check("nodes", "node", "", node, now)
    }

    fn check(
        &self,
        prefix: &str,
        kind: &'static str,
        namespace: &str,
        wanted: Option<&ObjectRef>,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let Some(wanted) = wanted else { return Ok(()) };
        let cache = self.hub.kind(prefix).map_err(TokenError::Cache)?;
        let gone = || TokenError::Gone { kind };
        let entry = cache.get_in(namespace, &wanted.name).ok_or_else(gone)?;
        if !wanted.uid.is_empty() && *entry.projection.uid != *wanted.uid {
            return Err(gone());
        }
        if entry.projection.terminating {
            let object = entry.decode().map_err(TokenError::Cache)?;
            let marked: Option<Timestamp> = crate::encoded::meta_str(&object, "deletionTimestamp").parse().ok();
            let leeway = jiff::SignedDuration::try_from(DELETION_LEEWAY).unwrap_or_default();
            if marked.and_then(|at| at.checked_add(leeway).ok()).is_some_and(|end| end < now) {
                return Err(gone());
            }
        }
        Ok(())
    }
}

fn user_of(claims: &Claims) -> User {
    let bound = &claims.bound;
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", bound.namespace)];
    let mut user = User::new(claims.sub.clone(), groups);
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut note = |name: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
        }
    };
    note("credential-id", &format!("JTI={}", claims.jti));
    if let Some(pod) = &bound.pod {
        note("pod-name", &pod.name);
        note("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        note("node-name", &node.name);
        note("node-uid", &node.uid);
    }
    user
}
