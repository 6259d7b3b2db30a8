//! `banger-disk`: see man/banger-disk.1.

use std::process::ExitCode;

/// What runs inside every VM, embedded so that there is no companion file to lose.
static GUEST: &[u8] = include_bytes!(env!("BANGER_GUEST_BIN"));

fn main() -> ExitCode {
    banger_lib::cli::disk::main(GUEST)
}
