//! Authentication: who sent a request. Client certificate, bearer token (service account or handed in by
//! configuration), anonymous; then impersonation, which [`crate::handler`] authorizes. Called once per request.

pub(crate) mod certificate;
pub(crate) mod early;
pub(crate) mod impersonate;
pub(crate) mod jwt;
pub(crate) mod service_account;
pub(crate) mod user;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, header::AUTHORIZATION};
use objects::status::Status;
use ring::digest::{SHA256, digest};

use self::service_account::TokenAuthenticator;
pub use self::user::User;
use crate::config::StaticToken;

/// Verifies credentials.
pub(crate) struct Authenticator {
    /// By SHA-256 of the secret: looking a secret up this way leaks no timing about the secret itself.
    tokens: HashMap<[u8; 32], User>,
    pub(crate) service_accounts: Arc<TokenAuthenticator>,
    anonymous: bool,
}

impl Authenticator {
    pub(crate) fn new(tokens: &[StaticToken], service_accounts: Arc<TokenAuthenticator>, anonymous: bool) -> Self {
        let tokens =
            tokens.iter().map(|t| (fingerprint(t.secret.as_bytes()), t.user.clone().authenticated())).collect();
        Authenticator { tokens, service_accounts, anonymous }
    }

    /// The user of a request. `certificate` is the identity that the TLS handshake proved.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Arc<User>>,
    ) -> Result<Arc<User>, Status> {
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        let Some(header) = headers.get(AUTHORIZATION) else {
            return if self.anonymous { Ok(Arc::new(User::anonymous())) } else { Err(Status::unauthorized()) };
        };
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        match token {
            Some(token) => self.token(token, &[]).await.map(|(user, _)| user).ok_or_else(Status::unauthorized),
            None if self.anonymous => Ok(Arc::new(User::anonymous())),
            None => Err(Status::unauthorized()),
        }
    }

    /// The user a bearer token stands for, and the audiences (of those asked) it is good for.
    pub(crate) async fn token(&self, token: &str, audiences: &[String]) -> Option<(Arc<User>, Vec<String>)> {
        if let Some(user) = self.tokens.get(&fingerprint(token.as_bytes())) {
            return Some((Arc::new(user.clone()), self.service_accounts.own_audiences().to_vec()));
        }
        match self.service_accounts.verify(token, audiences).await {
            Ok(verified) => Some(verified),
            Err(error) => {
                tracing::debug!(%error, "bearer token refused");
                None
            }
        }
    }
}

fn fingerprint(secret: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret).as_ref());
    out
}
