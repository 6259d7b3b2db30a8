//! `banger-fc`: its command line.

use std::process::ExitCode;

use clap::Parser;

use banger_cli::plumbing;
use banger_vmm::cli::Verbs;

use crate::Firecracker;

const TOOL: &str = "banger-fc";

/// The stage that runs a VM under Firecracker
#[derive(Debug, Parser)]
#[command(name = TOOL, version, disable_help_subcommand = true)]
struct Arguments {
    /// Firecracker's program [default: firecracker in PATH]
    #[arg(long, global = true, value_name = "FILE")]
    firecracker_bin: Option<String>,
    #[command(flatten)]
    verbs: Verbs,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match plumbing::parse::<Arguments>(TOOL) {
        Ok(Arguments { firecracker_bin, verbs }) => {
            banger_vmm::cli::run(TOOL, verbs, |program| Box::new(Firecracker::at(program)), firecracker_bin)
        }
        Err(exit) => exit,
    }
}
