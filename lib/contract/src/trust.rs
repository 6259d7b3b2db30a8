//! What of the host's trust goes into guests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which authorities guests trust besides those of their image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostCa {
    /// Those that the host trusts and its distribution does not.
    #[default]
    Auto,
    /// None.
    None,
}

/// An authority of the host's, as the record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustedCa {
    /// Its subject, as RFC 4514 writes it, escaped.
    pub subject: String,
    /// The SHA-256 of its certificate (DER), hexadecimal.
    pub sha256: String,
}
