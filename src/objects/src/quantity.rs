//! Resource quantities: `500m`, `1.5Gi`, `2e3`.
//!
//! The one parser in rk. Values are exact: an integer count of 10⁻⁹, which holds all that the API allows (up to
//! 2⁶³-1 in magnitude, finer parts rounded up). A quantity remembers the family of its suffix and prints itself in
//! canonical form. The rules are those of `k8s.io/apimachinery/pkg/api/resource`.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

const NANO: i128 = 1_000_000_000;
/// 2⁶³-1, the largest value.
const MAX: i128 = 0x7fff_ffff_ffff_ffff * NANO;

/// Family of suffixes that a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `m`, `k`, `M` …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi` …
    BinarySi,
    /// `e3`, `e6` …
    DecimalExponent,
}

/// Why a text is no quantity; displays as upstream words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Number,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Equality and order look at the amount only, not at how it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn new(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Whole units, rounded up (away from zero), as upstream's `Value`.
    pub fn value(self) -> i64 {
        scaled(self.nanos, NANO)
    }

    /// Thousandths, rounded up, as upstream's `MilliValue`.
    pub fn millis(self) -> i64 {
        scaled(self.nanos, NANO / 1000)
    }

    /// The same, with anything finer than a thousandth rounded up, as resource lists are stored.
    #[must_use]
    pub fn round_up_to_millis(self) -> Self {
        let milli = NANO / 1000;
        Self { nanos: (self.nanos / milli + (self.nanos % milli).signum()) * milli, ..self }
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether there is no fraction of a unit.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether there is no fraction of a thousandth.
    pub fn is_milli_precise(self) -> bool {
        self.nanos % (NANO / 1000) == 0
    }

    pub fn format(self) -> Format {
        self.format
    }

    /// The number of units as a float, for ratios.
    #[expect(clippy::cast_precision_loss, reason = "ratios need no more than a float's precision")]
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Reads an API quantity; one that does not parse counts as zero, which validation keeps from being stored.
    pub fn of(wire: &Wire) -> Self {
        wire.0.parse().unwrap_or_default()
    }

    pub fn to_wire(self) -> Wire {
        Wire(self.to_string())
    }

    fn with(self, other: Self, nanos: i128) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: nanos.clamp(-MAX, MAX), format }
    }
}

fn scaled(nanos: i128, unit: i128) -> i64 {
    let whole = nanos / unit + (nanos % unit).signum();
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.with(other, self.nanos + other.nanos)
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.with(other, self.nanos - other.nanos)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, ..self }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = split(text)?;
        let (format, exp10, shift) = suffix(parts.suffix)?;
        if parts.whole.is_empty() && parts.fraction.is_empty() {
            return Err(ParseError::Number);
        }
        let nanos = amount(&parts, exp10, shift).min(MAX);
        // A fraction of one byte cannot be written in binary units.
        let format = if format == Format::BinarySi && nanos > 0 && nanos < NANO { Format::DecimalSi } else { format };
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format })
    }
}

struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    if text.is_empty() {
        return Err(ParseError::Format);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, rest) = rest.split_at(leading(rest, |c| c.is_ascii_digit()));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(leading(rest, |c| c.is_ascii_digit())),
        None => ("", rest),
    };
    let tail = &suffix[leading(suffix, |c| b"eEinumkKMGTP".contains(&c))..];
    let digits = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !digits.bytes().all(|c| c.is_ascii_digit()) {
        return Err(ParseError::Format);
    }
    Ok(Parts { negative, whole, fraction, suffix })
}

fn leading(text: &str, fits: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|c| !fits(c)).unwrap_or(text.len())
}

/// Format, power of ten and power of two of a suffix.
fn suffix(suffix: &str) -> Result<(Format, i32, u32), ParseError> {
    let decimal = |exponent| Ok((Format::DecimalSi, exponent, 0));
    let binary = |shift| Ok((Format::BinarySi, 0, shift));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            let exponent = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
            Ok((Format::DecimalExponent, exponent, 0))
        }
    }
}

