//! What of the host's trust counts, as the programs are told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::sys::host_ca::{HostTrust, Places, VARIABLES};
use banger_cli::plumbing;
use banger_contract::trust::HostCa;
use banger_contract::types::{ParseProxyError, Proxy};
use banger_contract::{Coded, ErrorCode};

/// The variable with the proxy that guests are told. Arguments, which may hold it as well, are seen by all users.
pub const PROXY_VARIABLE: &str = "BANGER_VM_PROXY";

/// What the variable holds is not a proxy.
#[derive(Debug, Error)]
#[error("{PROXY_VARIABLE} is not right")]
pub struct ProxyError(#[source] ParseProxyError);

impl Coded for ProxyError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
}

/// The variables by which apt(8) finds a proxy, which reads them in lower case only, and those that say the same. What comes first
/// counts.
const LOWER_CASE: [(&str, &[&str]); 3] = [
    ("http_proxy", &["HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
    ("https_proxy", &["HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
    ("no_proxy", &["NO_PROXY"]),
];

/// The variables that a program lacks which reads the names in lower case only.
pub(super) fn lower_case_proxies() -> Vec<(&'static str, OsString)> {
    let value = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let lacking = LOWER_CASE.into_iter().filter(|(name, _)| value(name).is_none());
    lacking.filter_map(|(name, others)| Some((name, others.iter().find_map(|other| value(other))?))).collect()
}

/// The names of the variables about a proxy that are set.
pub(super) fn proxy_names() -> Vec<&'static str> {
    let names = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"];
    let upper = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    names.into_iter().chain(upper).filter(|name| std::env::var_os(name).is_some()).collect()
}

/// The proxy that guests are to be told.
pub(super) fn guest_proxy() -> Result<Option<Proxy>, ProxyError> {
    let value = std::env::var_os(PROXY_VARIABLE).filter(|value| !value.is_empty());
    value.map(|value| value.to_string_lossy().parse().map_err(ProxyError)).transpose()
}

/// Which authorities of the host count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HostCaChoice {
    /// Those that the host trusts and its distribution does not
    Auto,
    /// None
    None,
}

/// The option for it.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustSpec {
    /// Which certificate authorities of the host count besides the distribution's [default: auto]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub host_ca: Option<HostCaChoice>,
}

impl TrustSpec {
    /// The words that say this on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let name = |choice: HostCaChoice| choice.to_possible_value().map(|value| value.get_name().to_owned());
        self.host_ca.and_then(name).map(|name| format!("--host-ca={name}").into()).into_iter().collect()
    }

    /// What the configuration adds where this says nothing.
    pub fn configured(&self, choice: HostCa) -> Option<&'static str> {
        (self.host_ca.is_none() && choice == HostCa::None).then_some("--host-ca=none")
    }

    /// Looks for them. What is wrong with one of them is said.
    pub(super) fn find(&self, tool: &str) -> HostTrust {
        if self.host_ca == Some(HostCaChoice::None) {
            return HostTrust::default();
        }
        let named = VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let named = named.filter(|(_, value)| !value.is_empty());
        let absolute =
            |(name, value): (_, OsString)| Some((name, std::path::absolute(PathBuf::from(value)).ok()?));
        let found = Places::below(Path::new("/"), named.filter_map(absolute).collect()).find();
        found.left_out.iter().for_each(|line| plumbing::warn(tool, line));
        found
    }
}
