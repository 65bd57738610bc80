//! Damaged files: located, set aside, made up for from the others, and never at the price of a lost write.

use std::fs;
use std::path::PathBuf;

use storage::{Config, OpenError, Store};
use tokio::time::timeout;

use super::net::{Members, PATIENCE, put_until_acknowledged, timing, value};

fn newest(dir: PathBuf, kind: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|found| found == kind)).max().unwrap()
}

/// Flips a bit in the middle of what is written in a file.
fn damage(file: &PathBuf) {
    let mut content = fs::read(file).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap();
    content[end / 2] ^= 4;
    fs::write(file, content).unwrap();
}

async fn recovers_from(damaged: fn(&Members) -> PathBuf) {
    let mut members = Members::with_small_files(timing()).await;
    members.join(2).await;
    members.join(3).await;
    for n in 0..60 {
        put_until_acknowledged(&members.store(1), &format!("k{n}"), &format!("{n}").repeat(2000)).await;
    }
    members.agree().await;
    members.kill(2);
    members
        .wait("the end of the killed member", |members| {
            fs::File::open(members.dir(2).join("LOCK")).unwrap().try_lock().is_ok().then_some(())
        })
        .await;
    let file = damaged(&members);
    damage(&file);
    let store = members.start(2).await;
    members.wait("the end of the recovery", |_| (!store.status().recovering).then_some(())).await;
    members.agree().await;
    assert!((0..60).all(|n| value(&store, &format!("k{n}")) == Some(format!("{n}").repeat(2000))));
    let aside = members.dir(2).join("damaged");
    let kept = fs::read_dir(&aside)
        .unwrap()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&*file.file_name().unwrap().to_string_lossy()));
    assert!(kept, "{} was not kept", file.display());
    // It counts again: with another one gone, the two go on.
    members.kill(1);
    put_until_acknowledged(&store, "after", "value").await;
    drop(store);
    members.kill(2);
    assert!(!members.start(2).await.status().recovering);
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_is_made_up_for_from_the_others() {
    recovers_from(|members| newest(members.dir(2).join("log"), "log")).await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_snapshot_is_made_up_for_from_the_others() {
    recovers_from(|members| newest(members.dir(2).join("snapshots"), "snap")).await;
}

#[tokio::test]
async fn a_lost_vote_cannot_be_made_up_for() {
    let mut members = Members::of(3).await;
    members.kill(2);
    members
        .wait("the end of the killed member", |members| {
            fs::File::open(members.dir(2).join("LOCK")).unwrap().try_lock().is_ok().then_some(())
        })
        .await;
    fs::write(members.dir(2).join("state"), vec![7; 8192]).unwrap();
    let error = members.try_start(2).await.unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { file, .. } if file.ends_with("state")), "{error}");
}

#[tokio::test]
async fn a_member_that_lost_its_log_helps_nobody_to_lead_before_it_has_caught_up() {
    let mut members = Members::of(3).await;
    put_until_acknowledged(&members.store(1), "key", "value").await;
    members.agree().await;
    // One is behind, one has all, and the one that has all as well is damaged.
    let leader = members.leader().await;
    let (behind, damaged) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    members.kill(behind);
    put_until_acknowledged(&members.store(leader), "acknowledged", "by two").await;
    members.kill(leader);
    members.kill(damaged);
    members
        .wait("the end of the killed member", |members| {
            fs::File::open(members.dir(damaged).join("LOCK")).unwrap().try_lock().is_ok().then_some(())
        })
        .await;
    damage(&newest(members.dir(damaged).join("log"), "log"));
    let (one, other) = (members.start(behind).await, members.start(damaged).await);
    // Without the vote of the damaged one nobody leads, so that the acknowledged write is not lost.
    assert!(timeout(PATIENCE, one.read_barrier()).await.unwrap().is_err());
    assert!(other.status().recovering && other.status().leader != Some(damaged));
    members.start(leader).await;
    members.agree().await;
    for store in members.stores() {
        timeout(PATIENCE, store.read_barrier()).await.unwrap().unwrap();
        assert_eq!(value(&store, "acknowledged").as_deref(), Some("by two"));
    }
    members.wait("the end of the recovery", |_| (!other.status().recovering).then_some(())).await;
}

#[tokio::test]
async fn alone_damage_is_an_error_that_names_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Config::new(dir.path(), 1)).await.unwrap();
    put_until_acknowledged(&store, "key", "value").await;
    put_until_acknowledged(&store, "key", "again").await;
    store.shutdown().await;
    let file = newest(dir.path().join("log"), "log");
    damage(&file);
    let error = Store::open(Config::new(dir.path(), 1)).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Corrupt { file: named, offset, .. } if *named == file && *offset > 0),
        "{error}"
    );
    assert!(!dir.path().join("damaged").exists());
}
