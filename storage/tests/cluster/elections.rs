//! Who leads, and how soon after the last one is gone.

use std::time::Duration;

use storage::Timing;
use tokio::time::Instant;

use super::net::{Members, put_until_acknowledged, value};

#[tokio::test]
async fn with_default_times_a_write_is_acknowledged_three_seconds_after_the_leader_died() {
    let members = Members::with(3, Timing::default()).await;
    let mut worst = Duration::ZERO;
    let leader = members.leader().await;
    let other = members.ids().into_iter().find(|id| *id != leader).unwrap();
    put_until_acknowledged(&members.store(other), "before", "x").await;
    members.kill(leader);
    let killed = Instant::now();
    put_until_acknowledged(&members.store(other), "after", "y").await;
    worst = worst.max(killed.elapsed());
    println!("leader killed; next write acknowledged after {worst:?}");
    assert!(worst <= Duration::from_secs(3), "{worst:?}");
    assert_eq!(value(&members.store(other), "before").as_deref(), Some("x"));
}
