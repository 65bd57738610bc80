//! Query parameters of logs and streams. Pure.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("unable to decode the request's query: {name}: {value:?} is not valid")]
    Value { name: &'static str, value: String },
    #[error("Invalid value: {value}: {name}: must be greater than or equal to {least}")]
    Range { name: &'static str, value: i64, least: i64 },
    #[error("Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified")]
    BothSince,
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    #[error("you must specify at least one command")]
    NoCommand,
}

/// Which of the container's outputs a log reader wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Which {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// `PodLogOptions`, resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogQuery {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    pub(super) since: Option<Timestamp>,
    pub(super) tail: Option<usize>,
    pub(super) limit: Option<u64>,
    pub(super) which: Which,
}

impl LogQuery {
    pub(super) fn parse(query: &str, now: Timestamp) -> Result<LogQuery, QueryError> {
        let query = Query(query);
        let at_least = |name, least| match query.number(name)? {
            Some(value) if value < least => Err(QueryError::Range { name, value, least }),
            other => Ok(other),
        };
        let seconds = at_least("sinceSeconds", 1)?;
        let time = query.time("sinceTime")?;
        if seconds.is_some() && time.is_some() {
            return Err(QueryError::BothSince);
        }
        let ago = |seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        let which = match query.get("stream").as_deref() {
            None | Some("" | "All") => Which::All,
            Some("Stdout") => Which::Stdout,
            Some("Stderr") => Which::Stderr,
            Some(other) => return Err(QueryError::Value { name: "stream", value: other.to_owned() }),
        };
        let positive = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok());
        Ok(LogQuery {
            follow: query.flag("follow")?,
            previous: query.flag("previous")?,
            timestamps: query.flag("timestamps")?,
            since: time.or(seconds.map(ago)),
            tail: positive(at_least("tailLines", 0)?).map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            limit: positive(at_least("limitBytes", 1)?),
            which,
        })
    }
}

/// What an exec or attach connects. Both families of names are understood: the kubelet's (`input`, `output`,
/// `error`) and the API server's (`stdin`, `stdout`, `stderr`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamQuery {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    /// Never with a terminal, where both outputs are one.
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl StreamQuery {
    pub(super) fn parse(query: &str) -> Result<StreamQuery, QueryError> {
        let query = Query(query);
        let either = |a, b| Ok(query.flag(a)? || query.flag(b)?);
        let tty = query.flag("tty")?;
        let parsed = StreamQuery {
            command: query.all("command"),
            stdin: either("stdin", "input")?,
            stdout: either("stdout", "output")?,
            stderr: either("stderr", "error")? && !tty,
            tty,
        };
        if parsed.stdin || parsed.stdout || parsed.stderr { Ok(parsed) } else { Err(QueryError::NoStream) }
    }

    /// For exec, which needs a command.
    pub(super) fn with_command(query: &str) -> Result<StreamQuery, QueryError> {
        let parsed = Self::parse(query)?;
        if parsed.command.is_empty() { Err(QueryError::NoCommand) } else { Ok(parsed) }
    }
}

/// The ports in a port-forward's query: repeated, or separated by commas.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, QueryError> {
    let values = Query(query).all("ports");
    let words = values.iter().flat_map(|v| v.split(','));
    let port = |word: &str| word.parse().map_err(|_| QueryError::Value { name: "ports", value: word.to_owned() });
    words.map(port).collect()
}

/// The words of `cmd`, for `/run`.
pub(super) fn run_command(query: &str) -> Result<Vec<String>, QueryError> {
    let words: Vec<String> = Query(query)
        .all("cmd")
        .iter()
        .flat_map(|v| v.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    if words.is_empty() { Err(QueryError::NoCommand) } else { Ok(words) }
}

struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.0.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
    }

    fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.pairs().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.pairs().filter(|(n, _)| n == name).map(|(_, value)| value.into_owned()).collect()
    }

    fn flag(&self, name: &'static str) -> Result<bool, QueryError> {
        match self.get(name).as_deref() {
            None | Some("" | "0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(QueryError::Value { name, value: other.to_owned() }),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<i64>, QueryError> {
        let Some(value) = self.get(name).filter(|v| !v.is_empty()) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| QueryError::Value { name, value: value.into_owned() })
    }

    fn time(&self, name: &'static str) -> Result<Option<Timestamp>, QueryError> {
        let Some(value) = self.get(name).filter(|v| !v.is_empty()) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| QueryError::Value { name, value: value.into_owned() })
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    let spaces = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
    match spaces {
        Cow::Borrowed(text) => percent_decode_str(text).decode_utf8_lossy(),
        Cow::Owned(text) => Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[test]
    fn log_options_are_resolved() {
        let query = "follow=true&tailLines=10&timestamps=1&sinceSeconds=60&limitBytes=5&stream=Stderr";
        let expected = LogQuery {
            follow: true,
            previous: false,
            timestamps: true,
            since: Some("2026-01-02T03:03:05Z".parse().unwrap()),
            tail: Some(10),
            limit: Some(5),
            which: Which::Stderr,
        };
        assert_eq!(LogQuery::parse(query, now()), Ok(expected));
        assert_eq!(LogQuery::parse("insecureSkipTLSVerifyBackend=true", now()), Ok(LogQuery::default()));
    }

    #[test]
    fn log_options_out_of_range_are_refused() {
        let range = |name, value, least| Err(QueryError::Range { name, value, least });
        assert_eq!(LogQuery::parse("tailLines=-1", now()), range("tailLines", -1, 0));
        assert_eq!(LogQuery::parse("limitBytes=0", now()), range("limitBytes", 0, 1));
        let both = "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z";
        assert_eq!(LogQuery::parse(both, now()), Err(QueryError::BothSince));
        assert!(matches!(LogQuery::parse("follow=maybe", now()), Err(QueryError::Value { name: "follow", .. })));
    }

    #[test]
    fn both_families_of_stream_names_are_understood() {
        let expected = StreamQuery {
            command: vec!["sh".into(), "-c".into(), "echo a&b".into()],
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let kubelet = "command=sh&command=-c&command=echo+a%26b&input=1&output=1&error=1";
        let upstream = "command=sh&command=-c&command=echo%20a%26b&stdin=true&stdout=true&stderr=true&tty=false";
        assert_eq!(StreamQuery::with_command(kubelet), Ok(expected.clone()));
        assert_eq!(StreamQuery::with_command(upstream), Ok(expected));
    }

    #[test]
    fn a_terminal_has_no_stderr_and_something_must_be_connected() {
        assert!(!StreamQuery::parse("tty=1&output=1&error=1").unwrap().stderr);
        assert_eq!(StreamQuery::parse("tty=1"), Err(QueryError::NoStream));
        assert_eq!(StreamQuery::with_command("output=1"), Err(QueryError::NoCommand));
    }

    #[test]
    fn ports_come_repeated_or_with_commas() {
        assert_eq!(ports("ports=80&ports=81,82"), Ok(vec![80, 81, 82]));
        assert!(ports("ports=http").is_err());
    }
}
