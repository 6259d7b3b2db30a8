//! What of the host's trust counts, as the programs are told.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::plumbing;
use crate::contract::trust::HostCa;
use crate::sys::host_ca::{HostTrust, Places, VARIABLES};

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
