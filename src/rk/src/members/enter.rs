//! The joining side, up to the store: is this machine a server of a cluster already, and if it is to become one, of
//! which. Called once, before the store is opened.

use super::credentials::Credentials;
use super::kept::{self, Kept};
use super::tokens::{Given, Tokens, shared};
use super::{ENTER_PATH, EnterRequest, Entered};
use crate::config::ServerConfig;
use crate::https::Https;
use crate::join::client::{basic, is_final, trusted_ca, verified_tls};
use crate::preflight;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use client::backoff::Backoff;
use http::{Request, header};
use jiff::Timestamp;
use pki::{Ca, JoinToken, KeyCert, files};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::PathBuf;
use std::time::Duration;
use storage::ClusterId;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// This server was taken out of its cluster. It must not be started again and again.
#[derive(Debug, thiserror::Error)]
#[error(
    "this server was removed from its cluster (`rk member remove`). Its pods' containers go on running until `rk kill-all`. To \
     let it join again, move {0} out of the way and start it with --server and --token; to be rid of it, remove rk"
)]
pub(crate) struct Removed(pub(crate) String);

impl Removed {
    pub(crate) fn of(config: &ServerConfig) -> Self {
        Self(config.data_dir.join("server").display().to_string())
    }
}

/// Settles which cluster this server belongs to, and takes over its settings. `Some`: it has been let into that cluster
/// and has no store yet.
pub(crate) async fn enter(config: &mut ServerConfig) -> anyhow::Result<Option<ClusterId>> {
    if kept::removed_path(&config.data_dir).exists() {
        bail!(Removed::of(config));
    }
    let kept = Kept::load(&config.data_dir)?;
    let has_store = kept::has_store(&config.data_dir);
    let token = join_token(config)?;
    if has_store || kept.is_some() {
        own_cluster(config, token.as_ref())?;
    }
    match kept {
        Some(kept) => {
            config.adopt(&kept.settings, kept.servers.is_empty())?;
            if !has_store && !kept.servers.is_empty() {
                return by_certificate(config, kept).await.map(Some);
            }
        }
        // A store of before settings were kept: the flags say what they are.
        None if has_store => {}
        None => {}
    }
    if has_store || config.servers.is_empty() {
        return Ok(None);
    }
    let token =
        token.context("a server that joins needs --token (or RK_TOKEN): `rk token server` on a server shows it")?;
    by_token(config, &token).await.map(Some)
}

/// Tokens for joining are whole: only so is it certain to which cluster one gives oneself.
fn join_token(config: &ServerConfig) -> anyhow::Result<Option<JoinToken>> {
    let given = config.token.as_deref().filter(|_| !config.servers.is_empty());
    let parse = |text: &str| {
        text.parse().context("--token: a server joins with the whole token, as `rk token server` on a server shows it")
    };
    given.map(parse).transpose()
}

fn tls_folder(config: &ServerConfig) -> PathBuf {
    config.data_dir.join("server/tls")
}

/// Refuses a token of another cluster than the one whose data is here.
fn own_cluster(config: &ServerConfig, token: Option<&JoinToken>) -> anyhow::Result<()> {
    let Some(token) = token else { return Ok(()) };
    let path = tls_folder(config).join("ca.crt");
    let Some(pem) = files::read_if_present(&path)? else { return Ok(()) };
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).with_context(|| format!("read {}", path.display()))?;
    let folder = config.data_dir.join("server");
    ensure!(
        token.is_for(&der),
        "{0} holds the data of another cluster than --token is for: move {0} out of the way to join that one, or leave \
         out --server and --token to go on with this one",
        folder.display()
    );
    tracing::info!("--server and --token are not needed any more: this is a server of that cluster already");
    Ok(())
}

async fn by_token(config: &mut ServerConfig, token: &JoinToken) -> anyhow::Result<ClusterId> {
    let authorization = basic(token);
    let servers = config.servers.clone();
    let (name, authorization) = (config.name.as_str(), authorization.as_str());
    let (server, ca_pem, entered) = first_of(&servers, |server| async move {
        let ca_pem = trusted_ca(&server, token).await?;
        let https = Https::new(&server, verified_tls(&ca_pem, None)?);
        let entered = ask(&https, name, 0, Some(authorization)).await?;
        Ok((server, ca_pem, entered))
    })
    .await?;
    ensure!(entered.ca_cert == ca_pem, "the server at {server} sent another CA than it is trusted by");
    take_over(config, entered)
}

