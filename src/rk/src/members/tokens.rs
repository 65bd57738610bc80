//! The two tokens of a cluster. The server token gives the whole cluster away, so it is for servers; the node token lets
//! agents in. A secret that the first server is started with is good for both, unless agents are given one of their own.

use crate::config::{ServerConfig, node_token_path, server_token_path};
use anyhow::Context;
use pki::{JoinToken, files};

const SERVER: &str = "server";
const NODE: &str = "node";

#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) server: JoinToken,
    pub(crate) node: JoinToken,
}

impl Tokens {
    /// The tokens by flags, by files, or new ones; kept in files. With `--server` the token was for joining: those that
    /// came from the cluster are in the files then.
    pub(crate) fn settle(config: &ServerConfig, ca_der: &[u8]) -> anyhow::Result<Self> {
        let own = |given: &Option<String>| given.clone().filter(|_| config.servers.is_empty());
        let kept = Kept {
            server: read(&server_token_path(&config.data_dir))?,
            node: read(&node_token_path(&config.data_dir))?,
        };
        let tokens = kept.with(own(&config.token).as_deref(), own(&config.agent_token).as_deref(), ca_der)?;
        tokens.store(config)?;
        Ok(tokens)
    }

    pub(crate) fn store(&self, config: &ServerConfig) -> anyhow::Result<()> {
        files::write_private(&server_token_path(&config.data_dir), format!("{}\n", self.server).as_bytes())?;
        files::write_private(&node_token_path(&config.data_dir), format!("{}\n", self.node).as_bytes())?;
        Ok(())
    }
}

/// What the files hold.
struct Kept {
    server: Option<JoinToken>,
    node: Option<JoinToken>,
}

impl Kept {
    fn with(self, given: Option<&str>, for_agents: Option<&str>, ca_der: &[u8]) -> anyhow::Result<Tokens> {
        let given = given.map(|text| parse(text, SERVER, ca_der).context("--token")).transpose()?;
        let for_agents = for_agents.map(|text| parse(text, NODE, ca_der).context("--agent-token")).transpose()?;
        let random = |user: &str| JoinToken::new(ca_der, user, &JoinToken::random_secret());
        // A whole token of agents lets no servers in, now as before.
        let (for_servers, for_nodes) = match given {
            Some(token) if token.user() == NODE => (None, Some(token)),
            Some(token) => {
                let node = JoinToken::new(ca_der, NODE, token.secret());
                (Some(token), Some(node))
            }
            None => (None, None),
        };
        Ok(Tokens {
            server: for_servers.or(self.server).unwrap_or_else(|| random(SERVER)),
            node: for_agents.or(for_nodes).or(self.node).unwrap_or_else(|| random(NODE)),
        })
    }
}

fn read(path: &std::path::Path) -> anyhow::Result<Option<JoinToken>> {
    let Some(text) = files::read_if_present(path)? else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("read {}", path.display()))
}

/// A whole join token of this cluster, or a bare secret.
fn parse(given: &str, user: &str, ca_der: &[u8]) -> anyhow::Result<JoinToken> {
    if !given.starts_with("K10") {
        return Ok(JoinToken::new(ca_der, user, given));
    }
    let token: JoinToken = given.parse()?;
    anyhow::ensure!(token.is_for(ca_der), "it is another cluster's: this data dir has its own CA");
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = b"a certificate";

    fn none() -> Kept {
        Kept { server: None, node: None }
    }

    #[test]
    fn without_flags_each_has_a_secret_of_its_own_and_keeps_it() {
        let made = none().with(None, None, CA).unwrap();
        assert_ne!(made.server.secret(), made.node.secret());
        let kept = Kept { server: Some(made.server.clone()), node: Some(made.node.clone()) };
        let again = kept.with(None, None, CA).unwrap();
        assert_eq!((again.server, again.node), (made.server, made.node));
    }

    #[test]
    fn a_given_secret_is_good_for_both_unless_agents_have_their_own() {
        let both = none().with(Some("s3cret"), None, CA).unwrap();
        assert_eq!((both.server.user(), both.server.secret()), ("server", "s3cret"));
        assert_eq!((both.node.user(), both.node.secret()), ("node", "s3cret"));
        let apart = none().with(Some("s3cret"), Some("0ther"), CA).unwrap();
        assert_eq!((apart.server.secret(), apart.node.secret()), ("s3cret", "0ther"));
    }

    #[test]
    fn a_whole_token_of_agents_leaves_the_servers_alone() {
        let server = JoinToken::new(CA, "server", "old");
        let kept = Kept { server: Some(server.clone()), node: None };
        let whole = JoinToken::new(CA, "node", "agents").to_string();
        let tokens = kept.with(Some(&whole), None, CA).unwrap();
        assert_eq!((tokens.server, tokens.node.secret()), (server, "agents"));
        let foreign = JoinToken::new(b"another", "server", "s").to_string();
        let error = none().with(Some(&foreign), None, CA).unwrap_err();
        assert!(format!("{error:#}").contains("another cluster's"), "{error:#}");
    }
}
