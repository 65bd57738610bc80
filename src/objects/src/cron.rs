//! Cron expressions: five fields, names, `@daily` and its kin, `@every`.
//!
//! The dialect and the error texts are those of robfig/cron's standard parser, which upstream uses. Times are computed
//! in a zone that the caller looks up; nothing here reads the clock or the zone database.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use crate::duration;

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

/// When to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that match all fields.
    Fields(Fields),
    /// Once per period (`@every 90m`), at least a second.
    Every(SignedDuration),
}

/// Bits of allowed values per field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Whether day of month, or weekday, is unrestricted: then only the other one decides.
    any_day: bool,
    any_weekday: bool,
}

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// # Errors
    /// When the text is no standard expression.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.is_empty() {
            return Err(CronError("empty spec string".to_owned()));
        }
        if text.starts_with('@') {
            return descriptor(text);
        }
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            let message = format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" "));
            return Err(CronError(message));
        };
        let any = |field: &str| field.split(',').any(|part| matches!(part.split('/').next(), Some("*" | "?")));
        Ok(Self::Fields(Fields {
            minute: bits(minute, &MINUTES)?,
            hour: bits(hour, &HOURS)?,
            day: bits(day, &DAYS)?,
            month: bits(month, &MONTHS)?,
            weekday: bits(weekday, &WEEKDAYS)?,
            any_day: any(day),
            any_weekday: any(weekday),
        }))
    }

    /// The first time after `after`, or `None` when the expression never matches (30 February).
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            Self::Fields(fields) => fields.next(after, zone),
        }
    }
}

fn descriptor(text: &str) -> Result<Schedule, CronError> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(period) = text.strip_prefix("@every ") else {
                return Err(CronError(format!("unrecognized descriptor: {text}")));
            };
            let period = duration::parse(period)
                .map_err(|error| CronError(format!("failed to parse duration {text}: {error}")))?;
            return Ok(Schedule::Every(SignedDuration::from_secs(period.as_secs().max(1))));
        }
    };
    Schedule::parse(fields)
}

fn bits(field: &str, bounds: &Bounds) -> Result<u64, CronError> {
    field.split(',').filter(|part| !part.is_empty()).try_fold(0, |all, part| Ok(all | range(part, bounds)?))
}

/// `*`, `5`, `1-5`, any of them with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, CronError> {
    let mut slashes = text.split('/');
    let (span, step, more) = (slashes.next().unwrap_or_default(), slashes.next(), slashes.next());
    let mut hyphens = span.split('-');
    let (low, high, extra) = (hyphens.next().unwrap_or_default(), hyphens.next(), hyphens.next());
    let (start, mut end) = if low == "*" || low == "?" {
        (bounds.min, bounds.max)
    } else {
        let start = value(low, bounds)?;
        match (high, extra) {
            (None, _) => (start, start),
            (Some(high), None) => (start, value(high, bounds)?),
            _ => return Err(CronError(format!("too many hyphens: {text}"))),
        }
    };
    let step = match (step, more) {
        (None, _) => 1,
        (Some(step), None) => {
            if high.is_none() {
                end = bounds.max;
            }
            number(step)?
        }
        _ => return Err(CronError(format!("too many slashes: {text}"))),
    };
    let problem = match () {
        () if start < bounds.min => format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min),
        () if end > bounds.max => format!("end of range ({end}) above maximum ({}): {text}", bounds.max),
        () if start > end => format!("beginning of range ({start}) beyond end of range ({end}): {text}"),
        () if step == 0 => format!("step of range should be a positive number: {text}"),
        () => return Ok((start..=end).step_by(usize::try_from(step).unwrap_or(1)).fold(0, |all, n| all | 1 << n)),
    };
    Err(CronError(problem))
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, CronError> {
    let lower = text.to_lowercase();
    let named = bounds.names.iter().zip(bounds.min..).find(|(name, _)| **name == lower);
    named.map_or_else(|| number(text), |(_, n)| Ok(n))
}

fn number(text: &str) -> Result<u32, CronError> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(CronError(format!("negative number ({n}) not allowed: {text}"))),
        Ok(n) => u32::try_from(n).map_err(|_| CronError(format!("number too large: {text}"))),
        Err(_) => {
            Err(CronError(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")))
        }
    }
}

fn has(bits: u64, n: i8) -> bool {
    u32::try_from(n).is_ok_and(|n| bits & (1 << n) != 0)
}

impl Fields {
    fn day_matches(&self, at: DateTime) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let minute = start.with().second(0).subsec_nanosecond(0).build().ok()?;
        let mut at = minute.checked_add(Span::new().minutes(1)).ok()?;
        // Upstream gives up after five years, too.
        let end = at.checked_add(Span::new().years(5)).ok()?;
        while at <= end {
            let midnight = || at.with().hour(0).minute(0).build();
            at = if !has(self.month, at.month()) {
                midnight().ok()?.with().day(1).build().ok()?.checked_add(Span::new().months(1)).ok()?
            } else if !self.day_matches(at) {
                midnight().ok()?.checked_add(Span::new().days(1)).ok()?
            } else if !has(self.hour, at.hour()) {
                at.with().minute(0).build().ok()?.checked_add(Span::new().hours(1)).ok()?
            } else if !has(self.minute, at.minute()) {
                at.checked_add(Span::new().minutes(1)).ok()?
            } else {
                let found = zone.to_timestamp(at).ok()?;
                // An hour that the clock repeats may lie before `after`.
                if found > after {
                    return Some(found);
                }
                at.checked_add(Span::new().minutes(1)).ok()?
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, after: &str) -> String {
        let schedule = Schedule::parse(text).unwrap();
        schedule.next(after.parse().unwrap(), &TimeZone::UTC).map(|t| t.to_string()).unwrap_or_default()
    }

    #[test]
    fn next_times() {
        let now = "2026-01-31T23:59:30Z";
        assert_eq!(next("* * * * *", now), "2026-02-01T00:00:00Z");
        assert_eq!(next("*/15 3 * * *", now), "2026-02-01T03:00:00Z");
        assert_eq!(next("0 0 29 2 *", now), "2028-02-29T00:00:00Z");
        assert_eq!(next("0 12 * * mon-fri", now), "2026-02-02T12:00:00Z");
        assert_eq!(next("0 0 13 * fri", now), "2026-02-06T00:00:00Z");
        assert_eq!(next("0 0 30 2 *", now), "");
        assert_eq!(next("@every 90m", now), "2026-02-01T01:29:30Z");
        assert_eq!(next("@weekly", now), "2026-02-01T00:00:00Z");
        assert_eq!(next("5/20 1 * * *", now), "2026-02-01T01:05:00Z");
    }

    #[test]
    fn zones_shift_the_clock() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let schedule = Schedule::parse("0 0 * * *").unwrap();
        let after = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(schedule.next(after, &zone).unwrap().to_string(), "2026-01-01T22:00:00Z");
    }

    #[test]
    fn bad_expressions_are_explained() {
        for (text, expected) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@foo", "unrecognized descriptor: @foo"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ] {
            assert_eq!(Schedule::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