/// The magnitude in nanos, rounded up, saturating above [`MAX`].
fn amount(parts: &Parts<'_>, exp10: i32, shift: u32) -> i128 {
    let digits: Vec<u8> = parts.whole.bytes().chain(parts.fraction.bytes()).map(|c| c - b'0').collect();
    let Some(first) = digits.iter().position(|d| *d != 0) else { return 0 };
    let point = i64::try_from(parts.whole.len()).unwrap_or(i64::MAX).saturating_add(i64::from(exp10));
    // Where the point falls, counted from the first digit that is not zero.
    let point = point - i64::try_from(first).unwrap_or(i64::MAX);
    let digits = &digits[first..];
    if point > 20 {
        return MAX;
    }
    let digit = |at: i64| usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let whole = (0..point).fold(0_i128, |sum, at| sum * 10 + i128::from(digit(at)));
    // Eighteen digits after the point; whatever lies beyond only rounds up.
    let fraction = (point..point.saturating_add(18)).fold(0_i128, |sum, at| sum * 10 + i128::from(digit(at)));
    let beyond = usize::try_from(point.saturating_add(18)).map_or(true, |at| digits.iter().skip(at).any(|d| *d != 0));

    let unit = 10_i128.pow(18);
    let shifted = fraction << shift;
    let below = (shifted % unit) * NANO;
    let rounded = i128::from(below % unit != 0 || beyond);
    let nanos = (shifted / unit) * NANO + below / unit + rounded;
    whole.saturating_mul(1 << shift).saturating_mul(NANO).saturating_add(nanos)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Binary units have no fractions: what is small, or no whole number, is written in decimal ones.
        let binary = self.nanos.abs() >= 1024 * NANO && self.nanos % NANO == 0;
        match self.format {
            Format::BinarySi if binary => self.write_binary(f),
            Format::DecimalExponent => self.write_decimal(f, |exponent| match exponent {
                0 => String::new(),
                _ => format!("e{exponent}"),
            }),
            Format::BinarySi | Format::DecimalSi => self.write_decimal(f, |exponent| {
                let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                usize::try_from(exponent / 3 + 3).ok().and_then(|at| names.get(at)).map_or("", |name| name).to_owned()
            }),
        }
    }
}

impl Quantity {
    fn write_decimal(self, f: &mut fmt::Formatter<'_>, name: impl Fn(i32) -> String) -> fmt::Result {
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        write!(f, "{number}{}", name(exponent))
    }

    fn write_binary(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut number = self.value();
        let mut names = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter();
        let mut name = names.next();
        while number % 1024 == 0 && names.len() > 0 {
            number /= 1024;
            name = names.next();
        }
        write!(f, "{number}{}", name.unwrap_or(&""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().map_or_else(|error| error.to_string(), |q| q.to_string())
    }

    #[test]
    fn canonical_forms() {
        for (text, expected) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("123000", "123k"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1Ei", "1Ei"),
            ("100Ki", "100Ki"),
            ("512", "512"),
            ("1e3", "1e3"),
            ("12E2", "1200"),
            ("1e-3", "1e-3"),
            ("0.1m", "100u"),
            ("0.1n", "1n"),
            ("1.23456789012n", "2n"),
            (".5", "500m"),
            ("5.", "5"),
            ("-1", "-1"),
            ("+2Mi", "2Mi"),
            ("0.5Ki", "512"),
            ("1.3Gi", "1395864371200m"),
            ("1.1Pi", "1238489897526886400m"),
            ("9Ei", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("1e-100", "1e-9"),
            ("00012", "12"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn bad_quantities_are_told_apart() {
        assert_eq!("".parse::<Quantity>(), Err(ParseError::Format));
        assert_eq!("abc".parse::<Quantity>(), Err(ParseError::Format));
        assert_eq!("1.2.3".parse::<Quantity>(), Err(ParseError::Format));
        assert_eq!("1mm".parse::<Quantity>(), Err(ParseError::Suffix));
        assert_eq!("m".parse::<Quantity>(), Err(ParseError::Number));
    }

    #[test]
    fn arithmetic_is_exact_and_keeps_the_format() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!((q("100m") + q("0.2")).to_string(), "300m");
        assert_eq!((q("1Gi") - q("1Mi")).to_string(), "1023Mi");
        assert_eq!((Quantity::ZERO + q("1Ki")).to_string(), "1Ki");
        assert!(q("1k") < q("1Ki"));
        assert_eq!(q("1500m"), q("1.5"));
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("0.0001").millis(), 1);
        assert_eq!(q("100u").round_up_to_millis().to_string(), "1m");
        assert_eq!(q("-1500m").value(), -2);
    }

    #[test]
    fn printing_and_parsing_agree() {
        for nanos in [1_i128, 999, 1000, 1_000_001, 123_456_789_012_345_678, MAX] {
            for format in [Format::DecimalSi, Format::DecimalExponent] {
                let quantity = Quantity { nanos, format };
                assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
            }
        }
    }
}
