//! Query parameters of a request: form decoding and the typed list/watch/write options.

use std::{
    borrow::Cow,
    num::{IntErrorKind, ParseIntError},
};

use objects::status::Status;
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

    /// A number, as upstream's option types read it: once the name is there, it must be one.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let refused = |error: ParseIntError| {
            let out_of_range = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
            let why = if out_of_range { "value out of range" } else { "invalid syntax" };
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        };
        text.parse().map(Some).map_err(refused)
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
    fn numbers_are_numbers_or_refused() {
        let q = Query::parse(Some("a=5&b=-1&c=soon&d=&e=9223372036854775808"));
        assert_eq!(
            (q.integer("a").unwrap(), q.integer("b").unwrap(), q.integer("x").unwrap()),
            (Some(5), Some(-1), None)
        );
        let message = |name: &str| q.integer(name).unwrap_err().message().to_owned();
        assert_eq!(message("c"), "strconv.ParseInt: parsing \"soon\": invalid syntax");
        assert_eq!(message("d"), "strconv.ParseInt: parsing \"\": invalid syntax");
        assert_eq!(message("e"), "strconv.ParseInt: parsing \"9223372036854775808\": value out of range");
    }

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
