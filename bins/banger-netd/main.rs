//! `banger-netd`: see man/banger-netd.1.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_netd::cli::main()
}
