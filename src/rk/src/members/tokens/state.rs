//! What the store holds of the tokens, and what becomes of it: at a server's start, and by `rk token rotate`. Pure.

use super::{Flagged, Given, Kept, NODE, SERVER, Tokens};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use pki::JoinToken;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use storage::ClusterId;

/// Tokens that were replaced and are remembered, the newest; a few lines of text each.
const MOST_RETIRED: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// In which this was written: a store that was restored from a snapshot is of a later one.
    cluster: u64,
    generation: u64,
    server: String,
    node: String,
    retired: Vec<Retired>,
}

/// A token that somebody has replaced, perhaps because it was no secret any more: no flag brings it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Retired {
    /// [`SERVER`] or [`NODE`].
    of: String,
    sha256: String,
    at: Timestamp,
}

/// A flag that does not agree with the cluster.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    #[error(
        "{flag} is a token of {whom} that `rk token rotate` has replaced, {at}: leave it out (this server needs none), or \
         give what `rk token {command}` shows on a server"
    )]
    Retired { flag: &'static str, whom: &'static str, command: &'static str, at: Timestamp },
    #[error(
        "{flag} differs from the cluster's token of {whom}, which all of its servers share: leave it out (this server needs \
         none), or change it for all of them with `rk token rotate {command}` on one that runs"
    )]
    Differs { flag: &'static str, whom: &'static str, command: &'static str },
}

/// New secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Rotation {
    pub(crate) server: Option<String>,
    pub(crate) node: Option<String>,
}

impl State {
    fn of(cluster: ClusterId, tokens: &Tokens, retired: Vec<Retired>) -> Self {
        let (server, node) = (tokens.server.to_string(), tokens.node.to_string());
        Self { cluster: cluster.id, generation: cluster.generation, server, node, retired }
    }

    pub(super) fn tokens(&self) -> Result<Tokens, pki::token::TokenError> {
        Ok(Tokens { server: self.server.parse()?, node: self.node.parse()? })
    }

    fn retired(&self, of: &str, secret: &str) -> Option<Timestamp> {
        let hash = hash(secret);
        self.retired.iter().find(|retired| retired.of == of && retired.sha256 == hash).map(|retired| retired.at)
    }
}

fn hash(secret: &str) -> String {
    STANDARD.encode(Sha256::digest(secret))
}

/// Where a server starts.
pub(super) struct Place<'a> {
    pub(super) cluster: ClusterId,
    pub(super) alone: bool,
    pub(super) ca_der: &'a [u8],
}

/// What is to be in the store once a server has started that found `found` there and `kept` in its files.
pub(super) fn settled(
    found: Option<&State>,
    kept: &Kept,
    given: &Given,
    place: &Place<'_>,
) -> anyhow::Result<(State, Tokens)> {
    let random = |user: &str| JoinToken::new(place.ca_der, user, &JoinToken::random_secret());
    let known = found.map(State::tokens).transpose()?;
    let here =
        found.is_some_and(|state| (state.cluster, state.generation) == (place.cluster.id, place.cluster.generation));
    // After a restore, what was replaced since the snapshot must not come back: the files are as new or newer.
    let trusted = known.clone().filter(|_| here || !place.alone);
    let first = |trusted: Option<&JoinToken>, kept: &Option<JoinToken>, known: Option<&JoinToken>, user: &str| {
        trusted.or(kept.as_ref()).or(known).cloned().unwrap_or_else(|| random(user))
    };
    let [trusted, known] = [&trusted, &known].map(Option::as_ref);
    let server = first(trusted.map(|t| &t.server), &kept.server, known.map(|t| &t.server), SERVER);
    let node = first(trusted.map(|t| &t.node), &kept.node, known.map(|t| &t.node), NODE);
    let fresh = found.is_none() && kept.server.is_none() && kept.node.is_none();
    let state =
        State::of(place.cluster, &Tokens { server, node }, found.map(|f| f.retired.clone()).unwrap_or_default());
    let tokens = state.tokens()?;
    let tokens = Tokens {
        server: by_flag(&state, SERVER, tokens.server, given.server.as_ref(), place.alone || fresh)?,
        node: by_flag(&state, NODE, tokens.node, given.node.as_ref(), place.alone || fresh)?,
    };
    Ok((State::of(place.cluster, &tokens, state.retired), tokens))
}

fn by_flag(
    state: &State,
    of: &'static str,
    present: JoinToken,
    given: Option<&Flagged>,
    may_change: bool,
) -> Result<JoinToken, Contradiction> {
    let Some(Flagged { flag, token }) = given.filter(|given| given.token != present) else { return Ok(present) };
    let (whom, command) = if of == SERVER { ("servers", "server") } else { ("agents", "agent") };
    if let Some(at) = state.retired(of, token.secret()) {
        return Err(Contradiction::Retired { flag, whom, command, at });
    }
    if may_change { Ok(token.clone()) } else { Err(Contradiction::Differs { flag, whom, command }) }
}

/// Refuses flags that contradict the tokens of a cluster that lets this server in.
pub(super) fn agree(tokens: &Tokens, given: &Given) -> Result<(), Contradiction> {
    compare(&State::of(ClusterId { id: 0, generation: 0 }, tokens, Vec::new()), tokens, given)
}

/// Whether a server with these flags could start among several.
pub(super) fn compare(state: &State, tokens: &Tokens, given: &Given) -> Result<(), Contradiction> {
    by_flag(state, SERVER, tokens.server.clone(), given.server.as_ref(), false)?;
    by_flag(state, NODE, tokens.node.clone(), given.node.as_ref(), false)?;
    Ok(())
}

