//! `rk member`: the cluster's servers, by the local server's API; and, offline, the way out of a lost majority.

use crate::cli::{ListForm, MemberApi, MemberCommand};
use crate::https::Https;
use crate::members::MEMBERS_PATH;
use crate::members::gate::{MemberList, MemberRow};
use crate::members::kept;
use crate::{kubeconfig, preflight};
use anyhow::{Context, ensure};
use bytes::Bytes;
use client::tls;
use http::{Method, Request};
use serde::de::DeserializeOwned;
use std::path::Path;
use storage::OpenError;

pub(crate) async fn run(command: MemberCommand) -> anyhow::Result<()> {
    match command {
        MemberCommand::List { api, output } => {
            let list: MemberList = ask(&api, Method::GET, "").await?;
            match output {
                ListForm::Table => print!("{}", table(&list)),
                ListForm::Json => println!("{}", serde_json::to_string_pretty(&list)?),
            }
        }
        MemberCommand::Remove { api, member } => {
            let removed: MemberRow = ask(&api, Method::DELETE, &format!("/{member}")).await?;
            println!("{}", farewell(&removed));
        }
        MemberCommand::Promote { api, member } => {
            let promoted: MemberRow = ask(&api, Method::POST, &format!("/{member}/promote")).await?;
            println!("server {} ({}) is a voter", promoted.name, promoted.id);
        }
        MemberCommand::Recover { data_dir } => recover(&data_dir)?,
    }
    Ok(())
}

async fn ask<T: DeserializeOwned>(api: &MemberApi, method: Method, rest: &str) -> anyhow::Result<T> {
    let config = kubeconfig::read(&api.kubeconfig)?;
    let https = Https::new(&config.server, tls::trusting(&config.ca_pem, Some(config.identity()))?);
    let request = Request::builder().method(method).uri(format!("{MEMBERS_PATH}{rest}"));
    let answer = https.send(request.body(Bytes::new()).context("the member's name")?).await?;
    serde_json::from_slice(&answer).context("the server's answer is malformed")
}

fn table(list: &MemberList) -> String {
    let heard = |row: &MemberRow| match row.heard_seconds {
        Some(seconds) => format!("{seconds:.1}s"),
        None if row.name == list.told_by => "-".to_owned(),
        None => "never".to_owned(),
    };
    let mut rows = vec![["NAME", "ID", "ROLE", "LEADER", "ADDRESS", "LAG", "HEARD"].map(str::to_owned)];
    rows.extend(list.members.iter().map(|row| {
        [
            row.name.clone(),
            row.id.clone(),
            row.role.clone(),
            if row.leader { "*" } else { "" }.to_owned(),
            row.addresses.join(","),
            row.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
            heard(row),
        ]
    }));
    aligned(&rows)
}

/// Columns as wide as their widest cell, three blanks apart.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn farewell(removed: &MemberRow) -> String {
    let name = &removed.name;
    format!(
        "server {name} ({}) is no longer a member.\n\
         It stops by itself as soon as it hears of that, and does not start again. On that box:\n  \
         rk kill-all                               ends the containers that go on running there\n  \
         mv /var/lib/rk/server /var/lib/rk/removed lets it join again, with --server and --token\n\
         Its node stays in the cluster until `kubectl delete node {name}`.",
        removed.id
    )
}

fn recover(data_dir: &Path) -> anyhow::Result<()> {
    preflight::require_root("rk member recover")?;
    let data_dir = crate::config::real_path(data_dir)?;
    let folder = kept::store_folder(&data_dir);
    ensure!(kept::has_store(&data_dir), "{} holds no store of a server: see --data-dir", folder.display());
    ensure!(
        !kept::removed_path(&data_dir).exists(),
        "this server was removed from its cluster: recover on one that was a member to the end"
    );
    let forced = match storage::force_one_voter(&storage::Config::new(&folder, 0)) {
        Err(OpenError::Locked { .. }) => {
            anyhow::bail!("rk server is running on this box: stop it first (systemctl stop rk)")
        }
        forced => forced.with_context(|| format!("recover {}", folder.display()))?,
    };
    println!(
        "This server is a cluster of its own now, generation {}. It keeps all that it had; the store as it was is in\n  {}\n\
         Start it (systemctl start rk). The other servers, when they come back, hear of it, move their data aside and join\n\
         again by themselves. Those that are gone for good need nothing: they are no members any more.",
        forced.cluster.generation,
        forced.aside.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, leader: bool, lag: Option<u64>, heard_seconds: Option<f64>) -> MemberRow {
        MemberRow {
            name: name.into(),
            id: format!("{:016x}", 0xab),
            role: "voter".into(),
            leader,
            addresses: vec!["10.0.0.1:6443".into()],
            lag,
            heard_seconds,
        }
    }

    #[test]
    fn the_table_is_aligned_and_tells_silence_from_never() {
        let members = vec![
            row("a", true, Some(0), None),
            row("long-name", false, Some(7), Some(0.25)),
            row("c", false, None, None),
        ];
        let list = MemberList { cluster: "1/0".into(), told_by: "a".into(), members };
        assert_eq!(
            table(&list),
            "NAME        ID                 ROLE    LEADER   ADDRESS         LAG   HEARD\n\
             a           00000000000000ab   voter   *        10.0.0.1:6443   0     -\n\
             long-name   00000000000000ab   voter            10.0.0.1:6443   7     0.2s\n\
             c           00000000000000ab   voter            10.0.0.1:6443   -     never\n"
        );
    }
}
