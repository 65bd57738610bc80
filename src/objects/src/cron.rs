//! Cron expressions: five fields, names, `@daily` and its kin, `@every`.
//!
//! The dialect and the error texts are those of robfig/cron's standard parser, which upstream uses. Times are computed
//! in a zone that the caller looks up; nothing here reads the clock or the zone database.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use crate::duration;

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

/// When to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that match all fields.
    At(Fields),
    /// Once per period (`@every 90m`), at least a second.
    Every(SignedDuration),
}

/// The allowed values of each field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

/// Allowed values as bits; and whether the field leaves all open (then, of the two kinds of day, only the other one
/// decides).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    bits: u64,
    open: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & (1 << value) != 0)
    }
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
        Ok(Self::At(Fields {
            minute: field(minute, &MINUTES)?,
            hour: field(hour, &HOURS)?,
            day: field(day, &DAYS)?,
            month: field(month, &MONTHS)?,
            weekday: field(weekday, &WEEKDAYS)?,
        }))
    }

    /// The first time after `after`, or `None` when the expression never matches (30 February).
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*period).ok(),
            Self::At(fields) => fields.next(after, zone),
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

fn field(text: &str, bounds: &Bounds) -> Result<Field, CronError> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(Field { bits: 0, open: false }, |all, part| {
        let part = range(part, bounds)?;
        Ok(Field { bits: all.bits | part.bits, open: all.open | part.open })
    })
}

/// `*`, `5`, `1-5`, any of them with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<Field, CronError> {
    let mut slashes = text.split('/');
    let (span, step, more) = (slashes.next().unwrap_or_default(), slashes.next(), slashes.next());
    let mut hyphens = span.split('-');
    let (low, high, extra) = (hyphens.next().unwrap_or_default(), hyphens.next(), hyphens.next());
    let all = low == "*" || low == "?";
    let (start, mut end) = if all {
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
        () => {
            let values = (start..=end).step_by(usize::try_from(step).unwrap_or(1));
            return Ok(Field { bits: values.fold(0, |bits, n| bits | 1 << n), open: all && step == 1 });
        }
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

impl Fields {
    fn day_fits(&self, at: &Zoned) -> bool {
        let day = self.day.has(at.day());
        let weekday = self.weekday.has(at.weekday().since(Weekday::Sunday));
        if self.day.open || self.weekday.open { day && weekday } else { day || weekday }
    }

    /// Goes forward in real time by the largest step that cannot miss a fit. So a time that a change of clocks leaves
    /// out is left out, and one that it repeats is repeated. Upstream gives up after five years, too.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let whole = after.as_second().div_euclid(60) * 60 + 60;
        let mut at = Timestamp::from_second(whole).ok()?.to_zoned(zone.clone());
        let end = at.year() + 5;
        while at.year() <= end {
            if !self.month.has(at.month()) {
                at = at.first_of_month().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?;
            } else if !self.day_fits(&at) {
                at = at.tomorrow().ok()?.start_of_day().ok()?;
            } else if !self.hour.has(at.hour()) {
                at = at.checked_add((60 - i64::from(at.minute())).minutes()).ok()?;
            } else if self.minute.has(at.minute()) {
                return Some(at.timestamp());
            } else {
                at = at.checked_add(1.minute()).ok()?;
            }
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
    fn a_day_of_month_and_a_weekday_that_are_both_given_fit_either() {
        // The 13th is a Tuesday; the Friday before is the 9th.
        assert_eq!(next("0 0 13 * 5", "2026-01-08T00:00:00Z"), "2026-01-09T00:00:00Z");
        assert_eq!(next("0 0 13 * 5", "2026-01-09T00:00:00Z"), "2026-01-13T00:00:00Z");
        assert_eq!(next("0 0 13 * *", "2026-01-08T00:00:00Z"), "2026-01-13T00:00:00Z");
        // A stepped star leaves nothing open: every second day of the month, and every Friday.
        assert_eq!(next("0 0 */2 * 5", "2026-01-08T00:00:00Z"), "2026-01-09T00:00:00Z");
        assert_eq!(next("0 0 */2 * 5", "2026-01-15T00:00:00Z"), "2026-01-16T00:00:00Z");
    }

    #[test]
    fn a_time_that_the_clocks_leave_out_is_left_out() {
        let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        let next =
            |text: &str, after: &str| Schedule::parse(text).unwrap().next(after.parse().unwrap(), &zone).unwrap();
        assert_eq!(next("30 2 * * *", "2026-03-07T12:00:00Z").to_string(), "2026-03-09T06:30:00Z");
        assert_eq!(next("0 9 * * *", "2026-03-08T12:00:00Z").to_string(), "2026-03-08T13:00:00Z");
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
