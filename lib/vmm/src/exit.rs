//! How a VM ended: `exit.json`, written by its supervisor.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use super::error::panic_in;
use banger_contract::record::VmmExit;
use banger_host::clock;
use banger_host::fs::atomic::{self, WriteFileError};
use banger_state::dir::VmDir;

/// What the supervisor did to end the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nothing.
    None,
    /// It was told to stop it.
    Stopped,
    /// It was told to kill it.
    Killed,
    /// Its time was over.
    Ttl,
}

/// The exit of a VMM that ended with `status`, the console's end being `console`.
pub fn describe(cause: Cause, status: ExitStatus, console: &str) -> VmmExit {
    let (reason, message) = match (cause, panic_in(console)) {
        (Cause::Killed, _) => ("killed", "killed as told".to_owned()),
        (Cause::Stopped, _) => ("stopped", "stopped as told".to_owned()),
        (Cause::Ttl, _) => ("ttl", "stopped because its time was over".to_owned()),
        (Cause::None, Some(said)) => ("panic", said),
        (Cause::None, None) if status.success() => {
            ("shutdown", "the guest shut down or restarted".to_owned())
        }
        (Cause::None, None) => ("crashed", format!("the VMM ended with {status}")),
    };
    VmmExit {
        at: clock::now_rfc3339(),
        status: status.code(),
        signal: status.signal(),
        reason: reason.to_owned(),
        message,
    }
}

/// Records `exit`.
///
/// # Errors
/// The file cannot be written.
pub fn save(dir: &VmDir, exit: &VmmExit) -> Result<(), WriteFileError> {
    atomic::write(&dir.exit(), &serde_json::to_vec(exit).expect("strings and numbers are JSON"), 0o600)
}

/// How the VM ended that does not run any more; `lost` where nobody saw it. `started_at` dates such an end.
pub fn load(dir: &VmDir, started_at: &str) -> VmmExit {
    let recorded = std::fs::read(dir.exit()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    recorded.unwrap_or_else(|| VmmExit {
        at: started_at.to_owned(),
        status: None,
        signal: None,
        reason: "lost".to_owned(),
        message: "the VM ended and nobody saw how: its supervisor was killed or the host went down"
            .to_owned(),
    })
}
