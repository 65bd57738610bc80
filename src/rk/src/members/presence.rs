//! A server's place in the membership: it makes itself known where it is, and a voter once it has caught up. Nothing runs
//! here once that is so.
//!
//! A server that has moved has no leader, since nobody finds it, and there may be none without it. So it tells every
//! server that it can think of where it is, and asks each where the others are, until there is a leader to record it.

use super::credentials::Credentials;
use super::enter::first_of;
use super::gate::{MemberList, MemberRow};
use super::kept::{Kept, Settings};
use super::{MEMBERS_PATH, Place};
use crate::https::Https;
use crate::join::client::is_final;
use crate::peers::Peers;
use anyhow::{Context, bail};
use bytes::Bytes;
use client::backoff::Backoff;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Request, header};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::{Member, MemberError, MemberStatus, Role, Status, Store};

/// A server that has not answered for so long is told to be out of reach.
const LATELY: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// A server that records where another one is may wait for a leader meanwhile, which may be one of those not yet told.
const ONE_TRY: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub(crate) struct Presence {
    pub(crate) store: Store,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) peers: Arc<Peers>,
    /// As this server is called and reached now.
    pub(crate) me: Member,
    /// `https://HOST:PORT` of servers, beside those in the membership, that may know the others.
    pub(crate) hints: Vec<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) settings: Settings,
}

/// What is missing to the place that this server should have.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Announce,
    Correct,
    Promote,
    Done,
}

