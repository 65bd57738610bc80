//! Candidates against the fake server, on a clock that jumps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::FakeApi;

const NAME: &str = "kube-scheduler";

/// When who worked: its beginnings and ends.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<(String, bool, Instant)>>>);

impl Record {
    fn note(&self, who: &str, begins: bool) {
        self.0.lock().unwrap().push((who.to_owned(), begins, Instant::now()));
    }

    fn all(&self) -> Vec<(String, bool, Instant)> {
        self.0.lock().unwrap().clone()
    }

    async fn until(&self, who: &str, begins: bool) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some((.., at)) = self.all().iter().rfind(|(name, kind, _)| name == who && *kind == begins) {
                return *at;
            }
            assert!(Instant::now() < deadline, "{who} never did: {:?}", self.all());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

struct Candidate {
    stop: CancellationToken,
    /// Its requests are never answered.
    cut: Arc<AtomicBool>,
    alone: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn stand(fake: &FakeApi, who: &'static str, record: &Record, alone: bool) -> Candidate {
    let cut = Arc::new(AtomicBool::new(false));
    let (server, is_cut) = (fake.client(), cut.clone());
    let client = crate::in_process(tower::service_fn(move |request| {
        let (server, is_cut) = (server.clone(), is_cut.clone());
        async move {
            if is_cut.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            server.send(request).await
        }
    }));
    let (alone, is_alone) = watch::channel(alone);
    let (stop, record) = (CancellationToken::new(), record.clone());
    let election = Election::new(client, "kube-system", NAME, who, is_alone);
    let running = election.run(stop.clone(), move |leading| {
        let record = record.clone();
        async move {
            record.note(who, true);
            leading.cancelled().await;
            record.note(who, false);
        }
    });
    Candidate { stop, cut, alone, task: tokio::spawn(running) }
}

fn spec(fake: &FakeApi) -> LeaseSpec {
    fake.get::<Lease>("kube-system", NAME).and_then(|lease| lease.spec).unwrap()
}

fn puts(fake: &FakeApi) -> usize {
    fake.writes().len()
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_hands_over_within_a_second() {
    let (fake, record) = (FakeApi::new(), Record::default());
    let first = stand(&fake, "a", &record, false);
    record.until("a", true).await;
    let taken = spec(&fake);
    assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("a"), Some(0)));
    assert_eq!(taken.lease_duration_seconds, Some(15));
    let second = stand(&fake, "b", &record, false);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(record.all().len(), 1, "the second waits while the first renews");
    assert!(spec(&fake).renew_time > taken.renew_time && spec(&fake).acquire_time == taken.acquire_time);
    let stopped = Instant::now();
    first.stop.cancel();
    first.task.await.unwrap();
    let begun = record.until("b", true).await;
    assert!(begun - stopped < Duration::from_secs(1), "{:?}", begun - stopped);
    assert!(record.until("a", false).await <= begun);
    assert_eq!((spec(&fake).holder_identity.as_deref(), spec(&fake).lease_transitions), (Some("b"), Some(1)));
    second.stop.cancel();
    second.task.await.unwrap();
    assert_eq!(spec(&fake).holder_identity.as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_gone_is_followed_when_its_lease_has_ended() {
    let (fake, record) = (FakeApi::new(), Record::default());
    let first = stand(&fake, "a", &record, false);
    record.until("a", true).await;
    let _second = stand(&fake, "b", &record, false);
    sleep(Duration::from_secs(20)).await;
    first.task.abort();
    let killed = Instant::now();
    let waited = record.until("b", true).await - killed;
    assert!(waited > Duration::from_secs(12) && waited < Duration::from_secs(18), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_has_stopped_before_the_next_begins_and_stands_again() {
    let (fake, record) = (FakeApi::new(), Record::default());
    let first = stand(&fake, "a", &record, false);
    record.until("a", true).await;
    let second = stand(&fake, "b", &record, false);
    sleep(Duration::from_secs(30)).await;
    first.cut.store(true, Ordering::SeqCst);
    let begun = record.until("b", true).await;
    let ended = record.until("a", false).await;
    assert!(ended < begun, "{:?}", record.all());
    // Back again, it waits for its turn.
    first.cut.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(record.all().len(), 3, "{:?}", record.all());
    second.stop.cancel();
    second.task.await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while record.all().len() < 5 {
        assert!(Instant::now() < deadline, "{:?}", record.all());
        sleep(Duration::from_millis(10)).await;
    }
    let last = record.all().pop().unwrap();
    assert_eq!((last.0.as_str(), last.1), ("a", true));
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_change_nothing() {
    for hours in [-48, 48] {
        let (fake, record) = (FakeApi::new(), Record::default());
        let write = || {
            let time = Timestamp::now() + SignedDuration::from_hours(hours);
            let spec = LeaseSpec {
                holder_identity: Some("other".into()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(time)),
                ..LeaseSpec::default()
            };
            let metadata =
                ObjectMeta { name: Some(NAME.into()), namespace: Some("kube-system".into()), ..ObjectMeta::default() };
            fake.put(&Lease { metadata, spec: Some(spec) }).unwrap();
        };
        write();
        let candidate = stand(&fake, "b", &record, false);
        for _ in 0..10 {
            sleep(Duration::from_secs(8)).await;
            assert!(record.all().is_empty(), "the other renews");
            write();
        }
        let waited = record.until("b", true).await;
        candidate.stop.cancel();
        candidate.task.await.unwrap();
        assert!(waited.elapsed() < Duration::from_secs(5), "taken over 15 s after the last renewal");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_under_its_name_goes_on_at_once() {
    let (fake, record) = (FakeApi::new(), Record::default());
    let first = stand(&fake, "a", &record, false);
    record.until("a", true).await;
    first.task.abort();
    let again = Record::default();
    let started = Instant::now();
    let _back = stand(&fake, "a", &again, false);
    assert!(again.until("a", true).await - started < Duration::from_secs(1));
    assert_eq!(spec(&fake).lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_takes_what_it_finds_and_writes_nothing_more_until_a_rival_comes() {
    let (fake, record) = (FakeApi::new(), Record::default());
    let dead = stand(&fake, "dead", &record, false);
    record.until("dead", true).await;
    dead.task.abort();
    let started = Instant::now();
    let first = stand(&fake, "a", &record, true);
    assert!(record.until("a", true).await - started < Duration::from_secs(1));
    let written = puts(&fake);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(puts(&fake), written);
    first.alone.send(false).unwrap();
    let _rival = stand(&fake, "b", &record, false);
    sleep(Duration::from_secs(600)).await;
    assert!(puts(&fake) > written + 100, "renewals");
    assert_eq!(record.all().len(), 2, "{:?}", record.all());
    assert!(!first.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_need_not_wait_for_the_lease_and_stops_if_a_rival_comes_before_it_has_it() {
    let (fake, record) = (FakeApi::new(), Record::default());
    let candidate = stand(&fake, "a", &record, true);
    candidate.cut.store(true, Ordering::SeqCst);
    record.until("a", true).await;
    candidate.alone.send(false).unwrap();
    record.until("a", false).await;
    candidate.cut.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(30)).await;
    assert!(record.all().last().unwrap().1, "stands again: {:?}", record.all());
    assert_eq!(spec(&fake).holder_identity.as_deref(), Some("a"));
}
