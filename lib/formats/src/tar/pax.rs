//! PAX records: what a header's fields have no room for (pax(1), "pax Extended Header").

use std::collections::BTreeMap;

use super::sparse::{self, Map};
use crate::ext4::{Time, Xattr};

/// Extended attributes, as star and GNU tar name them.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// What all keys about sparse files begin with.
const SPARSE: &[u8] = b"GNU.sparse.";
/// The other keys that mean something here.
const KEYS: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];

/// How many records that mean something an entry may have: each takes memory. A file in 8000 pieces has twice as many in the oldest of
/// the sparse formats.
const MAX_RECORDS: usize = 16_384;

/// Records that mean something, the later ones stronger.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    list: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

impl Records {
    /// Adds `length key=value\n` after `length key=value\n`.
    pub(super) fn add(&mut self, mut bytes: &[u8]) -> Result<(), ()> {
        let means_something =
            |key: &[u8]| KEYS.contains(&key) || key.starts_with(XATTR) || key.starts_with(SPARSE);
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(())?;
            let length = number(&bytes[..space]).and_then(|n| usize::try_from(n).ok()).ok_or(())?;
            let record = bytes.get(space + 1..length).ok_or(())?;
            let record = record.strip_suffix(b"\n").ok_or(())?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(())?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if means_something(key) {
                self.bytes += record.len();
                self.list.push((key.to_vec(), value.to_vec()));
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Whether they are more than any entry has, by number or by length.
    pub(super) fn are_too_many(&self, max_bytes: u64) -> bool {
        self.list.len() > MAX_RECORDS || self.bytes as u64 > max_bytes
    }

    /// The value of `key`; an empty one takes an earlier one back.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.list.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_slice()).filter(|value| !value.is_empty())
    }

    pub(super) fn xattrs(&self) -> Vec<Xattr> {
        let named =
            |(key, value): &(Vec<u8>, Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value.clone()));
        let last: BTreeMap<Vec<u8>, Vec<u8>> = self.list.iter().filter_map(named).collect();
        last.into_iter().collect()
    }

    /// What a sparse file is really called.
    pub(super) fn sparse_name(&self) -> Option<&[u8]> {
        self.get(b"GNU.sparse.name")
    }

    /// The map of a sparse file of the formats 0.0 and 0.1; `None`: it is none.
    pub(super) fn sparse_map(&self) -> Result<Option<Map>, ()> {
        let Some(size) = self.get(b"GNU.sparse.size") else { return Ok(None) };
        let size = number(size).ok_or(())?;
        let numbers: Option<Vec<u64>> = match self.get(b"GNU.sparse.map") {
            Some(map) => map.split(|byte| *byte == b',').map(number).collect(),
            None => {
                let keys = [&b"GNU.sparse.offset"[..], b"GNU.sparse.numbytes"];
                let own = self.list.iter().filter(|(key, _)| keys.contains(&key.as_slice()));
                own.enumerate()
                    .map(|(at, (key, value))| if key == keys[at % 2] { number(value) } else { None })
                    .collect()
            }
        };
        let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0).ok_or(())?;
        let regions = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Some(Map { size, regions: sparse::without_empty(regions) }))
    }
}

/// A decimal number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// Seconds since 1970, with a fraction; before that negative.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next().filter(|fraction| !fraction.is_empty()) {
        let digits: Vec<u8> = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9).collect();
        nanos = u32::try_from(number(&digits)?).ok()?;
    }
    if !negative {
        return Some(Time { seconds, nanos });
    }
    // Nanoseconds count forwards.
    Some(if nanos == 0 {
        Time { seconds: -seconds, nanos }
    } else {
        Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_forwards() {
        let of = |text: &str| time(text.as_bytes()).map(|time| (time.seconds, time.nanos));
        assert_eq!(of("1.5"), Some((1, 500_000_000)));
        assert_eq!(of("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(of("12.1234567891"), Some((12, 123_456_789)));
        assert_eq!(of("x"), None);
        assert_eq!(of("1.x"), None);
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        for bytes in
            ["9 a=b\n", "6 a=b", "a=b\n", "0 a=b\n", "3 a=b\n", "6 a:b\n", "99999999999999999999 a=b\n"]
        {
            assert!(Records::default().add(bytes.as_bytes()).is_err(), "{bytes}");
        }
        let mut records = Records::default();
        records.add(b"10 path=b\n10 path=c\n8 size=\n").unwrap();
        assert_eq!((records.get(b"path"), records.get(b"size")), (Some(&b"c"[..]), None));
    }
}
