//! Identifiers that banger makes: of a VM and of a state directory.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::{LinkName, string_type};

/// Why a string is not a valid identifier.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{kind} {shown:?} is not valid: it has {digits} lower-case hexadecimal digits")]
pub struct ParseIdError {
    kind: &'static str,
    shown: String,
    digits: usize,
}

fn parse_hex(kind: &'static str, text: &str, digits: usize) -> Result<String, ParseIdError> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() == digits && text.bytes().all(hex) {
        Ok(text.to_owned())
    } else {
        Err(ParseIdError { kind, shown: text.chars().take(40).collect(), digits })
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The identifier of a VM: 12 lower-case hexadecimal digits, random. Names of host objects follow from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(String);

impl VmId {
    /// Makes an identifier from six random bytes.
    pub fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(to_hex(&bytes))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a tap: `bgt` and the identifier, 15 bytes. Which identifier that is depends on whose the VM is.
    pub fn tap(&self) -> LinkName {
        format!("bgt{}", self.0).parse().expect("bgt and 12 hexadecimal digits are a link name")
    }
}

impl FromStr for VmId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex("the VM id", text, 12).map(Self)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(VmId, "^[0-9a-f]{12}$");

/// The identifier of a state directory: 8 lower-case hexadecimal digits, random, kept in the file `state_id`. It is the
/// owner tag of every host object that belongs to the directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(String);

impl StateId {
    /// Makes an identifier from four random bytes.
    pub fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(to_hex(&bytes))
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StateId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex("the state id", text, 8).map(Self)
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(StateId, "^[0-9a-f]{8}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_host_objects_follow_from_ids() {
        let id = VmId::from_bytes([0, 1, 2, 0xaa, 0xbb, 0xff]);
        assert_eq!(id.tap().as_str(), "bgt000102aabbff");
        let state: StateId = "0a1b2c3d".parse().unwrap();
        assert_eq!(state.as_str(), "0a1b2c3d");
        assert!("0A1b2c3d".parse::<StateId>().is_err());
        assert!("0a1b2c3".parse::<StateId>().is_err());
    }
}
