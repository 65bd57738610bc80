//! Query parameters of a request: form decoding and the typed list/watch/write options.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decoded parameters, in order; a name may repeat.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

fn decode(text: &str) -> String {
    let spaced: Cow<'_, str> =
        if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

impl Query {
    /// Parses the part of a URI behind `?`.
    pub(crate) fn parse(raw: Option<&str>) -> Query {
        let Some(raw) = raw else { return Query::default() };
        Query(
            raw.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// First value of `name`, also when empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// First value of `name` unless absent or empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// All values of `name`.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A boolean as Kubernetes reads it: present and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !matches!(v, "false" | "0" | "False" | "f" | "F"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_escapes_plus_and_repeats() {
        let q = Query::parse(Some("labelSelector=app%3Dweb%2Ctier+in+%28a%29&command=ls&command=-l&watch=1&e="));
        assert_eq!(q.get("labelSelector"), Some("app=web,tier in (a)"));
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["ls", "-l"]);
        assert!(q.flag("watch"));
        assert_eq!((q.get("e"), q.text("e")), (Some(""), None));
    }

    #[test]
    fn false_is_not_a_flag() {
        let q = Query::parse(Some("watch=false&pretty"));
        assert!(!q.flag("watch"));
        assert!(q.flag("pretty"));
        assert!(!q.flag("absent"));
    }
}
