//! What an image is for.

use serde::Deserialize;

use crate::arch;

/// An operating system and a processor, as Go and OCI name them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// What runs in a VM on this host.
    pub fn host() -> Self {
        Self { os: "linux".into(), architecture: arch::OCI_NAME.into(), variant: None }
    }

    /// Whether what is made for `other` runs where this is asked for.
    pub fn accepts(&self, other: &Self) -> bool {
        let same_variant = self.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && same_variant
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl std::str::FromStr for Platform {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let ok = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        match parts.as_slice() {
            [os, architecture, variant @ ..] if variant.len() <= 1 && parts.iter().all(ok) => Ok(Self {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: variant.first().map(|v| (*v).to_owned()),
            }),
            _ => Err("write it as linux/amd64 or linux/arm64/v8"),
        }
    }
}
