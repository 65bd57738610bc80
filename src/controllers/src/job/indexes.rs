//! Sets of completion indexes in the compact text that a job's status keeps, such as `1,3-5,7`. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(pub(super) BTreeSet<i32>);

impl Indexes {
    /// Indexes from `completions` on, and what cannot be read, are left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                set.extend(first.max(0)..=last.min(completions - 1));
            }
        }
        Self(set)
    }

    pub(super) fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let mut rest = self.0.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.peek() == Some(&(last + 1)) {
                last += 1;
                rest.next();
            }
            if !out.is_empty() {
                out.push(',');
            }
            // Two in a row are listed, more are a range.
            let written = match last - first {
                0 => write!(out, "{first}"),
                1 => write!(out, "{first},{last}"),
                _ => write!(out, "{first}-{last}"),
            };
            written.unwrap_or_default();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_set_are_one() {
        for text in ["", "0", "0,1", "1,3-5,7", "0-9"] {
            assert_eq!(Indexes::parse(text, 100).text(), text);
        }
        assert_eq!(Indexes::parse("1-5", 3).text(), "1,2");
        assert_eq!(Indexes::parse("junk", 3).text(), "");
    }
}
