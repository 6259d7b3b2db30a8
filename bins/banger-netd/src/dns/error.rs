//! Why a resolver does not serve.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use banger_contract::types::StateId;
use banger_contract::{Coded, ErrorCode};
use banger_host::process::landlock::ConfineError;
use thiserror::Error;

use crate::NetError;
use crate::dns::PORT;
use crate::dns::site::SiteError;

/// Why there is no resolver.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The names file.
    #[error("cannot read the names file {path:?}")]
    Names {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no bridge to serve.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Another server has the lock and is neither ready nor gone.
    #[error("another resolver of the state directory {0} neither answers nor ends")]
    Stuck(StateId),
    /// Somebody else answers there.
    #[error("port {PORT} of {address} is taken")]
    Taken {
        /// The bridge's address.
        address: Ipv4Addr,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A thread that answers has ended.
    #[error("the resolver cannot go on")]
    Broken(#[source] io::Error),
    /// Confinement.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Something of the host.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl ServeError {
    /// Wraps an error of the operating system.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Net(NetError::io(what)(source))
    }
}

impl Coded for ServeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Names { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Names { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Names { .. } => ErrorCode::BadInput,
            Self::Site(error) => error.code(),
            Self::Stuck(_) => ErrorCode::Busy,
            Self::Taken { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Taken { .. } => ErrorCode::Conflict,
            Self::Broken(_) | Self::Confine(_) => ErrorCode::Failed,
            Self::Net(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        let denied = self.code() == ErrorCode::Denied;
        let own = match self {
            Self::Taken { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
                "have the program that listens on all addresses leave the bridge alone (dnsmasq: bind-dynamic or except-interface=bgr*); guests use the host's resolvers meanwhile".into(),
            ),
            Self::Site(error) => error.hint(),
            Self::Net(error) => error.hint(),
            _ => None,
        };
        own.or_else(|| denied.then(|| "run banger-netd serve as root or through sudo".into()))
    }
}
