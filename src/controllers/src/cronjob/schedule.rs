//! Cron schedules: five fields or a name such as `@daily`, read as robfig/cron's standard parser reads them, and the
//! next time that fits. Pure.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScheduleError {
    #[error("expected exactly 5 fields, found {0}")]
    Fields(usize),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Duration(String),
    #[error("failed to parse int from {0}")]
    Number(String),
    #[error("value ({0}) out of range ({1}-{2})")]
    Range(u32, u32, u32),
    #[error("beginning of range ({0}) beyond end of range ({1})")]
    Backwards(u32, u32),
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// The values of one field that fit, as bits; and whether the field leaves all open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    open: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & (1 << value) != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    At(Fields),
    Every(SignedDuration),
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn number(text: &str, names: &[&str], first: u32) -> Result<u32, ScheduleError> {
    let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).and_then(|at| u32::try_from(at).ok());
    match named {
        Some(at) => Ok(at + first),
        None => text.parse().map_err(|_| ScheduleError::Number(text.to_owned())),
    }
}

/// One element of a field: `*`, `a`, `a-b`, each with an optional `/step`.
fn range(text: &str, (low, high): (u32, u32), names: &[&str]) -> Result<Field, ScheduleError> {
    let (body, step_text) = text.split_once('/').map_or((text, None), |(body, step)| (body, Some(step)));
    let all = body == "*" || body == "?";
    let (from, mut to) = match body.split_once('-') {
        _ if all => (low, high),
        Some((from, to)) => (number(from, names, low)?, number(to, names, low)?),
        None => number(body, names, low).map(|value| (value, value))?,
    };
    let step = step_text.map_or(Ok(1), |text| number(text, &[], 0))?;
    if step_text.is_some() && !all && !body.contains('-') {
        to = high;
    }
    for value in [from, to] {
        if value < low || value > high {
            return Err(ScheduleError::Range(value, low, high));
        }
    }
    if from > to {
        return Err(ScheduleError::Backwards(from, to));
    }
    let Some(step) = usize::try_from(step).ok().filter(|step| *step > 0) else {
        return Err(ScheduleError::Step(text.to_owned()));
    };
    let bits = (from..=to).step_by(step).fold(0, |bits, value| bits | 1 << value);
    Ok(Field { bits, open: all && step == 1 })
}

fn field(text: &str, bounds: (u32, u32), names: &[&str]) -> Result<Field, ScheduleError> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(Field { bits: 0, open: false }, |sum, part| {
        let part = range(part, bounds, names)?;
        Ok(Field { bits: sum.bits | part.bits, open: sum.open | part.open })
    })
}

/// A duration as Go writes it, such as `1h30m`.
fn duration(text: &str) -> Result<SignedDuration, ScheduleError> {
    let error = || ScheduleError::Duration(text.to_owned());
    let (mut total, mut rest) = (0.0_f64, text.trim());
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| error())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let unit = match &rest[digits..unit_end] {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(error()),
        };
        total += amount * unit;
        rest = &rest[unit_end..];
    }
    // Runs are at least a second apart, and on whole seconds.
    SignedDuration::try_from_secs_f64(total.trunc().max(1.0)).map_err(|_| error())
}

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        if let Some(every) = fields.strip_prefix("@every ") {
            return duration(every).map(Self::Every);
        }
        if fields.starts_with('@') {
            return Err(ScheduleError::Descriptor(fields.to_owned()));
        }
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else { return Err(ScheduleError::Fields(parts.len())) };
        Ok(Self::At(Fields {
            minute: field(minute, (0, 59), &[])?,
            hour: field(hour, (0, 23), &[])?,
            day: field(day, (1, 31), &[])?,
            month: field(month, (1, 12), &MONTHS)?,
            weekday: field(weekday, (0, 6), &WEEKDAYS)?,
        }))
    }

    /// The first time after `after` that fits, if there is one within five years.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*period).ok(),
            Self::At(fields) => fields.next(after, zone),
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
    /// out is left out, and one that it repeats is repeated.
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

    fn next(schedule: &str, after: &str, zone: &TimeZone) -> Option<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(after.parse().unwrap(), zone).map(|at| at.to_string())
    }

    fn utc(schedule: &str, after: &str) -> String {
        next(schedule, after, &TimeZone::UTC).unwrap()
    }

    #[test]
    fn the_next_time_fits_all_fields() {
        assert_eq!(utc("*/15 * * * *", "2026-01-01T10:15:00Z"), "2026-01-01T10:30:00Z");
        assert_eq!(utc("5/20 3 * * *", "2026-01-01T03:05:10Z"), "2026-01-01T03:25:00Z");
        assert_eq!(utc("0 0 29 feb ?", "2026-01-01T00:00:00Z"), "2028-02-29T00:00:00Z");
        assert_eq!(utc("30 9 * * MON-fri", "2026-01-02T10:00:00Z"), "2026-01-05T09:30:00Z");
        assert_eq!(utc("@monthly", "2026-12-31T23:59:59Z"), "2027-01-01T00:00:00Z");
        assert_eq!(utc("@every 1h30m", "2026-01-01T00:00:00.5Z"), "2026-01-01T01:30:00Z");
        assert_eq!(next("0 0 31 2 *", "2026-01-01T00:00:00Z", &TimeZone::UTC), None);
    }

    #[test]
    fn a_day_of_month_and_a_weekday_that_are_both_given_fit_either() {
        // The 13th is a Tuesday; the Friday before is the 9th.
        assert_eq!(utc("0 0 13 * 5", "2026-01-08T00:00:00Z"), "2026-01-09T00:00:00Z");
        assert_eq!(utc("0 0 13 * 5", "2026-01-09T00:00:00Z"), "2026-01-13T00:00:00Z");
        assert_eq!(utc("0 0 13 * *", "2026-01-08T00:00:00Z"), "2026-01-13T00:00:00Z");
    }

    #[test]
    fn a_time_that_the_clocks_leave_out_is_left_out() {
        let zone = crate::cronjob::zone::find("America/New_York").unwrap();
        let told = next("30 2 * * *", "2026-03-07T12:00:00Z", &zone);
        assert_eq!(told.as_deref(), Some("2026-03-09T06:30:00Z"));
        assert_eq!(next("0 9 * * *", "2026-03-08T12:00:00Z", &zone).as_deref(), Some("2026-03-08T13:00:00Z"));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        let error = |text: &str| Schedule::parse(text).unwrap_err().to_string();
        assert_eq!(error("* * * *"), "expected exactly 5 fields, found 4");
        assert_eq!(error("60 * * * *"), "value (60) out of range (0-59)");
        assert_eq!(error("5-1 * * * *"), "beginning of range (5) beyond end of range (1)");
        assert_eq!(error("*/0 * * * *"), "step of range should be a positive number: */0");
        assert_eq!(error("a * * * *"), "failed to parse int from a");
        assert_eq!(error("@never"), "unrecognized descriptor: @never");
        assert_eq!(error("@every soon"), "failed to parse duration soon");
    }
}
