//! `banger-disk`: see man/banger-disk.1.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_disk::cli::main()
}
