//! `banger-qemu`: its command line.

use std::process::ExitCode;

use clap::Parser;

use banger_cli::plumbing;
use banger_vmm::cli::Verbs;

use crate::Qemu;

const TOOL: &str = "banger-qemu";

/// The stage that runs a VM under QEMU
#[derive(Debug, Parser)]
#[command(name = TOOL, version, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    verbs: Verbs,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match plumbing::parse::<Arguments>(TOOL) {
        Ok(arguments) => banger_vmm::cli::run(TOOL, arguments.verbs, |_| Box::new(Qemu), None),
        Err(exit) => exit,
    }
}
