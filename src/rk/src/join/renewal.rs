//! Keeps a running agent's certificates fresh.

use super::client::{Membership, rejoin, renew};
use super::identity::Presented;
use crate::config::AgentConfig;
use client::ServerList;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The time between two looks: a third of what is left of the certificate's life, within these bounds.
const SHORTEST: SignedDuration = SignedDuration::from_secs(2);
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// Renews at two thirds of a certificate's life, until `stop`. What fails is tried again at the next look.
pub(crate) async fn keep_fresh(
    config: AgentConfig,
    servers: ServerList,
    mut membership: Membership,
    presented: Arc<Presented>,
    stop: CancellationToken,
) {
    loop {
        if pki::leaf::due_for_renewal(&membership.client.cert_pem, Timestamp::now()) {
            match fresh(&config, &servers, &membership, &presented).await {
                Ok(renewed) => {
                    tracing::info!("certificates renewed");
                    membership = renewed;
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "certificates not renewed; trying again"),
            }
        }
        let pause = pause(&membership.client.cert_pem, Timestamp::now());
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn fresh(
    config: &AgentConfig,
    servers: &ServerList,
    membership: &Membership,
    presented: &Arc<Presented>,
) -> anyhow::Result<Membership> {
    let renewed = match renew(config, servers, membership, presented).await {
        // The servers were away for too long: the token lets this machine in once more.
        Err(_) if pki::leaf::expired(&membership.client.cert_pem, Timestamp::now()) => rejoin(config, servers).await?,
        renewed => renewed?,
    };
    presented.set(&renewed.client)?;
    Ok(renewed)
}

fn pause(cert_pem: &str, now: Timestamp) -> Duration {
    let left = pki::leaf::validity(cert_pem).map_or(SignedDuration::ZERO, |(_, end)| end.duration_since(now));
    (left / 3).clamp(SHORTEST, LONGEST).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::{Ca, Identity, Leaf};

    #[test]
    fn looks_are_closer_together_the_less_is_left() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let ca = Ca::from_pem(&Ca::generate("rk-test", now).unwrap()).unwrap();
        let (_, request) = pki::authority::signing_request().unwrap();
        let minute = SignedDuration::from_mins(1);
        let leaf = Leaf::Client(Identity::node("edge"));
        let pem = ca.sign_request(&request, &leaf, now, minute).unwrap();
        assert_eq!(pause(&pem, now), Duration::from_secs(20));
        assert_eq!(pause(&pem, now + minute * 2), Duration::from_secs(2));
        assert_eq!(pause(&ca.issue(&leaf, now).unwrap().cert_pem, now), Duration::from_secs(3600));
    }
}
