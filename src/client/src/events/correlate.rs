//! What becomes of an event: a new object, a higher count on an object written before, or nothing. Pure; time is
//! in the occurrence. The limits are client-go's: a burst of 25 per object and then one per five minutes; more than
//! ten messages for one reason within ten minutes become one "combined" event.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};

use super::Occurrence;

const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Keys remembered of each sort; the oldest are forgotten first.
const REMEMBERED: usize = 2_048;

type About = (String, String, String, String);

/// What the writer is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Drop,
    Write {
        message: String,
        key: Box<SeriesKey>,
        /// The series written before under the same key.
        repeat: Option<Series>,
    },
}

/// An event object written before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
}

/// What makes two events the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesKey {
    about: About,
    field_path: String,
    kind: super::EventType,
    reason: String,
    message: String,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<String>,
    at: Timestamp,
}

#[derive(Default)]
pub(super) struct Correlator {
    series: Memory<SeriesKey, Series>,
    buckets: Memory<About, Bucket>,
    similar: Memory<(About, String), Similar>,
}

impl Correlator {
    pub(super) fn judge(&mut self, event: &Occurrence) -> Verdict {
        let about = about(event);
        let message = self.combine(&about, event);
        let key = SeriesKey {
            about: about.clone(),
            field_path: event.object.field_path.clone().unwrap_or_default(),
            kind: event.kind,
            reason: event.reason.clone(),
            message: message.clone(),
        };
        if !self.take_token(about, event.at) {
            return Verdict::Drop;
        }
        let repeat = self.series.get_mut(&key).map(|series| series.clone());
        Verdict::Write { message, key: Box::new(key), repeat }
    }

    /// Remembers what was written for `key`.
    pub(super) fn written(&mut self, key: SeriesKey, series: Series) {
        self.series.insert(key, series);
    }

    fn take_token(&mut self, about: About, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(about, || Bucket { tokens: BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    fn combine(&mut self, about: &About, event: &Occurrence) -> String {
        let group = (about.clone(), event.reason.clone());
        let similar = self.similar.entry(group, || Similar { messages: HashSet::new(), at: event.at });
        if event.at.duration_since(similar.at) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.at = event.at;
        if similar.messages.len() < SIMILAR_LIMIT || similar.messages.contains(&event.message) {
            similar.messages.insert(event.message.clone());
            event.message.clone()
        } else {
            format!("(combined from similar events): {}", event.message)
        }
    }
}

fn about(event: &Occurrence) -> About {
    let object = &event.object;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&object.kind), text(&object.namespace), text(&object.name), text(&object.uid))
}

/// A map that forgets its oldest keys.
struct Memory<Key, Value> {
    map: HashMap<Key, Value>,
    order: VecDeque<Key>,
}

impl<Key, Value> Default for Memory<Key, Value> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<Key: Hash + Eq + Clone, Value> Memory<Key, Value> {
    fn get_mut(&mut self, key: &Key) -> Option<&mut Value> {
        self.map.get_mut(key)
    }

    fn insert(&mut self, key: Key, value: Value) {
        if self.map.insert(key.clone(), value).is_none() {
            self.remember(key);
        }
    }

    fn entry(&mut self, key: Key, make: impl FnOnce() -> Value) -> &mut Value {
        if !self.map.contains_key(&key) {
            self.remember(key.clone());
        }
        self.map.entry(key).or_insert_with(make)
    }

    fn remember(&mut self, key: Key) {
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::super::EventType;
    use super::*;

    fn event(message: &str, second: i64) -> Occurrence {
        Occurrence {
            object: ObjectReference { name: Some("pod".into()), ..Default::default() },
            kind: EventType::Normal,
            reason: "Pulled".into(),
            message: message.into(),
            at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn series(count: i32) -> Series {
        Series { name: "pod.1".into(), count, first: Timestamp::from_second(0).unwrap() }
    }

    #[test]
    fn the_same_event_again_is_a_repeat_of_its_series() {
        let mut correlator = Correlator::default();
        let Verdict::Write { key, repeat: None, .. } = correlator.judge(&event("a", 0)) else { panic!("first") };
        correlator.written(*key, series(1));
        let Verdict::Write { repeat, .. } = correlator.judge(&event("a", 1)) else { panic!("second") };
        assert_eq!(repeat, Some(series(1)));
        assert!(matches!(correlator.judge(&event("b", 1)), Verdict::Write { repeat: None, .. }));
    }

    #[test]
    fn many_messages_for_one_reason_are_combined() {
        let mut correlator = Correlator::default();
        for i in 0..10 {
            correlator.judge(&event(&format!("m{i}"), 0));
        }
        let Verdict::Write { message, .. } = correlator.judge(&event("m10", 0)) else { panic!("dropped") };
        assert_eq!(message, "(combined from similar events): m10");
    }

    #[test]
    fn one_object_cannot_flood_and_recovers_with_time() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert_ne!(correlator.judge(&event("a", 0)), Verdict::Drop);
        }
        assert_eq!(correlator.judge(&event("a", 0)), Verdict::Drop);
        assert_ne!(correlator.judge(&event("a", 301)), Verdict::Drop);
    }
}
