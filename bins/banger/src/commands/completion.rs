//! `banger completion`.

use std::process::ExitCode;

use banger_cli::plumbing;
use clap::Args;

#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Prints the completion script of `command`.
pub fn completion(args: &Completion, mut command: clap::Command) -> ExitCode {
    // Not straight to stdout: clap_complete panics when the reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "banger", &mut script);
    plumbing::print_bytes(&script)
}
