//! The two tokens of a cluster. The server token gives the whole cluster away, so it is for servers; the node token lets
//! agents in. A secret that the first server is started with is good for both, unless agents are given one of their own.
//!
//! They are one thing of the cluster: the store has them ([`shared`]), sealed with the CA's key ([`sealed`]); each server
//! keeps a copy in two files, for `rk token` and for snapshots. What flags say of them counts where a cluster begins and
//! on a server that is alone; among several it must agree ([`state`]).

mod sealed;
pub(crate) mod shared;
mod state;

pub(crate) use state::Rotation;

use crate::config::{ServerConfig, node_token_path, server_token_path};
use anyhow::Context;
use pki::{JoinToken, files};
use std::path::Path;

pub(crate) const SERVER: &str = "server";
pub(crate) const NODE: &str = "node";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) server: JoinToken,
    pub(crate) node: JoinToken,
}

impl Tokens {
    pub(crate) fn store(&self, data_dir: &Path) -> anyhow::Result<()> {
        for (path, token) in [(server_token_path(data_dir), &self.server), (node_token_path(data_dir), &self.node)] {
            let text = format!("{token}\n");
            // Spares the disk what it has already.
            if files::read_if_present(&path)?.as_deref() != Some(text.as_str()) {
                files::write_private(&path, text.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// What the files hold.
#[derive(Debug, Default, Clone)]
struct Kept {
    server: Option<JoinToken>,
    node: Option<JoinToken>,
}

impl Kept {
    fn load(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { server: read(&server_token_path(data_dir))?, node: read(&node_token_path(data_dir))? })
    }
}

/// A token that a flag gives.
#[derive(Debug, Clone)]
struct Flagged {
    flag: &'static str,
    token: JoinToken,
}

/// What the flags say.
#[derive(Debug, Default, Clone)]
pub(crate) struct Given {
    server: Option<Flagged>,
    node: Option<Flagged>,
}

impl Given {
    /// With `--server`, `--token` is for joining and says nothing of what the tokens are to be.
    pub(crate) fn of(config: &ServerConfig, ca_der: &[u8]) -> anyhow::Result<Self> {
        let token = config.token.as_deref().filter(|_| config.servers.is_empty());
        Self::read(token, config.agent_token.as_deref(), ca_der)
    }

    fn read(token: Option<&str>, for_agents: Option<&str>, ca_der: &[u8]) -> anyhow::Result<Self> {
        let token = token.map(|text| parse(text, SERVER, ca_der).context("--token")).transpose()?;
        let for_agents = for_agents.map(|text| parse(text, NODE, ca_der).context("--agent-token")).transpose()?;
        let by_token = |token| Flagged { flag: "--token", token };
        // A whole token of agents lets no servers in, now as before.
        let (server, node) = match token {
            Some(token) if token.user() == NODE => (None, Some(token)),
            Some(token) => {
                let node = JoinToken::new(ca_der, NODE, token.secret());
                (Some(token), Some(node))
            }
            None => (None, None),
        };
        let for_agents = for_agents.map(|token| Flagged { flag: "--agent-token", token });
        Ok(Self { server: server.map(by_token), node: for_agents.or(node.map(by_token)) })
    }
}

fn read(path: &Path) -> anyhow::Result<Option<JoinToken>> {
    let Some(text) = files::read_if_present(path)? else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("read {}", path.display()))
}

/// A whole join token of this cluster, or a bare secret.
pub(crate) fn parse(given: &str, user: &str, ca_der: &[u8]) -> anyhow::Result<JoinToken> {
    if !given.starts_with("K10") {
        return Ok(JoinToken::new(ca_der, user, given));
    }
    let token: JoinToken = given.parse()?;
    anyhow::ensure!(token.is_for(ca_der), "it is another cluster's: this one has its own CA");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = b"a certificate";

    fn secrets(token: Option<&str>, for_agents: Option<&str>) -> (Option<String>, Option<String>) {
        let given = Given::read(token, for_agents, CA).unwrap();
        let secret = |flagged: Option<Flagged>| flagged.map(|flagged| flagged.token.secret().to_owned());
        (secret(given.server), secret(given.node))
    }

    #[test]
    fn a_given_secret_is_good_for_both_unless_agents_have_their_own() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(secrets(Some("s3cret"), None), (some("s3cret"), some("s3cret")));
        assert_eq!(secrets(Some("s3cret"), Some("0ther")), (some("s3cret"), some("0ther")));
        assert_eq!(secrets(None, Some("0ther")), (None, some("0ther")));
    }

    #[test]
    fn a_whole_token_of_agents_leaves_the_servers_alone() {
        let whole = JoinToken::new(CA, "node", "agents").to_string();
        assert_eq!(secrets(Some(&whole), None), (None, Some("agents".to_owned())));
        let foreign = JoinToken::new(b"another", "server", "s").to_string();
        let error = Given::read(Some(&foreign), None, CA).unwrap_err();
        assert!(format!("{error:#}").contains("another cluster's"), "{error:#}");
    }
}
