//! The static program inside a VM: init of the initramfs, then lean init or agent.

#[path = "../../../lib/src/contract/guest.rs"]
pub mod protocol;

fn main() {}
