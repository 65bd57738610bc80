//! The two tables that an index points into: the one of RFC 7541, appendix A, and the one that the sender fills.
//!
//! All entries lie in one piece of memory, oldest first, so that an entry costs no allocation, and reading one no copy.
//! Used by the decoder.

use std::collections::VecDeque;

use super::OVERHEAD;

/// Appendix A; the first has index 1.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Where an entry lies in the table's bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: usize,
    /// Where the value begins.
    value: usize,
    end: usize,
}

impl Entry {
    fn size(self) -> usize {
        self.end - self.start + OVERHEAD
    }
}

/// The dynamic table, and behind it the static one.
#[derive(Debug)]
pub(super) struct Table {
    /// Entries one behind the other. Those before the oldest one are gone, and their bytes go when there are many.
    bytes: Vec<u8>,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Of all entries, never above `max`.
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), entries: VecDeque::new(), size: 0, max }
    }

    /// Name and value at an index of either table.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        match index.checked_sub(STATIC.len() + 1) {
            Some(newer) => {
                let entry = self.entries.get(self.entries.len().checked_sub(newer + 1)?)?;
                Some((&self.bytes[entry.start..entry.value], &self.bytes[entry.value..entry.end]))
            }
            None => {
                let (name, value) = STATIC.get(index.checked_sub(1)?)?;
                Some((name.as_bytes(), value.as_bytes()))
            }
        }
    }

    /// Adds an entry whose name takes the first bytes of `field`. One that is too large leaves the table empty (4.4).
    pub(super) fn insert(&mut self, field: &[u8], name: usize) {
        let size = field.len() + OVERHEAD;
        self.evict(self.max.saturating_sub(size));
        if size > self.max {
            return;
        }
        let gone = self.entries.front().map_or(self.bytes.len(), |oldest| oldest.start);
        // What is moved is never more than what has come in since the last time.
        if gone >= self.max {
            self.bytes.drain(..gone);
            for entry in &mut self.entries {
                entry.start -= gone;
                entry.value -= gone;
                entry.end -= gone;
            }
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(field);
        self.entries.push_back(Entry { start, value: start + name, end: self.bytes.len() });
        self.size += size;
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(max);
    }

    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// What it holds in memory, beside places of entries.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }
}
