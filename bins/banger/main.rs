//! `banger`: see man/banger.1.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_dispatcher::main()
}
