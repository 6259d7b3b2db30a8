//! A length of time as people write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// Why a string is no length of time.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("write it as 90s, 1.5m or 1h30m")]
pub struct ParseSpanError;

/// A length of time: numbers with d, h, m, s or ms behind them, the larger units first; a bare number is seconds. Fractions are
/// understood down to a nanosecond, and so are words, as in "2 hours 5 minutes".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

/// Names and nanoseconds of each unit, the largest first.
const UNITS: [(&[&str], u64); 5] = [
    (&["d", "day", "days"], 86_400_000_000_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["ms"], 1_000_000),
];

impl Span {
    /// The time.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Seconds, where it is whole ones.
    pub fn whole_seconds(self) -> Option<u64> {
        (self.0.subsec_nanos() == 0).then_some(self.0.as_secs())
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

/// `number` times `nanoseconds`. No float: what is written is what counts, and what is smaller than a nanosecond is refused.
fn times(number: &str, nanoseconds: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut part, mut rest) = (0, nanoseconds);
    for digit in fraction.bytes() {
        if digit != b'0' && rest % 10 != 0 {
            return None;
        }
        rest /= 10;
        part += u64::from(digit - b'0') * rest;
    }
    whole.checked_mul(nanoseconds)?.checked_add(part)
}

fn parts(text: &str) -> Option<u64> {
    let (mut sum, mut left, mut next) = (0_u64, text, 0);
    while !left.is_empty() {
        let number = left.len() - left.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, rest) = left.split_at(number);
        let rest = rest.trim_start_matches(' ');
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, rest) = rest.split_at(letters);
        let at = next + UNITS[next..].iter().position(|(names, _)| names.contains(&unit))?;
        sum = sum.checked_add(times(number, UNITS[at].1)?)?;
        (left, next) = (rest.trim_start_matches(' '), at + 1);
    }
    (!text.is_empty()).then_some(sum)
}

impl FromStr for Span {
    type Err = ParseSpanError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nanoseconds = times(text, 1_000_000_000).or_else(|| parts(text));
        nanoseconds.map(|nanoseconds| Self(Duration::from_nanos(nanoseconds))).ok_or(ParseSpanError)
    }
}

impl fmt::Display for Span {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart() {
        let ms = |text: &str| text.parse::<Span>().map(|span| span.duration().as_millis());
        for (text, expected) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("1.5m", 90_000),
            (".5s", 500),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1d1ms", 86_400_001),
            ("2 hours", 7_200_000),
            ("2 days 5 min", 173_100_000),
            ("1.000000001s", 1_000),
            ("0", 0),
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "s",
            "-1",
            "-1h",
            "1e3",
            "inf",
            "nan",
            "10y",
            "+1",
            ".",
            "1.2.3s",
            "1m1h",
            "+1h",
            "PT1H",
            "1.0000000001s",
            "99999999999999999999s",
        ] {
            assert_eq!(ms(bad), Err(ParseSpanError), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for seconds in [0, 1, 90, 5400, 86_400, 90_061] {
            let span = Span::from(Duration::from_secs(seconds));
            assert_eq!(span.to_string().parse(), Ok(span), "{span}");
        }
    }
}
