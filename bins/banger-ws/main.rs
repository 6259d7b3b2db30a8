//! `banger-ws`: see man/banger-ws.1.

use std::process::ExitCode;

/// What compares a guest's files with what was sent, embedded for machines that have none, or an older one.
static GUEST: &[u8] = include_bytes!(env!("BANGER_GUEST_BIN"));

fn main() -> ExitCode {
    banger_lib::cli::ws::main(GUEST)
}
