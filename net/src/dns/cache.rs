//! Remembers upstream answers for a short while. Pure: the time is a parameter, and the number of entries is bounded.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

/// Answers are kept no longer, whatever their TTL says: upstream has a cache of its own.
const LONGEST: u32 = 30;
const CAPACITY: usize = 2048;

/// Lower-case name, type, and whether DNSSEC records were asked for.
pub(super) type Key = (String, RecordType, bool);

struct Entry {
    answer: Message,
    stored: Instant,
    ttl: u32,
}

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    /// Keys in the order they came; the oldest goes first.
    order: VecDeque<Key>,
}

impl Cache {
    /// The answer, with TTLs counted down, while it is fresh.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let entry = self.entries.get(key)?;
        let age = u32::try_from(now.saturating_duration_since(entry.stored).as_secs()).ok()?;
        if age >= entry.ttl {
            return None;
        }
        let mut answer = entry.answer.clone();
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.min(entry.ttl).saturating_sub(age);
        }
        Some(answer)
    }

    pub(super) fn put(&mut self, key: Key, answer: &Message, now: Instant) {
        let Some(ttl) = lifetime(answer) else { return };
        if !self.entries.contains_key(&key) {
            while self.entries.len() >= CAPACITY
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.insert(key, Entry { answer: answer.clone(), stored: now, ttl });
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }
}

/// Seconds the answer may be kept; none when it may not. The lack of one is kept as long as its SOA says (RFC 2308).
fn lifetime(answer: &Message) -> Option<u32> {
    let ttl = match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => answer.answers.iter().map(|record| record.ttl).min(),
        ResponseCode::NoError | ResponseCode::NXDomain => answer.authorities.iter().find_map(|record| {
            let RData::SOA(soa) = &record.data else { return None };
            Some(record.ttl.min(soa.minimum))
        }),
        _ => None,
    };
    ttl.map(|ttl| ttl.min(LONGEST)).filter(|ttl| *ttl > 0 && !answer.metadata.truncation)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, Record};

    use super::*;

    fn key(name: &str) -> Key {
        (name.into(), RecordType::A, false)
    }

    fn message(ttl: u32) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let name = Name::from_ascii("example.org.").unwrap();
        message.answers.push(Record::from_rdata(name, ttl, RData::A(A(Ipv4Addr::LOCALHOST))));
        message
    }

    #[test]
    fn ttls_count_down_and_end() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(key("a"), &message(10), start);
        let later = cache.get(&key("a"), start + Duration::from_secs(4)).unwrap();
        assert_eq!(later.answers[0].ttl, 6);
        assert!(cache.get(&key("a"), start + Duration::from_secs(10)).is_none());
    }

    #[test]
    fn long_ttls_are_cut_and_zero_is_not_kept() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(key("a"), &message(86400), start);
        assert_eq!(cache.get(&key("a"), start).unwrap().answers[0].ttl, LONGEST);
        assert!(cache.get(&key("a"), start + Duration::from_secs(LONGEST.into())).is_none());
        cache.put(key("b"), &message(0), start);
        assert!(cache.get(&key("b"), start).is_none());
    }

    #[test]
    fn the_oldest_entry_makes_room() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..=CAPACITY {
            cache.put(key(&number.to_string()), &message(10), now);
        }
        assert!(cache.get(&key("0"), now).is_none());
        assert!(cache.get(&key("1"), now).is_some());
        assert_eq!(cache.entries.len(), CAPACITY);
    }

    #[test]
    fn failures_are_not_kept() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let mut failed = message(10);
        failed.metadata.response_code = ResponseCode::ServFail;
        cache.put(key("a"), &failed, now);
        assert!(cache.get(&key("a"), now).is_none());
    }
}
