//! `banger-qemu`: see man/banger-qemu.1.

use std::process::ExitCode;

fn main() -> ExitCode {
    banger_qemu::cli::main()
}
