//! What of the host's trust counts, as the programs are told.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use thiserror::Error;

use super::plumbing;
use crate::contract::trust::HostCa;
use crate::contract::{Coded, ErrorCode};
use crate::sys::host_ca::{HostTrust, Places, VARIABLES};
use crate::types::{ParseProxyError, Proxy};

/// The variable with the proxy that guests are told. Arguments, which may hold it as well, are seen by all users.
pub const PROXY_VARIABLE: &str = "BANGER_VM_PROXY";

/// What the variable holds is no proxy.
#[derive(Debug, Error)]
#[error("{PROXY_VARIABLE} is not right")]
pub struct ProxyError(#[source] ParseProxyError);

impl Coded for ProxyError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
}

/// The proxy that guests are to be told.
pub(super) fn guest_proxy() -> Result<Option<Proxy>, ProxyError> {
    let value = std::env::var_os(PROXY_VARIABLE).filter(|value| !value.is_empty());
    value.map(|value| value.to_string_lossy().parse().map_err(ProxyError)).transpose()
}

/// Which authorities of the host count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum HostCaChoice {
    /// Those that the host trusts and its distribution does not
    #[default]
    Auto,
    /// None
    None,
}

/// The option for it.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustSpec {
    /// Which certificate authorities of the host count besides the distribution's
    #[arg(long, value_enum, value_name = "WHICH", default_value = "auto")]
    pub host_ca: HostCaChoice,
}

impl From<HostCa> for HostCaChoice {
    fn from(choice: HostCa) -> Self {
        match choice {
            HostCa::Auto => Self::Auto,
            HostCa::None => Self::None,
        }
    }
}

impl TrustSpec {
    /// Looks for them. What is wrong with one of them is said.
    pub(super) fn find(&self, tool: &str) -> HostTrust {
        if self.host_ca == HostCaChoice::None {
            return HostTrust::default();
        }
        let named = VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let named = named.filter(|(_, value)| !value.is_empty());
        let absolute = |(name, value): (_, std::ffi::OsString)| {
            Some((name, std::path::absolute(PathBuf::from(value)).ok()?))
        };
        let found = Places::below(Path::new("/"), named.filter_map(absolute).collect()).find();
        found.left_out.iter().for_each(|line| plumbing::warn(tool, line));
        found
    }
}
