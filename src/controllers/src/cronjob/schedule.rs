//! Cron schedules: five fields with lists, ranges, steps and names, or a word such as `@daily`. Pure.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("schedule field {field:?} is not valid")]
pub(super) struct BadSchedule {
    field: String,
}

/// A parsed schedule. Each field is a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether day and weekday are both restricted: then either may match.
    either_day: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// No schedule that ever comes is further away (29 February of a leap year, eight years over a century).
const HORIZON_YEARS: i16 = 9;

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Self, BadSchedule> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(BadSchedule { field: text.to_owned() });
        };
        let starred = |field: &str| field.starts_with('*') || field.starts_with('?');
        let weekday_bits = bits(weekdays, 0, 7, &WEEKDAYS, 0)?;
        Ok(Self {
            minutes: bits(minutes, 0, 59, &[], 0)?,
            hours: bits(hours, 0, 23, &[], 0)?,
            days: bits(days, 1, 31, &[], 0)?,
            months: bits(months, 1, 12, &MONTHS, 1)?,
            // Both 0 and 7 are Sunday.
            weekdays: weekday_bits | (weekday_bits >> 7 & 1),
            either_day: !starred(days) && !starred(weekdays),
        })
    }

    fn day_matches(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.either_day { day || weekday } else { day && weekday }
    }

    /// The first time after `after` that the schedule names, in `zone`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(after);
        let mut at = local.date().at(local.hour(), local.minute(), 0, 0).checked_add(1.minute()).ok()?;
        let horizon = at.year().checked_add(HORIZON_YEARS)?;
        while at.year() < horizon {
            if !has(self.months, at.month()) {
                at = at.date().first_of_month().at(0, 0, 0, 0).checked_add(1.month()).ok()?;
            } else if !self.day_matches(at) {
                at = at.date().at(0, 0, 0, 0).checked_add(1.day()).ok()?;
            } else if !has(self.hours, at.hour()) {
                at = at.date().at(at.hour(), 0, 0, 0).checked_add(1.hour()).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                let found = zone.to_timestamp(at).ok()?;
                // In the hour that a clock change repeats, the local time may be over already.
                if found > after {
                    return Some(found);
                }
                at = at.checked_add(1.minute()).ok()?;
            }
        }
        None
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set >> value & 1 == 1)
}

fn bits(field: &str, low: u32, high: u32, names: &[&str], first_name: u32) -> Result<u64, BadSchedule> {
    let bad = || BadSchedule { field: field.to_owned() };
    let value = |text: &str| -> Option<u32> {
        let name = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let value = match name {
            Some(position) => u32::try_from(position).ok()? + first_name,
            None => text.parse().ok()?,
        };
        (low..=high).contains(&value).then_some(value)
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step: u32 = step.map_or(Ok(1), |step| step.parse().map_err(|_not_a_number| bad()))?;
        let (first, last) = match range {
            "*" | "?" => (low, high),
            _ => match range.split_once('-') {
                Some((first, last)) => (value(first).ok_or_else(bad)?, value(last).ok_or_else(bad)?),
                None => {
                    let only = value(range).ok_or_else(bad)?;
                    (only, if part.contains('/') { high } else { only })
                }
            },
        };
        if step == 0 || first > last {
            return Err(bad());
        }
        for value in (first..=last).step_by(usize::try_from(step).unwrap_or(1)) {
            set |= 1 << value;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(after.parse().unwrap(), &TimeZone::UTC).unwrap().to_string()
    }

    #[test]
    fn times_follow_the_fields() {
        assert_eq!(next("*/15 * * * *", "2026-01-01T00:07:30Z"), "2026-01-01T00:15:00Z");
        assert_eq!(next("0 3 * * *", "2026-01-01T03:00:00Z"), "2026-01-02T03:00:00Z");
        assert_eq!(next("30 6 * * mon-fri", "2026-01-02T07:00:00Z"), "2026-01-05T06:30:00Z");
        assert_eq!(next("0 0 13 * 5", "2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
        assert_eq!(next("0 0 29 feb *", "2026-01-01T00:00:00Z"), "2028-02-29T00:00:00Z");
        assert_eq!(next("@hourly", "2026-12-31T23:00:00Z"), "2027-01-01T00:00:00Z");
        assert_eq!(next("0 0 * * 7", "2026-01-01T00:00:00Z"), "2026-01-04T00:00:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_its_field() {
        for bad in ["", "* * * *", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "x * * * *"] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Schedule::parse("0 25 * * *").unwrap_err().to_string(), "schedule field \"25\" is not valid");
    }
}
