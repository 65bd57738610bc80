//! A server's place in the membership: it makes itself known where it is, and a voter once it has caught up. Nothing runs
//! here once that is so.

use super::credentials::Credentials;
use super::enter::first_of;
use super::kept::{Kept, Settings};
use super::{MEMBERS_PATH, Place};
use crate::https::Https;
use anyhow::bail;
use bytes::Bytes;
use client::backoff::Backoff;
use http::{Request, header};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::{Member, MemberError, Role, Status, Store};

/// A server that has not answered for so long is told to be out of reach.
const LATELY: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Presence {
    pub(crate) store: Store,
    pub(crate) credentials: Arc<Credentials>,
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
                Step::Correct => self.store.update_member(id, self.me.clone()).await,
                Step::Promote => self.store.promote(id).await,
                Step::Done => return self.remember(),
            };
            match outcome {
                Ok(()) => {
                    // What was asked is in the log; it counts here once it has come back.
                    drop(self.store.read_barrier().await);
                    backoff.reset();
                }
                // Whoever leads cannot hear of a server's new address from a server that it cannot reach.
                Err(MemberError::NoLeader) if step == Step::Correct => self.announce().await?,
                Err(error) => tracing::debug!(?step, %error, "not yet a voter where this server is"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Tells any other server which member this is and where it is reached.
    async fn announce(&self) -> anyhow::Result<()> {
        let place =
            Place { id: self.store.node_id(), name: self.me.name.clone(), addresses: self.me.addresses.clone() };
        let body = Bytes::from(serde_json::to_vec(&place)?);
        let mut servers: Vec<String> = self.others().iter().map(|address| format!("https://{address}")).collect();
        servers.extend(self.hints.iter().cloned());
        servers.sort();
        servers.dedup();
        first_of(&servers, |server| {
            let body = body.clone();
            async move {
                self.credentials.refresh()?;
                let https = Https::new(&server, self.credentials.client_tls()?);
                let request = Request::post(MEMBERS_PATH).header(header::CONTENT_TYPE, "application/json");
                https.send(request.body(body)?).await.map(drop)
            }
        })
        .await
    }

    /// Addresses of the other members.
    fn others(&self) -> Vec<String> {
        others(&self.store)
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
    use storage::{ClusterId, MemberStatus};

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
