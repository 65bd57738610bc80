//! Growing pauses between attempts: restarts of a crashing container, pulls of an image. Pure.

use jiff::{SignedDuration, Timestamp};

/// The first pause.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest one.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// One thing that keeps failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub pause: SignedDuration,
    pub updated: Timestamp,
}

impl Backoff {
    /// When the next attempt may be made after a failure at `failed_at`; `None`: at once.
    pub fn until(entry: Option<&Backoff>, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = entry.filter(|e| !e.forgotten(failed_at))?;
        let until = failed_at.checked_add(entry.pause).ok()?;
        (until > now).then_some(until)
    }

    /// The entry after another attempt, made for a failure at `failed_at`.
    pub fn next(entry: Option<&Backoff>, failed_at: Timestamp, now: Timestamp) -> Backoff {
        let pause = match entry.filter(|e| !e.forgotten(failed_at)) {
            Some(entry) => (entry.pause * 2).min(MAX),
            None => INITIAL,
        };
        Backoff { pause, updated: now }
    }

    /// A thing that held for twice the longest pause starts over.
    fn forgotten(&self, at: Timestamp) -> bool {
        at.duration_since(self.updated) > MAX * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        assert_eq!(Backoff::until(None, at(0), at(0)), None, "the first restart is immediate");
        let mut entry = None;
        let mut pauses = Vec::new();
        for round in 0..8 {
            let next = Backoff::next(entry.as_ref(), at(round), at(round));
            pauses.push(next.pause.as_secs());
            entry = Some(next);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_pause_ends() {
        let entry = Backoff { pause: INITIAL, updated: at(100) };
        assert_eq!(Backoff::until(Some(&entry), at(101), at(105)), Some(at(111)));
        assert_eq!(Backoff::until(Some(&entry), at(101), at(111)), None);
    }

    #[test]
    fn ten_good_minutes_start_over() {
        let entry = Backoff { pause: MAX, updated: at(0) };
        assert_eq!(Backoff::until(Some(&entry), at(601), at(601)), None);
        assert_eq!(Backoff::next(Some(&entry), at(601), at(601)).pause, INITIAL);
        assert_eq!(Backoff::next(Some(&entry), at(600), at(600)).pause, MAX);
    }
}