/// Back into a cluster that this server belongs to and whose CA it has: its store is gone, or was moved aside.
async fn by_certificate(config: &mut ServerConfig, kept: Kept) -> anyhow::Result<ClusterId> {
    let folder = tls_folder(config);
    let pair =
        KeyCert { cert_pem: files::read(&folder.join("ca.crt"))?, key_pem: files::read(&folder.join("ca.key"))? };
    let ca = Ca::from_pem(&pair)?;
    let credentials = Credentials::issue(&ca, &config.name)?;
    let mut servers: Vec<String> = kept.servers.iter().map(|address| format!("https://{address}")).collect();
    servers.extend(config.servers.iter().cloned());
    tracing::info!(?servers, "this server has no store; joining its cluster again");
    let (name, credentials, kept) = (config.name.as_str(), &credentials, &kept);
    let entered = first_of(&servers, |server| async move {
        let https = Https::new(&server, credentials.client_tls()?);
        ask(&https, name, kept.generation, None).await
    })
    .await?;
    ensure!(entered.ca_cert.as_bytes() == pair.cert_pem.as_bytes(), "the other servers have another CA than this one");
    take_over(config, entered)
}

async fn ask(https: &Https, name: &str, generation: u64, authorization: Option<&str>) -> anyhow::Result<Entered> {
    let request = EnterRequest { name: name.to_owned(), version: crate::version(), generation };
    let mut http = Request::post(ENTER_PATH).header(header::CONTENT_TYPE, "application/json");
    if let Some(authorization) = authorization {
        http = http.header(header::AUTHORIZATION, authorization);
    }
    let answer = https.send(http.body(Bytes::from(serde_json::to_vec(&request)?))?).await?;
    read(&answer)
}

/// Reads a server's answer. What is wrong with it is told without showing it.
fn read(answer: &[u8]) -> anyhow::Result<Entered> {
    serde_json::from_slice(answer).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!("the server's answer is malformed (line {line}, column {column}): is it of another version?")
    })
}

/// Asks one server after the other until one answers. A refusal is final.
pub(super) async fn first_of<T, F>(servers: &[String], mut ask: impl FnMut(String) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut told = false;
    loop {
        for server in servers {
            match ask(server.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if is_final(&error) => return Err(error),
                Err(error) if !told => {
                    tracing::warn!(%server, error = format!("{error:#}"), "server not reachable; trying until one is");
                }
                Err(error) => tracing::debug!(%server, error = format!("{error:#}"), "server not reachable"),
            }
        }
        told = true;
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Checks what came, and keeps it. Nothing is written before all of it is in order.
fn take_over(config: &mut ServerConfig, entered: Entered) -> anyhow::Result<ClusterId> {
    let cluster = entered.cluster();
    let pair = KeyCert { cert_pem: entered.ca_cert, key_pem: entered.ca_key };
    let ca = Ca::from_pem(&pair).context("the cluster's CA")?;
    let token = |text: &str| -> anyhow::Result<JoinToken> {
        let token: JoinToken = text.parse().context("a token of the cluster")?;
        ensure!(token.is_for(ca.cert_der()), "a token of the cluster is for another CA");
        Ok(token)
    };
    let tokens = Tokens { server: token(&entered.server_token)?, node: token(&entered.node_token)? };
    shared::agree(&tokens, &Given::of(config, ca.cert_der())?)?;
    config.adopt(&entered.settings, false)?;
    let own = config.own_address();
    let servers = entered.servers.into_iter().filter(|address| *address != own).collect();
    let folder = tls_folder(config);
    preflight::private_folder(&config.data_dir.join("server"))?;
    files::write_private(&folder.join("ca.key"), pair.key_pem.as_bytes())?;
    files::write_private(&folder.join("ca.crt"), pair.cert_pem.as_bytes())?;
    files::write_private(&folder.join("service-account.key"), entered.service_account_key.as_bytes())?;
    tokens.store(&config.data_dir)?;
    Kept { settings: entered.settings, servers, generation: cluster.generation }.store(&config.data_dir)?;
    tracing::info!(%cluster, at = %Timestamp::now(), "let into the cluster");
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_cannot_be_read_is_not_shown() {
        for answer in ["", "{", r#"{"ca_key": "top secret", "cluster": "nothing"}"#, "null", "[1]"] {
            let error = format!("{:#}", read(answer.as_bytes()).err().unwrap());
            assert!(error.contains("malformed") && !error.contains("secret"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn servers_are_asked_in_turn_until_one_answers() {
        let mut asked = Vec::new();
        let servers = ["a".to_owned(), "b".to_owned()];
        let answer = first_of(&servers, |server| {
            asked.push(server.clone());
            let answer = if asked.len() == 4 { Ok(server) } else { Err(anyhow::anyhow!("not reachable")) };
            std::future::ready(answer)
        })
        .await;
        assert_eq!((answer.unwrap(), asked.join(" ")), ("b".to_owned(), "a b a b".to_owned()));
    }
}
