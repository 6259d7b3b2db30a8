//! Why Firecracker does not run the VM.

use std::io;
use std::process::ExitStatus;

use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::ExecError;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::client::RequestError;
use crate::explain::{self, Known};
use crate::program::{MAX_VCPUS, OLDEST, PROGRAM};

/// A VM that Firecracker cannot be asked to run, or that it did not start.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The VM wants what only QEMU has.
    #[error("Firecracker has no user networking, and the VM's network is of mode \"user\"")]
    UserNetwork,
    /// There is no tap to use.
    #[error("the record's section \"net\" names no tap")]
    NoTap,
    /// The program is too old.
    #[error("Firecracker {version} is too old: banger needs {}.{} or newer", OLDEST.0, OLDEST.1)]
    TooOld {
        /// What it says it is.
        version: String,
    },
    /// The program is another one.
    #[error("{PROGRAM} says that its version is {said:?}")]
    NoVersion {
        /// What it says.
        said: String,
    },
    /// The program is not there.
    #[error("{PROGRAM} is not installed or not in PATH")]
    NotInstalled,
    /// The program cannot be run.
    #[error("cannot run {PROGRAM}")]
    Run(#[source] ExecError),
    /// The host cannot run Firecracker's VMs.
    #[error("Firecracker needs KVM")]
    NoKvm {
        /// Why there is none.
        #[source]
        source: NoKvm,
    },
    /// The record asks for more than Firecracker has.
    #[error("Firecracker gives a VM 1 to {MAX_VCPUS} vCPUs, and vm.vcpus is {0}")]
    Vcpus(u8),
    /// A file of the VM's cannot be used.
    #[error("{field} {path:?} cannot be used")]
    File {
        /// The record's field.
        field: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not get ready to be told anything.
    #[error("Firecracker did not make its API socket in time")]
    NoSocket,
    /// A socket of Firecracker's cannot be reached or made.
    #[error("cannot reach Firecracker through a socket in the VM's directory")]
    Socket {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It ended before it had answered. The status is not known here: see [`EndedError`].
    #[error("Firecracker ended before {request}")]
    Ended {
        /// What it did not get to.
        request: String,
    },
}

/// Why there is no KVM.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NoKvm(pub String);

impl From<ExecError> for LaunchError {
    fn from(error: ExecError) -> Self {
        if matches!(error, ExecError::NotFound(_)) { Self::NotInstalled } else { Self::Run(error) }
    }
}

impl LaunchError {
    fn known(&self) -> Option<Known> {
        match self {
            Self::Request(RequestError::Refused { request, fault, .. }) => explain::refusal(request, fault),
            Self::Socket { source } => explain::refusal("", &source.to_string()),
            _ => None,
        }
    }
}

impl Coded for LaunchError {
    fn code(&self) -> ErrorCode {
        match self {
            _ if self.known().is_some() => self.known().map_or(ErrorCode::Failed, |known| known.code),
            Self::UserNetwork | Self::TooOld { .. } | Self::NoVersion { .. } => ErrorCode::Unsupported,
            Self::NotInstalled | Self::NoKvm { .. } => ErrorCode::Unsupported,
            Self::NoTap | Self::Vcpus(_) => ErrorCode::BadInput,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::NoSocket | Self::Request(RequestError::Deadline { .. }) => ErrorCode::Timeout,
            Self::Request(RequestError::TooLong { .. }) => ErrorCode::BadInput,
            Self::Socket { .. }
            | Self::Request(_)
            | Self::Ended { .. }
            | Self::Run(_)
            | Self::File { .. } => ErrorCode::Failed,
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        match self {
            Self::Request(RequestError::Refused { request, status, fault }) => {
                details.insert("request".into(), request.as_str().into());
                details.insert("status".into(), (*status).into());
                details.insert("fault_message".into(), fault.as_str().into());
            }
            Self::TooOld { version } => {
                details.insert("version".into(), version.as_str().into());
            }
            _ => {}
        }
        details
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            _ if self.known().is_some() => self.known()?.hint,
            Self::UserNetwork => {
                "use banger-qemu, or plan the VM with a tap (--net tap) and run banger-netd attach"
            }
            Self::NoTap => "run banger-netd attach before this stage",
            Self::TooOld { .. } | Self::NoVersion { .. } | Self::NotInstalled => {
                "install a release of 1.14 or newer from github.com/firecracker-microvm/firecracker, or use banger-qemu"
            }
            Self::NoKvm { .. } => {
                "use banger-qemu, which needs none, or give --accel kvm where you know better"
            }
            Self::Vcpus(_) => "plan the VM with another --vcpus",
            Self::File { .. } => "run banger-disk check, or banger-disk detach and banger-disk attach again",
            Self::NoSocket | Self::Request(RequestError::Deadline { .. }) => {
                "KVM may hang on this host, as it does where it is emulated: use banger-qemu"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What is known of a Firecracker that ended by itself before the VM ran.
#[derive(Debug, Error)]
#[error("{}", why(.status, .log))]
pub struct EndedError {
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its log, hostile in part.
    pub log: String,
}

/// What Firecracker logs of every VM: that it ends, a guest's probing of ports where no device is, and its own bookkeeping.
const CHATTER: [&str; 3] = ["Firecracker exiting", "MissingAddressRange", "immediate_exit"];

/// The last line of `log` that tells a reason.
fn last_words(log: &str) -> Option<String> {
    let mut lines = log.lines().rev().map(str::trim);
    let telling = lines.find(|line| !line.is_empty() && !CHATTER.iter().any(|words| line.contains(words)));
    telling.map(|line| line.chars().take(400).collect())
}

/// What the status means and what Firecracker said last.
fn why(status: &ExitStatus, log: &str) -> String {
    let meaning = status.code().and_then(explain::exit_status).map(|(meaning, _)| meaning);
    match (meaning, last_words(log)) {
        (Some(meaning), Some(words)) => format!("{meaning}; Firecracker's log ends: {words}"),
        (Some(meaning), None) => meaning.to_owned(),
        (None, Some(words)) => format!("Firecracker's log ends: {words}"),
        (None, None) => "Firecracker's log is empty".to_owned(),
    }
}

impl EndedError {
    /// Whether more is known than that it ended.
    pub fn tells_something(&self) -> bool {
        self.known().is_some() || last_words(&self.log).is_some()
    }

    fn known(&self) -> Option<Known> {
        let by_status = self.status.code().and_then(explain::exit_status).map(|(_, known)| known);
        by_status.or_else(|| explain::log(&self.log))
    }
}

impl Coded for EndedError {
    fn code(&self) -> ErrorCode {
        self.known().map_or(ErrorCode::Failed, |known| known.code)
    }

    fn details(&self) -> Map<String, Value> {
        let status = self.status.code().map_or(Value::Null, Value::from);
        Map::from_iter([("exit_status".to_owned(), status)])
    }

    fn hint(&self) -> Option<String> {
        self.known().map(|known| known.hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firecracker_logs_of_every_vm_is_no_reason() {
        // As 1.14.4 says it.
        let log = "2026-11-21T07:50:10.4 [5f:fc_vcpu 0] Received a VcpuEvent::Resume message with immediate_exit enabled. immediate_exit was disabled before proceeding\n\
                   2026-11-21T07:50:13.8 [5f:main] the reason\n\
                   2026-11-21T07:50:13.8 [5f:fc_vcpu 0] vcpu: IO read @ 0x71:0x1 failed: bus_error: MissingAddressRange\n\
                   2026-11-21T07:50:48.2 [5f:main] Firecracker exiting successfully. exit_code=0\n";
        assert_eq!(last_words(log).unwrap(), "2026-11-21T07:50:13.8 [5f:main] the reason");
        assert_eq!(last_words(log.lines().next().unwrap()), None);
    }
}