/// The tokens after a rotation; those that are replaced are remembered.
pub(super) fn rotated(
    state: &State,
    rotation: &Rotation,
    cluster: ClusterId,
    ca_der: &[u8],
    now: Timestamp,
) -> Result<State, pki::token::TokenError> {
    let Tokens { mut server, mut node } = state.tokens()?;
    let mut retired = state.retired.clone();
    for (of, token, secret) in [(SERVER, &mut server, &rotation.server), (NODE, &mut node, &rotation.node)] {
        let Some(secret) = secret.as_deref().filter(|secret| *secret != token.secret()) else { continue };
        retired.push(Retired { of: of.to_owned(), sha256: hash(token.secret()), at: now });
        let renewed = hash(secret);
        // Whoever names an old one again wants it.
        retired.retain(|retired| retired.of != of || retired.sha256 != renewed);
        *token = JoinToken::new(ca_der, of, secret);
    }
    retired.drain(..retired.len().saturating_sub(MOST_RETIRED));
    Ok(State::of(cluster, &Tokens { server, node }, retired))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = b"a certificate";
    const HERE: ClusterId = ClusterId { id: 7, generation: 0 };

    fn place(alone: bool) -> Place<'static> {
        Place { cluster: HERE, alone, ca_der: CA }
    }

    fn given(token: Option<&str>, for_agents: Option<&str>) -> Given {
        Given::read(token, for_agents, CA).unwrap()
    }

    fn start(found: Option<&State>, given: &Given, alone: bool) -> Result<(String, String), String> {
        let settled = settled(found, &Kept::default(), given, &place(alone)).map_err(|error| error.to_string())?;
        Ok((settled.1.server.secret().to_owned(), settled.1.node.secret().to_owned()))
    }

    fn state(server: &str, node: &str) -> State {
        let tokens = Tokens { server: JoinToken::new(CA, SERVER, server), node: JoinToken::new(CA, NODE, node) };
        State::of(HERE, &tokens, Vec::new())
    }

    fn pair(server: &str, node: &str) -> Result<(String, String), String> {
        Ok((server.to_owned(), node.to_owned()))
    }

    fn rotate(state: &State, server: Option<&str>, node: Option<&str>) -> State {
        let rotation = Rotation { server: server.map(str::to_owned), node: node.map(str::to_owned) };
        rotated(state, &rotation, HERE, CA, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn without_flags_each_has_a_secret_of_its_own_and_keeps_it() {
        let (made, tokens) = settled(None, &Kept::default(), &Given::default(), &place(true)).unwrap();
        assert_ne!(tokens.server.secret(), tokens.node.secret());
        let again = settled(Some(&made), &Kept::default(), &Given::default(), &place(false)).unwrap();
        assert_eq!(again, (made, tokens));
    }

    #[test]
    fn files_of_an_older_version_are_taken_into_the_store() {
        let kept = Kept { server: Some(JoinToken::new(CA, SERVER, "old")), node: None };
        let (_, tokens) = settled(None, &kept, &Given::default(), &place(true)).unwrap();
        assert_eq!(tokens.server.secret(), "old");
    }

    #[test]
    fn a_flag_changes_the_tokens_of_a_server_that_is_alone() {
        let before = state("a", "b");
        assert_eq!(start(Some(&before), &given(Some("c"), None), true), pair("c", "c"));
        assert_eq!(start(Some(&before), &given(None, Some("c")), true), pair("a", "c"));
    }

    #[test]
    fn among_several_a_flag_must_agree() {
        let cluster = state("a", "b");
        assert_eq!(start(Some(&cluster), &given(Some("a"), Some("b")), false), pair("a", "b"));
        let error = start(Some(&cluster), &given(Some("c"), Some("b")), false).unwrap_err();
        assert!(error.contains("--token differs") && error.contains("rk token rotate server"), "{error}");
        let error = start(Some(&cluster), &given(Some("a"), None), false).unwrap_err();
        assert!(error.contains("--token differs") && error.contains("rk token rotate agent"), "{error}");
        let error = agree(&cluster.tokens().unwrap(), &given(None, Some("c"))).unwrap_err().to_string();
        assert!(error.contains("--agent-token differs"), "{error}");
    }

    #[test]
    fn no_flag_brings_back_what_was_replaced() {
        let after = rotate(&state("a", "a"), Some("new"), None);
        for alone in [true, false] {
            let error = start(Some(&after), &given(Some("a"), None), alone).unwrap_err();
            assert!(error.contains("has replaced") && error.contains("rk token server"), "{error}");
            assert_eq!(start(Some(&after), &given(Some("new"), Some("a")), alone), pair("new", "a"));
        }
        let back = rotate(&after, Some("a"), None);
        assert_eq!(start(Some(&back), &given(Some("a"), None), false), pair("a", "a"));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let many = (0..100).fold(state("a", "b"), |state, number| rotate(&state, Some(&number.to_string()), None));
        assert_eq!(many.retired.len(), MOST_RETIRED);
        assert!(many.retired(SERVER, "98").is_some() && many.retired(SERVER, "a").is_none());
    }

    #[test]
    fn a_restored_snapshot_does_not_bring_back_a_token_either() {
        let of_snapshot = state("leaked", "b");
        let place = Place { cluster: ClusterId { generation: 1, ..HERE }, ..place(true) };
        let kept = Kept { server: Some(JoinToken::new(CA, SERVER, "new")), node: None };
        let (state, tokens) = settled(Some(&of_snapshot), &kept, &Given::default(), &place).unwrap();
        assert_eq!((tokens.server.secret(), tokens.node.secret(), state.generation), ("new", "b", 1));
    }
}
