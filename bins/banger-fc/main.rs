//! `banger-fc`: see man/banger-fc.1.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_fc::cli::main()
}
