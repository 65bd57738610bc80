//! The server's own snapshots: one each interval, as long as anything changes, and the newest few of them kept.
//!
//! Every server takes its own: the files are of use on the box that is left. The time since the last one is told by the
//! file itself when the server starts; from then on the monotonic clock counts, so that a clock which jumps moves
//! nothing. There is one timer, for the next snapshot.

use super::folder::{self, Entry, Facts};
use super::maker::{BASE, Saved, Snapshots};
use super::s3::S3;
use super::settings::S3Settings;
use anyhow::Context;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A server that has just started has better things to do.
const SETTLE: Duration = Duration::from_secs(60);
/// After a failure, such as a full disk.
const RETRY: Duration = Duration::from_secs(3600);

impl Snapshots {
    /// Takes snapshots until `stop`.
    pub(crate) async fn keep_taking(self, stop: CancellationToken) {
        let Some(interval) = self.settings().interval else { return };
        let mut due = Instant::now() + first_wait(interval, self.age().await);
        let mut pending = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
            }
            let wait = match self.take_turn(&mut pending).await {
                Ok(()) => interval,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the scheduled snapshot failed");
                    interval.min(RETRY)
                }
            };
            due = Instant::now() + wait;
        }
    }

    /// Time since the last scheduled snapshot, or since there could have been one.
    async fn age(&self) -> Option<Duration> {
        let last = self.last().await.map(|facts| facts.created);
        let began = || modified(&self.data_dir().join("server/tls/ca.crt"));
        let elapsed = Timestamp::now().as_second() - last.or_else(began)?;
        u64::try_from(elapsed).ok().map(Duration::from_secs)
    }

    async fn last(&self) -> Option<Facts> {
        let (dir, node) = (self.settings().dir.clone(), self.node().to_owned());
        let newest = tokio::task::spawn_blocking(move || newest(&folder::glance(&dir)?, &node)).await;
        match newest {
            Ok(Ok(newest)) => newest,
            Ok(Err(error)) => {
                tracing::warn!(error = format!("{error:#}"), "the folder of snapshots cannot be read");
                None
            }
            Err(error) => {
                tracing::error!(%error, "the look into the folder of snapshots failed");
                None
            }
        }
    }

    /// `pending` is what has not come into the bucket yet.
    async fn take_turn(&self, pending: &mut Option<PathBuf>) -> anyhow::Result<()> {
        let store = self.store();
        let unchanged = |last: &Facts| last.changed == store.changed() && last.cluster == store.cluster().to_string();
        if self.last().await.is_some_and(|last| unchanged(&last)) {
            tracing::debug!("nothing has changed since the last snapshot");
        } else {
            let Saved { path, revision, size, .. } = self.save(BASE, None).await?;
            tracing::info!(path = %path.display(), revision, size, "snapshot taken");
            *pending = Some(path);
            self.prune().await?;
        }
        let (Some(path), Some(bucket)) = (pending.as_deref(), &self.settings().s3) else { return Ok(()) };
        self.upload(path, bucket).await?;
        *pending = None;
        Ok(())
    }

    async fn upload(&self, path: &Path, bucket: &S3Settings) -> anyhow::Result<()> {
        let bucket = S3::new(bucket)?;
        let uploaded = bucket.upload(path).await;
        uploaded.with_context(|| format!("{} is kept here, but did not get into the bucket", path.display()))?;
        bucket.prune(BASE, self.node(), self.settings().retention).await.map(drop)
    }

    async fn prune(&self) -> anyhow::Result<()> {
        let (dir, node, keep) = (self.settings().dir.clone(), self.node().to_owned(), self.settings().retention);
        for name in tokio::task::spawn_blocking(move || folder::prune(&dir, BASE, &node, keep)).await?? {
            tracing::debug!(name, "an old snapshot removed");
        }
        Ok(())
    }
}

/// Until the first one after a start. A missed one is made up for; a time in the future says nothing.
fn first_wait(interval: Duration, age: Option<Duration>) -> Duration {
    let left = age.map_or(interval, |age| interval.saturating_sub(age));
    left.max(SETTLE.min(interval))
}

fn newest(entries: &[Entry], node: &str) -> anyhow::Result<Option<Facts>> {
    let own = entries.iter().filter_map(Entry::facts).filter(|facts| facts.base == BASE && facts.node == node);
    Ok(own.max_by_key(|facts| facts.created).cloned())
}

fn modified(path: &Path) -> Option<i64> {
    let time = path.metadata().ok()?.modified().ok()?;
    Timestamp::try_from(time).ok().map(|time| time.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_missed_snapshot_is_made_up_for_soon_after_the_start() {
        assert_eq!(first_wait(12 * HOUR, Some(2 * HOUR)), 10 * HOUR);
        assert_eq!(first_wait(12 * HOUR, Some(13 * HOUR)), SETTLE);
        assert_eq!(first_wait(12 * HOUR, Some(12 * HOUR - Duration::from_secs(1))), SETTLE);
        assert_eq!(first_wait(Duration::from_secs(2), Some(HOUR)), Duration::from_secs(2));
    }

    #[test]
    fn a_last_one_from_the_future_makes_no_haste() {
        assert_eq!(first_wait(12 * HOUR, None), 12 * HOUR);
    }
}
