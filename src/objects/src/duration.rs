//! Durations: Go's text form (`1h30m`), and the short form of ages in tables.

use jiff::{SignedDuration, Timestamp};

/// Why a text is no duration; displays as Go's `time.ParseDuration` words it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { unit: String, text: String },
}

/// Parses Go's form: `300ms`, `-1.5h`, `2h45m`.
///
/// # Errors
/// When the text has another form or overflows.
pub fn parse(text: &str) -> Result<SignedDuration, ParseError> {
    let invalid = || ParseError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0_i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale = match unit {
            "" => return Err(ParseError::MissingUnit(text.to_owned())),
            _ => unit_nanos(unit)
                .ok_or_else(|| ParseError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?,
        };
        nanos += part(whole, fraction, scale).ok_or_else(invalid)?;
        rest = tail;
    }
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(nanos))
}

fn unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn part(whole: &str, fraction: &str, scale: i128) -> Option<i128> {
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i64>().ok().map(i128::from) };
    let fraction = &fraction[..fraction.len().min(15)];
    let below = parse(fraction)? * scale / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(parse(whole)? * scale + below)
}

/// Go's text form: `1h30m0s`, `1.5s`, `300ms`.
pub fn format(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let seconds = nanos / 1_000_000_000;
    match nanos {
        0 => "0s".to_owned(),
        1..=999 => format!("{sign}{nanos}ns"),
        1_000..=999_999 => format!("{sign}{}µs", decimal(nanos, 1_000)),
        1_000_000..=999_999_999 => format!("{sign}{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let below = decimal(nanos % 60_000_000_000, 1_000_000_000);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{below}s"),
                (0, _) => format!("{sign}{minutes}m{below}s"),
                _ => format!("{sign}{hours}h{minutes}m{below}s"),
            }
        }
    }
}

fn decimal(nanos: u128, unit: u128) -> String {
    let width = unit.ilog10() as usize;
    let fraction = format!("{:0width$}", nanos % unit);
    match fraction.trim_end_matches('0') {
        "" => (nanos / unit).to_string(),
        fraction => format!("{}.{fraction}", nanos / unit),
    }
}

/// The time from `since` to `now` as tables show it: `5m30s`, `3h`, `2d4h`.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    human(now.duration_since(since))
}

/// A span of time in at most two units. Clocks that differ by less than two seconds are forgiven.
pub fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_use_at_most_two_units() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (8 * 3600 + 120, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400 + 3600, "8d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (3000 * 86400, "8y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn go_durations_parse_and_print() {
        assert_eq!(parse("1h30m").unwrap(), SignedDuration::from_secs(5400));
        assert_eq!(parse("-1.5s").unwrap(), SignedDuration::from_millis(-1500));
        assert_eq!(format(parse("90m").unwrap()), "1h30m0s");
        assert_eq!(format(parse("1500ms").unwrap()), "1.5s");
        assert_eq!(format(parse("300us").unwrap()), "300µs");
        assert_eq!(parse("5").unwrap_err().to_string(), "time: missing unit in duration \"5\"");
        assert_eq!(parse("5x").unwrap_err().to_string(), "time: unknown unit \"x\" in duration \"5x\"");
        assert!(parse("").is_err());
    }
}