impl Presence {
    /// Whether this server's place can be what it should be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        step(&self.store.status(), &self.me).map(drop)
    }

    /// [`Presence::settle`] for a server that is a member already, and starts.
    pub(crate) async fn keep_place(self) {
        if let Err(error) = self.settle().await {
            tracing::error!(
                error = format!("{error:#}"),
                "this server's place in the cluster is not what it should be"
            );
        }
    }

    /// Returns when this server is a voter at its present address.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let id = self.store.node_id();
        loop {
            let step = step(&self.store.status(), &self.me)?;
            let outcome = match step {
                Step::Announce => {
                    self.announce().await?;
                    Ok(())
                }
                // The store would wait for a leader that may wait for this.
                Step::Correct if self.store.reachable_leader().is_none() => self.seek().await?,
                Step::Correct => {
                    let correcting = self.store.update_member(id, self.me.clone());
                    tokio::time::timeout(ONE_TRY, correcting).await.unwrap_or(Err(MemberError::NoLeader))
                }
                Step::Promote => self.store.promote(id).await,
                Step::Done => return self.remember(),
            };
            match outcome {
                Ok(()) => {
                    // What was asked is in the log; it counts here once it has come back.
                    drop(tokio::time::timeout(ONE_TRY, self.store.read_barrier()).await);
                    backoff.reset();
                }
                Err(error) => tracing::debug!(?step, %error, "not yet a voter where this server is"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Tells any other server which member this is and where it is reached.
    async fn announce(&self) -> anyhow::Result<()> {
        first_of(&self.servers(), |server| async move { self.tell(&server).await }).await
    }

    async fn tell(&self, server: &str) -> anyhow::Result<()> {
        let place =
            Place { id: self.store.node_id(), name: self.me.name.clone(), addresses: self.me.addresses.clone() };
        let body = Bytes::from(serde_json::to_vec(&place)?);
        self.credentials.refresh()?;
        let https = Https::new(server, self.credentials.client_tls()?);
        let request = Request::post(MEMBERS_PATH).header(header::CONTENT_TYPE, "application/json");
        https.send(request.body(body)?).await.map(drop)
    }

    /// Tells all of them at once, and asks them where the others are. Returns when one has had this server's place recorded,
    /// or none could.
    async fn seek(&self) -> anyhow::Result<Result<(), MemberError>> {
        if let Some(own) = self.store.members().into_iter().find(|known| known.id == self.store.node_id()) {
            self.peers.moved(own.id, &own.member, &self.me.addresses);
        }
        let ask = |server: String| async move {
            let both = async { tokio::join!(self.tell(&server), self.learn(&server)) };
            let (told, learnt) = tokio::time::timeout(ONE_TRY, both).await.context("the server does not answer")?;
            told.and(learnt)
        };
        let mut asking: FuturesUnordered<_> = self.servers().into_iter().map(ask).collect();
        let mut refusal = None;
        while let Some(outcome) = asking.next().await {
            match outcome {
                Ok(()) => return Ok(Ok(())),
                Err(error) if is_final(&error) => refusal = Some(error),
                Err(error) => tracing::debug!(error = format!("{error:#}"), "a server could not take note of this one"),
            }
        }
        refusal.map_or(Ok(Err(MemberError::NoLeader)), Err)
    }

    /// Has a server say where the others are, as far as it knows.
    async fn learn(&self, server: &str) -> anyhow::Result<()> {
        let https = Https::new(server, self.credentials.client_tls()?);
        let answer = https.send(Request::get(format!("{MEMBERS_PATH}?here")).body(Bytes::new())?).await?;
        let list: MemberList = serde_json::from_slice(&answer)?;
        let members = self.store.members();
        for known in members.iter().filter(|known| known.id != self.store.node_id()) {
            if let Some(addresses) = elsewhere(&list.members, known) {
                self.peers.rumoured(known.id, &known.member, &addresses);
            }
        }
        Ok(())
    }

    /// Servers that may know more, at all addresses where they may be.
    fn servers(&self) -> Vec<String> {
        let me = self.store.node_id();
        let others = self.store.members().into_iter().filter(|member| member.id != me);
        let addresses = others.flat_map(|known| self.peers.addresses(known.id, &known.member));
        let mut servers: Vec<String> = addresses.map(|address| format!("https://{address}")).collect();
        servers.extend(self.hints.iter().cloned());
        servers.retain(|server| {
            server.strip_prefix("https://").is_none_or(|own| !self.me.addresses.iter().any(|address| address == own))
        });
        servers.sort();
        servers.dedup();
        servers
    }

    /// Keeps where the others are, for a start without the store.
    pub(crate) fn remember(&self) -> anyhow::Result<()> {
        remember(&self.store, &self.settings, &self.data_dir)
    }
}

fn others(store: &Store) -> Vec<String> {
    let me = store.node_id();
    let members = store.members().into_iter().filter(|member| member.id != me);
    members.flat_map(|member| member.member.addresses).collect()
}

/// Keeps the settings, and where the other servers are now.
pub(crate) fn remember(store: &Store, settings: &Settings, data_dir: &std::path::Path) -> anyhow::Result<()> {
    if store.members().is_empty() {
        // Not a member yet: what was kept is all there is.
        return Ok(());
    }
    Kept { settings: settings.clone(), servers: others(store), generation: store.cluster().generation }
        .store_if_changed(data_dir)
}

/// Where somebody believes a member to be, if that is not where it was.
fn elsewhere(rows: &[MemberRow], known: &MemberStatus) -> Option<Vec<String>> {
    let id = format!("{:016x}", known.id);
    let row = rows.iter().find(|row| row.id == id && row.name == known.member.name)?;
    let addresses: Vec<_> =
        row.addresses.iter().filter(|address| !known.member.addresses.contains(address)).cloned().collect();
    (!addresses.is_empty()).then_some(addresses)
}

fn step(status: &Status, me: &Member) -> anyhow::Result<Step> {
    let Some(known) = status.members.iter().find(|member| member.id == status.id) else { return Ok(Step::Announce) };
    let renamed = !known.member.name.is_empty() && known.member.name != me.name;
    if renamed && status.members.len() > 1 {
        bail!(
            "this server is {:?} to its cluster, and would now be {:?}: start it with --node-name={0}, or remove it on \
             another server (`rk member remove {0}`) and let it join anew",
            known.member.name,
            me.name
        );
    }
    Ok(match known.role {
        _ if known.member != *me => Step::Correct,
        Role::Learner => Step::Promote,
        Role::Voter => Step::Done,
    })
}

/// What a server waits for that has no leader.
pub(crate) fn obstacle(status: &Status) -> String {
    let voters: Vec<_> = status.members.iter().filter(|member| member.role == Role::Voter).collect();
    if voters.is_empty() {
        return "the cluster's other servers".to_owned();
    }
    let near = |id, heard: Option<Duration>| id == status.id || heard.is_some_and(|since| since < LATELY);
    let far: Vec<_> = voters.iter().filter(|voter| !near(voter.id, voter.heard)).collect();
    if status.leader.is_some() && (voters.len() - far.len()) * 2 > voters.len() {
        return "what the leader has written".to_owned();
    }
    let names: Vec<_> = far.iter().map(|voter| voter.member.name.as_str()).collect();
    let missing = if far.is_empty() { String::new() } else { format!(" (not {})", names.join(", ")) };
    format!("a leader: {} of {} servers can be reached{missing}", voters.len() - far.len(), voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::ClusterId;

    fn member(name: &str, address: &str) -> Member {
        Member { name: name.into(), addresses: vec![address.into()] }
    }

    fn status(members: &[(u64, &str, Role, Option<u64>)]) -> Status {
        let members = members.iter().map(|(id, name, role, heard)| MemberStatus {
            id: *id,
            member: member(name, name),
            role: *role,
            leader: false,
            lag: None,
            heard: heard.map(Duration::from_secs),
        });
        Status {
            cluster: ClusterId { id: 7, generation: 0 },
            id: 1,
            leader: None,
            term: 1,
            last: 1,
            applied: 1,
            members: members.collect(),
            excluded: None,
            recovering: false,
        }
    }

    #[test]
    fn a_server_takes_its_place_step_by_step() {
        let me = member("a", "a");
        assert_eq!(step(&status(&[]), &me).unwrap(), Step::Announce);
        assert_eq!(step(&status(&[(2, "b", Role::Voter, None)]), &me).unwrap(), Step::Announce);
        assert_eq!(step(&status(&[(1, "a", Role::Learner, None)]), &me).unwrap(), Step::Promote);
        assert_eq!(step(&status(&[(1, "a", Role::Voter, None)]), &me).unwrap(), Step::Done);
        assert_eq!(step(&status(&[(1, "a", Role::Voter, None)]), &member("a", "moved")).unwrap(), Step::Correct);
        assert_eq!(step(&status(&[(1, "", Role::Voter, None)]), &me).unwrap(), Step::Correct, "of an older version");
    }

    #[test]
    fn where_a_member_is_now_is_taken_from_what_others_have_heard() {
        let status = status(&[(7, "b", Role::Voter, None)]);
        let row = |id: &str, name: &str, addresses: &[&str]| MemberRow {
            name: name.into(),
            id: id.into(),
            role: "voter".into(),
            leader: false,
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            lag: None,
            heard_seconds: None,
        };
        let known = &status.members[0];
        let id = "0000000000000007";
        assert_eq!(elsewhere(&[row(id, "b", &["new", "b"])], known), Some(vec!["new".to_owned()]));
        for nothing in [row(id, "b", &["b"]), row(id, "c", &["new"]), row("8", "b", &["new"])] {
            assert_eq!(elsewhere(&[nothing], known), None);
        }
    }

    #[test]
    fn a_server_among_others_is_not_renamed() {
        let two = status(&[(1, "a", Role::Voter, None), (2, "b", Role::Voter, None)]);
        let error = step(&two, &member("c", "a")).unwrap_err().to_string();
        assert!(error.contains("--node-name=a") && error.contains("rk member remove a"), "{error}");
        let one = status(&[(1, "a", Role::Voter, None)]);
        assert_eq!(step(&one, &member("c", "a")).unwrap(), Step::Correct);
    }

    #[test]
    fn what_a_server_waits_for_names_those_that_are_missing() {
        let voter = |id, name, heard| (id, name, Role::Voter, heard);
        let three = status(&[voter(1, "a", None), voter(2, "b", Some(1)), voter(3, "c", Some(60))]);
        assert_eq!(obstacle(&three), "a leader: 2 of 3 servers can be reached (not c)");
        let alone = status(&[voter(1, "a", None), voter(2, "b", None), voter(3, "c", None)]);
        assert_eq!(obstacle(&alone), "a leader: 1 of 3 servers can be reached (not b, c)");
        assert_eq!(obstacle(&status(&[])), "the cluster's other servers");
    }
}
