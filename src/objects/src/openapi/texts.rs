//! The description table: unpacked for one document, then dropped.

use std::collections::HashMap;
use std::io::Read as _;

use flate2::read::GzDecoder;

/// Text by definition and field. Lines as `embedded`'s build script writes them.
pub(super) struct Texts {
    lines: String,
    /// Definition → byte offset of its line.
    definitions: HashMap<Box<str>, usize>,
}

impl Texts {
    /// A table that cannot be read has no descriptions: documents are complete without them.
    pub(super) fn unpack(packed: &[u8]) -> Self {
        let mut lines = String::new();
        if !packed.is_empty() && GzDecoder::new(packed).read_to_string(&mut lines).is_err() {
            lines.clear();
        }
        let mut definitions = HashMap::new();
        let mut offset = 0;
        for line in lines.split_inclusive('\n') {
            if let Some((name, _)) = line.strip_prefix('@').and_then(|l| l.split_once('\t')) {
                definitions.insert(name.into(), offset);
            }
            offset += line.len();
        }
        Self { lines, definitions }
    }

    /// The definition's own description and its fields'.
    pub(super) fn of(&self, definition: &str) -> DefinitionTexts<'_> {
        let Some(lines) = self.definitions.get(definition).and_then(|at| self.lines.get(*at..)) else {
            return DefinitionTexts::default();
        };
        let mut lines = lines.lines();
        let own = lines.next().and_then(split).map_or("", |(_, text)| text);
        let fields = lines.take_while(|line| !line.starts_with('@')).filter_map(split).collect();
        DefinitionTexts { own, fields }
    }
}

fn split(line: &str) -> Option<(&str, &str)> {
    line.split_once('\t')
}

#[derive(Default)]
pub(super) struct DefinitionTexts<'a> {
    own: &'a str,
    fields: HashMap<&'a str, &'a str>,
}

impl DefinitionTexts<'_> {
    pub(super) fn own(&self) -> Option<String> {
        unescape(self.own)
    }

    pub(super) fn field(&self, name: &str) -> Option<String> {
        unescape(self.fields.get(name).copied().unwrap_or(""))
    }
}

fn unescape(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            _ => out.push(c),
        }
    }
    Some(out)
}
