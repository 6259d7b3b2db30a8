//! A size as people write it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why a string is not a size.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("write it as 512M, 20G or 1T")]
pub struct ParseSizeError;

/// A number of bytes, written with its unit: K, M, G or T, all binary as with QEMU, Firecracker and docker. `MiB` and `MB` are
/// the same as `M`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size that `text` says; a number without a unit counts `bare` bytes.
    ///
    /// # Errors
    /// It says none.
    pub fn parse_in(text: &str, bare: u64) -> Result<Self, ParseSizeError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse();
        }
        let bytes = text.parse::<u64>().ok().and_then(|number| number.checked_mul(bare));
        bytes.map(Self).ok_or(ParseSizeError)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Letter and bytes of each unit, the largest first.
const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

impl FromStr for Size {
    type Err = ParseSizeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let mut letters = unit.trim_start_matches(' ').chars();
        let letter = letters.next().map(|c| c.to_ascii_uppercase());
        let parse = || {
            let (_, bytes) = UNITS.into_iter().find(|(unit, _)| Some(*unit) == letter)?;
            matches!(letters.as_str(), "" | "b" | "B" | "ib" | "iB" | "i")
                .then(|| number.parse::<u64>().ok()?.checked_mul(bytes))?
        };
        parse().map(Self).ok_or(ParseSizeError)
    }
}

impl fmt::Display for Size {
    /// In the largest unit of which it is a multiple; as [`FromStr`] reads it, unless it is no multiple of 1024.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.into_iter().find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes)) {
            Some((letter, bytes)) => write!(f, "{}{letter}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_need_a_unit() {
        for (text, bytes) in
            [("512M", 512 << 20), ("2G", 2 << 30), ("2GiB", 2 << 30), ("1 tb", 1 << 40), ("4k", 4096)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "1", "M", "-1G", "1.5G", "1GG", "1X", "99999999999T", "\u{661}G"] {
            assert_eq!(bad.parse::<Size>(), Err(ParseSizeError), "{bad}");
        }
        assert_eq!(Size::parse_in("2", 1 << 20), Ok(Size(2 << 20)));
        assert_eq!(Size::parse_in("2K", 1 << 20), Ok(Size(2 << 10)));
        for bad in ["18446744073709551615", "+5", "-5", ""] {
            assert_eq!(Size::parse_in(bad, 2), Err(ParseSizeError), "{bad}");
        }
        assert_eq!(Size(3 << 30).to_string(), "3G");
        assert_eq!(Size(1536 << 20).to_string(), "1536M");
        assert_eq!(Size(0).to_string(), "0");
    }
}
