//! `banger-ws`: see man/banger-ws.1.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_ws::cli::main()
}
