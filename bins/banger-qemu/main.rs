//! `banger-qemu`: see man/banger-qemu.1.

use std::process::ExitCode;

use banger_lib::contract::record::VmmKind;

fn main() -> ExitCode {
    banger_lib::cli::vmm::main(VmmKind::Qemu)
}
