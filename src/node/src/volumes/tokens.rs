//! Service account tokens of one pod: asked of the API, kept until four fifths of their life are over.

use std::collections::BTreeMap;

use client::Api;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection, Volume};

/// The API's own default and, for safety, the longest a token of ours is kept.
const DEFAULT_SECONDS: i64 = 3600;
const MAX_AGE_SECONDS: i64 = 24 * 3600;

struct Token {
    text: String,
    refresh_at: Timestamp,
}

/// By volume and path.
#[derive(Default)]
pub(crate) struct Tokens {
    held: BTreeMap<(String, String), Token>,
}

impl Tokens {
    pub(crate) fn get(&self, volume: &str, path: &str) -> Option<String> {
        self.held.get(&(volume.to_owned(), path.to_owned())).map(|t| t.text.clone())
    }

    /// When the first token wants to be replaced.
    pub(crate) fn refresh_at(&self) -> Option<Timestamp> {
        self.held.values().map(|t| t.refresh_at).min()
    }

    /// Fetches what the volume needs and is missing or due. An old token stays in use when the API can't be asked.
    pub(crate) async fn fetch(&mut self, client: &kube::Client, pod: &Pod, volume: &Volume) -> Result<(), kube::Error> {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for projection in sources.filter_map(|s| s.service_account_token.as_ref()) {
            let key = (volume.name.clone(), projection.path.clone());
            let now = Timestamp::now();
            if self.held.get(&key).is_some_and(|t| t.refresh_at > now) {
                continue;
            }
            match request(client, pod, projection, now).await {
                Ok(token) => drop(self.held.insert(key, token)),
                Err(error) => match self.held.get_mut(&key) {
                    Some(old) => {
                        tracing::warn!(error = %error, "cannot refresh a service account token");
                        old.refresh_at = now.checked_add(jiff::SignedDuration::from_secs(30)).unwrap_or(now);
                    }
                    None => return Err(error),
                },
            }
        }
        Ok(())
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
    now: Timestamp,
) -> Result<Token, kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
    let account = account.filter(|a| !a.is_empty()).unwrap_or("default");
    let wanted = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: projection.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: projection.expiration_seconds.or(Some(DEFAULT_SECONDS)),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let answer = api.create_token_request(account, &wanted).await?;
    let life = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(DEFAULT_SECONDS);
    let text = answer.status.unwrap_or_default().token.unwrap_or_default();
    Ok(Token { text, refresh_at: refresh_time(now, life) })
}

/// Counted from the answer, not to the token's expiration: that is by the API server's clock.
fn refresh_time(now: Timestamp, life: i64) -> Timestamp {
    let age = (life.max(0) * 4 / 5).min(MAX_AGE_SECONDS);
    now.checked_add(jiff::SignedDuration::from_secs(age)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_at_four_fifths_of_their_life_or_daily() {
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(refresh_time(at(0), 1000), at(800));
        assert_eq!(refresh_time(at(0), 10_000_000), at(24 * 3600));
        assert_eq!(refresh_time(at(100), -5), at(100));
    }
}
