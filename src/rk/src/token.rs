//! `rk token`: the server's own join token, and further ones that expire.
//!
//! A token with an end is a Secret of type `bootstrap.kubernetes.io/token` in kube-system: id, secret, expiration.

use crate::cli::{TokenArgs, TokenCommand};
use crate::config;
use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Api;
use client::{Credentials, HttpsConfig, ServerList};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{ObjectMeta, PostParams};
use pki::{JoinToken, files};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    match args.command {
        None => print!("{}", files::read(&config::node_token_path(&args.data_dir))?),
        Some(TokenCommand::Create { ttl, kubeconfig }) => {
            let ttl =
                objects::duration::parse(&ttl).with_context(|| format!("--ttl {ttl:?} must look like 30m or 24h"))?;
            ensure!(ttl > SignedDuration::ZERO, "--ttl must be longer than nothing");
            println!("{}", create(&kubeconfig, ttl).await?);
        }
    }
    Ok(())
}

async fn create(kubeconfig: &Path, ttl: SignedDuration) -> anyhow::Result<JoinToken> {
    let (client, ca_pem) = administrator(kubeconfig)?;
    let (id, secret) = (JoinToken::random_secret().split_at(6).0.to_owned(), JoinToken::random_secret());
    let expiration = Timestamp::from_second((Timestamp::now() + ttl).as_second())?;
    let data = [
        ("token-id", id.clone()),
        ("token-secret", secret.clone()),
        ("expiration", expiration.to_string()),
        ("usage-bootstrap-authentication", "true".to_owned()),
    ];
    let object = Secret {
        metadata: ObjectMeta { name: Some(format!("bootstrap-token-{id}")), ..ObjectMeta::default() },
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        string_data: Some(data.map(|(name, value)| (name.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(client, "kube-system");
    api.create(&PostParams::default(), &object).await.context("write the token")?;
    let ca = CertificateDer::from_pem_slice(&ca_pem).context("read the CA certificate")?;
    Ok(JoinToken::new(&ca, &id, &secret))
}

/// The parts of a kubeconfig that rk writes itself (see `kubeconfig`).
#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

fn administrator(path: &Path) -> anyhow::Result<(Client, Vec<u8>)> {
    let text = files::read(path)?;
    let place = || format!("read {}", path.display());
    let Kubeconfig { clusters, users } = serde_yaml_ng::from_str(&text).with_context(place)?;
    let (cluster, user) = clusters.into_iter().next().zip(users.into_iter().next()).with_context(place)?;
    let decode = |data: &str| STANDARD.decode(data).with_context(place);
    let ca_pem = decode(&cluster.cluster.certificate_authority_data)?;
    let client = client::https(HttpsConfig {
        servers: ServerList::new(vec![cluster.cluster.server]),
        ca_pem: ca_pem.clone(),
        credentials: Credentials::Certificate {
            cert_pem: decode(&user.user.client_certificate_data)?,
            key_pem: decode(&user.user.client_key_data)?,
        },
    })?;
    Ok((client, ca_pem))
}
