//! `banger-fc` and `banger-qemu`: their verbs, which are the same.

use std::process::ExitCode;

use crate::contract::record::VmmKind;

/// Runs the program for one kind of VMM.
pub fn main(_kind: VmmKind) -> ExitCode {
    ExitCode::SUCCESS
}
