//! A command in the workspace.

use std::collections::BTreeMap;

use super::error::WorkspaceError;
use super::guest::{Guest, Output, fill, quote};
use super::transfer::failed;
use crate::contract::record::WorkspaceMode;
use crate::sys::clock::{Timeline, boottime_us};
use crate::sys::ssh::Exit;

/// Runs the command in the workspace.
pub(super) const COMMAND: &str = r#"
if ! cd @PATH@ || [ ! -e @PROOF@ ]; then say missing; exit 0; fi
say "${same:-ready}"
exec @COMMAND@ </dev/null
"#;

/// What is in a workspace that was prepared with `mode`.
pub(super) fn proof(mode: WorkspaceMode) -> String {
    let proof = if mode == WorkspaceMode::Files { "." } else { ".git" };
    proof.to_owned()
}

/// Runs `command` in the workspace at `guest_path`, which was prepared with `mode`.
pub fn run(
    guest: &Guest<'_>,
    guest_path: &str,
    mode: WorkspaceMode,
    command: &[String],
    output: &mut dyn Output,
    timeline: &mut Timeline,
) -> Result<Exit, WorkspaceError> {
    let values = BTreeMap::from([
        ("PATH", quote([guest_path])),
        ("PROOF", proof(mode)),
        ("COMMAND", quote(command.iter().map(String::as_str))),
    ]);
    let script = ["same=\n", COMMAND].concat();
    let ended = guest.run(&fill(&script, &values), None, None, output)?;
    if !ended.is_ready() {
        return Err(failed("running the command", guest_path, ended));
    }
    timeline.note("command", ended.verdict_us, boottime_us() - ended.verdict_us);
    Ok(ended.exit)
}
