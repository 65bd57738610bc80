//! One entry of a log in the CRI format: `<RFC 3339 time> <stdout|stderr> <tags> <text>`. Pure.

use jiff::Timestamp;

use crate::http::query::Which;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    time: &'a [u8],
    stderr: bool,
    /// The line goes on in the stream's next entry.
    pub(super) partial: bool,
    text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `line` has no line feed. `None`: not in the format (a torn write).
    pub(super) fn parse(line: &'a [u8]) -> Option<Entry<'a>> {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        let stderr = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        // Tags are separated by colons; the first says whether the line is whole.
        let partial = match tags.split(|b| *b == b':').next() {
            Some(b"F") => false,
            Some(b"P") => true,
            _ => return None,
        };
        Some(Entry { time, stderr, partial, text: fields.next().unwrap_or_default() })
    }

    pub(super) fn is_from(&self, which: Which) -> bool {
        match which {
            Which::All => true,
            Which::Stdout => !self.stderr,
            Which::Stderr => self.stderr,
        }
    }

    /// Whether it was written before `since`, given as `since.to_string()` would not compare: by value.
    pub(super) fn is_before(&self, since: Timestamp) -> bool {
        let time = std::str::from_utf8(self.time).ok().and_then(|t| t.parse::<Timestamp>().ok());
        time.is_some_and(|time| time < since)
    }

    /// Writes the entry as a reader of the log wants it; `fresh` when it begins a line.
    pub(super) fn print(&self, out: &mut Vec<u8>, timestamps: bool, fresh: bool) {
        if timestamps && fresh {
            out.extend_from_slice(self.time);
            out.push(b' ');
        }
        out.extend_from_slice(self.text);
        if !self.partial {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"2026-01-02T03:04:05.000000006Z stderr F two  words";

    #[test]
    fn an_entry_is_taken_apart_and_printed() {
        let entry = Entry::parse(LINE).unwrap();
        assert!(entry.is_from(Which::Stderr) && entry.is_from(Which::All) && !entry.is_from(Which::Stdout));
        let mut out = Vec::new();
        entry.print(&mut out, true, true);
        assert_eq!(out, b"2026-01-02T03:04:05.000000006Z two  words\n");
    }

    #[test]
    fn partial_entries_print_without_line_feed_and_one_time() {
        let first = Entry::parse(b"2026-01-02T03:04:05Z stdout P ab").unwrap();
        let second = Entry::parse(b"2026-01-02T03:04:05Z stdout F:x cd").unwrap();
        let mut out = Vec::new();
        first.print(&mut out, true, true);
        second.print(&mut out, true, !first.partial);
        assert_eq!(out, b"2026-01-02T03:04:05Z abcd\n");
    }

    #[test]
    fn an_empty_line_is_an_entry_and_rubbish_is_none() {
        let mut out = Vec::new();
        Entry::parse(b"2026-01-02T03:04:05Z stdout F ").unwrap().print(&mut out, false, true);
        assert_eq!(out, b"\n");
        for rubbish in [&b""[..], b"hello", b"2026-01-02T03:04:05Z stdin F x", b"2026-01-02T03:04:05Z stdout Q x"] {
            assert_eq!(Entry::parse(rubbish), None);
        }
    }

    #[test]
    fn times_compare_by_value() {
        let entry = Entry::parse(LINE).unwrap();
        assert!(entry.is_before("2026-01-02T03:04:05.000000007Z".parse().unwrap()));
        assert!(!entry.is_before("2026-01-02T03:04:05.000000006Z".parse().unwrap()));
        assert!(!entry.is_before("2026-01-02T04:04:05+01:00".parse().unwrap()));
    }
}
