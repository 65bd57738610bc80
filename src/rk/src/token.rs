//! `rk token`: the cluster's own join tokens, for agents and for servers, and further ones for agents that expire.
//!
//! A token with an end is a Secret of type `bootstrap.kubernetes.io/token` in kube-system: id, secret, expiration.

use crate::cli::{TokenArgs, TokenCommand, WhichToken};
use crate::config;
use crate::https::Https;
use crate::members::TOKENS_PATH;
use crate::members::tokens::{NODE, Rotation, SERVER, parse};
use anyhow::{Context, ensure};
use bytes::Bytes;
use client::{Api, tls};
use http::{Request, header};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{ObjectMeta, PostParams};
use pki::{JoinToken, files};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    match args.command {
        None | Some(TokenCommand::Agent) => print!("{}", files::read(&config::node_token_path(&args.data_dir))?),
        Some(TokenCommand::Server) => print!("{}", files::read(&config::server_token_path(&args.data_dir))?),
        Some(TokenCommand::Rotate { which, new_token, kubeconfig }) => {
            rotate(&kubeconfig, which, new_token.as_deref()).await?;
        }
        Some(TokenCommand::Create { ttl, kubeconfig }) => {
            let ttl =
                objects::duration::parse(&ttl).with_context(|| format!("--ttl {ttl:?} must look like 30m or 24h"))?;
            ensure!(ttl > SignedDuration::ZERO, "--ttl must be longer than nothing");
            println!("{}", create(&kubeconfig, ttl).await?);
        }
    }
    Ok(())
}

/// The new secrets are made here, so that no server ever tells one.
async fn rotate(kubeconfig: &Path, which: Option<WhichToken>, new: Option<&str>) -> anyhow::Result<()> {
    let config = crate::kubeconfig::read(kubeconfig)?;
    let ca = CertificateDer::from_pem_slice(&config.ca_pem).context("read the CA certificate")?;
    let make = |user| match new {
        Some(new) => Ok(JoinToken::new(&ca, user, parse(new.trim(), user, &ca).context("--new-token")?.secret())),
        None => Ok::<_, anyhow::Error>(JoinToken::new(&ca, user, &JoinToken::random_secret())),
    };
    let server = (which != Some(WhichToken::Agent)).then(|| make(SERVER)).transpose()?;
    let node = (which != Some(WhichToken::Server)).then(|| make(NODE)).transpose()?;
    let secret = |token: &Option<JoinToken>| token.as_ref().map(|token| token.secret().to_owned());
    let rotation = Rotation { server: secret(&server), node: secret(&node) };
    let https = Https::new(&config.server, tls::trusting(&config.ca_pem, Some(config.identity()))?);
    let request = Request::post(TOKENS_PATH).header(header::CONTENT_TYPE, "application/json");
    https.send(request.body(Bytes::from(serde_json::to_vec(&rotation)?))?).await?;
    if let Some(token) = &server {
        println!("servers join with {token}");
        eprintln!(
            "rk: keep the former token of servers with the snapshots that were taken while it held: it opens the keys in \
             them"
        );
    }
    eprintln!(
        "rk: a server whose flags, environment or config.yaml name a former token does not start again: see to that"
    );
    if let Some(token) = &node {
        println!("agents join with {token}");
    }
    Ok(())
}

async fn create(kubeconfig: &Path, ttl: SignedDuration) -> anyhow::Result<JoinToken> {
    let (client, ca_pem) = administrator(kubeconfig)?;
    let (id, secret) = (JoinToken::random_secret().split_at(6).0.to_owned(), JoinToken::random_secret());
    let end = Timestamp::now().checked_add(ttl).context("--ttl is too long")?;
    let expiration = Timestamp::from_second(end.as_second())?;
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

fn administrator(path: &Path) -> anyhow::Result<(Client, Vec<u8>)> {
    let config = crate::kubeconfig::read(path)?;
    let ca_pem = config.ca_pem.clone();
    Ok((client::https(config.into_https())?, ca_pem))
}
