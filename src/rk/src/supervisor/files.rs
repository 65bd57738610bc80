//! Certificates that a running server leaves in files for others: the administrator's kubeconfig, and the credentials of
//! etcd's clients. They are made anew in their place while the server runs, at two thirds of their life and whenever the
//! clock was set to a time at which they do not hold. What connections show is renewed where they are made: the server's
//! own certificate ([`super::serving`]), that of its calls to other servers ([`crate::members::credentials`]), those of
//! agents ([`crate::join::renewal`]).

use jiff::Timestamp;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks: a box that boots in 1970 is not locked out for long once its clock is right.
const LOOK: Duration = Duration::from_secs(60);

/// Issues a certificate, writes it where it belongs, and returns it, PEM.
type Issue = Box<dyn Fn(Timestamp) -> anyhow::Result<String> + Send + Sync>;

/// One certificate and its files.
pub(super) struct Issued {
    what: &'static str,
    issue: Issue,
    /// What is there now, PEM.
    current: String,
}

impl Issued {
    pub(super) fn new(
        what: &'static str,
        now: Timestamp,
        issue: impl Fn(Timestamp) -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let current = issue(now)?;
        Ok(Self { what, issue: Box::new(issue), current })
    }

    fn refresh(&mut self, now: Timestamp) {
        if !pki::leaf::due_for_renewal(&self.current, now) {
            return;
        }
        match (self.issue)(now) {
            Ok(renewed) => {
                tracing::info!(what = self.what, "certificate renewed");
                self.current = renewed;
            }
            Err(error) => {
                tracing::warn!(what = self.what, error = format!("{error:#}"), "certificate not renewed; trying again")
            }
        }
    }
}

/// Until `stop`. `clock` is the wall clock.
pub(super) async fn keep_fresh(mut all: Vec<Issued>, clock: impl Fn() -> Timestamp + Send, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let now = clock();
        all.iter_mut().for_each(|issued| issued.refresh(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use pki::{Ca, Identity, Leaf};
    use std::sync::{Arc, Mutex};

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    /// A clock that is set by hand, and what was written when.
    struct Box1970 {
        clock: Arc<Mutex<Timestamp>>,
        written: tokio::sync::watch::Receiver<Vec<Timestamp>>,
        stop: CancellationToken,
    }

    impl Box1970 {
        fn boot(ca_made: Timestamp, boot: Timestamp) -> Self {
            let ca = Ca::from_pem(&Ca::generate("rk-test", ca_made).unwrap()).unwrap();
            let (log, written) = tokio::sync::watch::channel(Vec::new());
            let issued = Issued::new("test", boot, move |now| {
                log.send_modify(|log| log.push(now));
                Ok(ca.issue(&Leaf::Client(Identity::new("admin", &[])), now)?.cert_pem)
            });
            let (clock, stop) = (Arc::new(Mutex::new(boot)), CancellationToken::new());
            let shown = clock.clone();
            tokio::spawn(keep_fresh(vec![issued.unwrap()], move || *shown.lock().unwrap(), stop.clone()));
            Self { clock, written, stop }
        }

        /// Sets the clock, lets some looks go by, and returns how often something was written until now.
        async fn at(&self, time: Timestamp) -> usize {
            *self.clock.lock().unwrap() = time;
            tokio::time::sleep(LOOK * 5).await;
            self.written.borrow().len()
        }
    }

    impl Drop for Box1970 {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_runs_for_years_never_ends_with_an_expired_certificate() {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let server = Box1970::boot(now, now);
        assert_eq!(server.at(now + DAY * 240).await, 1, "not yet");
        let counts =
            [server.at(now + DAY * 250).await, server.at(now + DAY * 500).await, server.at(now + DAY * 501).await];
        assert_eq!(counts, [2, 3, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_box_that_boots_in_1970_has_good_files_before_and_after_its_clock_is_set() {
        let boot = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(30);
        let now: Timestamp = "2027-03-01T00:00:00Z".parse().unwrap();
        let server = Box1970::boot(boot, boot);
        assert_eq!(server.at(boot + DAY).await, 1);
        assert_eq!(server.at(now).await, 2, "the clock is right");
        assert_eq!(server.at(boot).await, 3, "and wrong again");
        assert_eq!(server.at(boot + DAY).await, 3);
    }
}
