//! Names that people choose: of VMs, of images, of network links.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::string_type;

/// Why a string is not a valid name. The text quotes the input escaped and cut, since it may be anything.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{kind} {shown} is not valid: {reason}")]
pub struct ParseNameError {
    kind: &'static str,
    shown: String,
    reason: &'static str,
}

impl ParseNameError {
    fn new(kind: &'static str, input: &str, reason: &'static str) -> Self {
        let cut: String = input.chars().take(40).collect();
        let dots = if cut.len() < input.len() { "…" } else { "" };
        Self { kind, shown: format!("{:?}{dots}", cut), reason }
    }
}

/// A DNS label (RFC 1123): 1–63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or a digit.
fn check_label(kind: &'static str, text: &str) -> Result<(), ParseNameError> {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(ParseNameError::new(kind, text, "it is empty"));
    };
    if bytes.len() > 63 {
        return Err(ParseNameError::new(kind, text, "it is longer than 63 characters"));
    }
    if !bytes.iter().all(|&b| alnum(b) || b == b'-') {
        return Err(ParseNameError::new(kind, text, "use lower-case letters, digits and '-' only"));
    }
    if !alnum(*first) || !alnum(*last) {
        return Err(ParseNameError::new(kind, text, "begin and end with a letter or a digit"));
    }
    Ok(())
}

/// The name of a VM. It is also the guest's host name, so it is a DNS label (RFC 1123).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl VmName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_label("the VM name", text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(VmName, "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$");

/// Labels of `a-z`, `0-9` and `-`, joined by `.`, 64 characters at most.
fn check_labels(kind: &'static str, text: &str) -> Result<(), ParseNameError> {
    if text.len() > 64 {
        return Err(ParseNameError::new(kind, text, "it is longer than 64 characters"));
    }
    let wrong = |reason| ParseNameError::new(kind, text, reason);
    if !text.is_empty() && text.split('.').any(str::is_empty) {
        return Err(wrong("begin and end with a letter or a digit, and put a '.' between others only"));
    }
    text.split('.').try_for_each(|label| check_label(kind, label).map_err(|e| wrong(e.reason)))
}

/// The name of an image, as `debian` or `debian-12`: labels of `a-z`, `0-9` and `-`, joined by `.`, 64 at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_labels("the image name", text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(ImageName, "^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$");

/// The name of a kernel, as `6.1.0-37-cloud-amd64`: the same as for an image, but for [`KernelName::OWN`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelName(String);

impl KernelName {
    /// What stands for the image's own kernel where one is chosen, and is not a kernel's name.
    pub const OWN: &str = "image";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelName {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_labels("the kernel name", text)?;
        if text == Self::OWN {
            return Err(ParseNameError::new("the kernel name", text, "it stands for the kernel of an image"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(KernelName, "^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$");

/// The name of a network link: 1–15 bytes (`IFNAMSIZ` less the NUL; the kernel accepts a 16th silently), of letters,
/// digits and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

impl LinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkName {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = "the link name";
        if text.is_empty() || text.len() > 15 {
            return Err(ParseNameError::new(kind, text, "a link name has 1 to 15 bytes"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ParseNameError::new(kind, text, "use letters, digits and '-' only"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_type!(LinkName, "^[A-Za-z0-9-]{1,15}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_are_dns_labels() {
        for good in ["a", "dev1", "a-b", "0x", &"a".repeat(63)] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a/b", "..", "a\nb", "-a", "a-", "ü", "a b", &"a".repeat(64), &"a".repeat(300)]
        {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn errors_escape_and_cut_their_input() {
        let message = "\x1b[31m\n".repeat(100).parse::<VmName>().unwrap_err().to_string();
        assert!(message.len() < 400 && !message.contains('\x1b') && !message.contains('\n'), "{message}");
    }

    #[test]
    fn what_stands_for_the_images_own_kernel_is_no_kernels_name() {
        assert!(
            "6.1.0-37-cloud-amd64".parse::<KernelName>().is_ok() && "image-2".parse::<KernelName>().is_ok()
        );
        assert!(KernelName::OWN.parse::<KernelName>().is_err());
        assert!(KernelName::OWN.parse::<ImageName>().is_ok());
    }

    #[test]
    fn image_and_link_names() {
        assert!("debian-12.4".parse::<ImageName>().is_ok());
        let dots = "../x".parse::<ImageName>().unwrap_err().to_string();
        assert!(!dots.contains("empty"), "{dots}");
        assert!("bgt0123456789ab".parse::<LinkName>().is_ok());
        assert!("bgt0123456789abc".parse::<LinkName>().is_err());
    }
}
