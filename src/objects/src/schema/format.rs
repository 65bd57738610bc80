//! The string formats that CRD schemas may ask for; every other format is ignored, as upstream does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use regex_lite::Regex;

/// Whether `text` is of format `name`; `None` where no such format is checked.
pub(super) fn matches(name: &str, text: &str) -> Option<bool> {
    let name: String = name.chars().filter(|c| *c != '-').collect();
    Some(match name.as_str() {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => pattern("creditcard", &text.chars().filter(char::is_ascii_digit).collect::<String>())?,
        "hostname" => text.len() <= 255 && pattern("hostname", text)?,
        "k8sshortname" => text.len() <= 63 && pattern("k8sshortname", text)?,
        "k8slongname" => text.len() <= 253 && pattern("k8slongname", text)?,
        "password" => true,
        other => pattern(other, text)?,
    })
}

fn pattern(name: &str, text: &str) -> Option<bool> {
    PATTERNS.iter().find(|(n, _)| *n == name).map(|(_, regex)| regex.is_match(text))
}

static PATTERNS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    let sources = [
        ("bsonobjectid", "^[0-9a-fA-F]{24}$"),
        ("uri", r"^(/|[a-zA-Z][a-zA-Z0-9+.-]*:)[^\s\x00-\x1f\x7f]*$"),
        ("email", r"^([^<>]*<)?[^\s@<>]+@[^\s@<>]+>?$"),
        (
            "hostname",
            r"^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*\.?$",
        ),
        ("mac", "^([0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5,7}|[0-9a-fA-F]{4}(\\.[0-9a-fA-F]{4}){2,3})$"),
        ("uuid", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid3", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        ("uuid4", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        ("uuid5", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
        (
            "creditcard",
            "^(4[0-9]{12}([0-9]{3})?|5[1-5][0-9]{14}|6(011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(0[0-5]|[68][0-9])[0-9]{11}|(2131|1800|35[0-9]{3})[0-9]{11})$",
        ),
        ("ssn", "^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
        ("hexcolor", "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        ("rgbcolor", r"^rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)$"),
        (
            "duration",
            r"^(0|[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*(ns|us|µs|μs|ms|s|m|h|d|w|nano(s|seconds?)?|micro(s|seconds?)?|milli(s|seconds?)?|seconds?|minutes?|hours?|days?|weeks?)\s*)+)$",
        ),
        ("k8sshortname", "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
        ("k8slongname", r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
    ];
    sources.into_iter().filter_map(|(name, source)| Some((name, Regex::new(source).ok()?))).collect()
});

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(bits) = bits.parse::<u8>() else { return false };
    address.parse::<IpAddr>().is_ok_and(|ip| bits <= if ip.is_ipv4() { 32 } else { 128 })
}

fn digits(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !matches!(c, '-' | ' '))
}

fn is_isbn10(text: &str) -> bool {
    let mut sum = 0;
    let mut count = 0;
    for (weight, c) in (1..).zip(digits(text)) {
        let value = match c {
            'X' | 'x' if weight == 10 => 10,
            _ => match c.to_digit(10) {
                Some(value) => value,
                None => return false,
            },
        };
        sum += weight * value;
        count = weight;
        if count > 10 {
            return false;
        }
    }
    count == 10 && sum % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits(text).map(|c| c.to_digit(10)).collect();
    let Some(values) = values.filter(|v| v.len() == 13) else { return false };
    let sum: u32 = values.iter().zip([1, 3].into_iter().cycle()).map(|(value, weight)| value * weight).sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_tells_good_from_bad() {
        let cases = [
            ("bsonobjectid", "507f1f77bcf86cd799439011", "xyz"),
            ("uri", "https://example.com/a", "not a uri"),
            ("email", "a@b.example", "nobody"),
            ("hostname", "node-1.example", "-bad-"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "fe80::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("isbn", "978-0321751041", "978-0321751042"),
            ("isbn10", "0321751043", "0321751044"),
            ("creditcard", "4111 1111 1111 1111", "4111"),
            ("ssn", "111-22-3333", "1"),
            ("hexcolor", "#FFF", "#GGG"),
            ("rgbcolor", "rgb(1, 2, 3)", "rgb(1,2)"),
            ("byte", "YQ==", "a?"),
            ("date", "2026-01-31", "2026-02-31"),
            ("date-time", "2026-01-31T10:00:00.5Z", "2026-01-31"),
            ("duration", "1h30m", "soon"),
            ("k8s-short-name", "a-b", "a.b"),
            ("k8s-long-name", "a.b", "A.b"),
        ];
        for (name, good, bad) in cases {
            assert_eq!(matches(name, good), Some(true), "{name} {good}");
            assert_eq!(matches(name, bad), Some(false), "{name} {bad}");
        }
        assert_eq!(matches("made-up", "x"), None);
    }
}
