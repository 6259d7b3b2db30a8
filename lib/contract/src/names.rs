//! The names file: which VMs the resolver of a state directory knows. The dispatcher writes it, `banger-netd serve` reads it.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Coded, ErrorCode};
use crate::types::{StateId, VmName};

/// The schema of [`Names`].
pub const NAMES_SCHEMA: &str = "banger.names/1";

/// How large a names file may be, bytes: some ten thousand VMs.
pub const MAX_NAMES_BYTES: u64 = 2 << 20;

/// The VMs of a state directory that have an address on its bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Always [`NAMES_SCHEMA`].
    pub schema: String,
    /// The state directory, which the bridge is named after.
    pub state_id: StateId,
    /// The VMs.
    pub items: Vec<NamedVm>,
}

/// One VM as the resolver knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedVm {
    /// Its name, to which `.vm` is added.
    pub name: VmName,
    /// Its addresses. One that lies outside of the bridge's subnet is ignored.
    pub addresses: Vec<IpAddr>,
    /// Whether questions of this VM about other names are passed on to the host's resolvers.
    pub forward: bool,
}

/// A names file that is none.
#[derive(Debug, Error)]
pub enum NamesError {
    /// Not JSON of the right shape.
    #[error("the names file is not valid")]
    Json(#[source] serde_json::Error),
    /// Another schema.
    #[error("the names file's schema is {0:?}; this program speaks {NAMES_SCHEMA:?}")]
    Schema(String),
}

impl Coded for NamesError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Json(_) => ErrorCode::BadInput,
            Self::Schema(_) => ErrorCode::UnsupportedSchema,
        }
    }
}

impl Names {
    /// The names of `items`.
    pub fn new(state_id: StateId, items: Vec<NamedVm>) -> Self {
        Self { schema: NAMES_SCHEMA.to_owned(), state_id, items }
    }

    /// Reads what [`Self::to_bytes`] writes.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, NamesError> {
        let names: Self = serde_json::from_slice(bytes).map_err(NamesError::Json)?;
        if names.schema == NAMES_SCHEMA {
            Ok(names)
        } else {
            Err(NamesError::Schema(names.schema.chars().take(60).collect()))
        }
    }

    /// The file's content: one line of JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("names have string keys only");
        bytes.push(b'\n');
        bytes
    }
}
