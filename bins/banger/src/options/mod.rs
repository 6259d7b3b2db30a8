//! Options that several verbs have.

pub mod patches;
pub mod reach;
pub mod spec;

use clap::Args;

/// One VM.
#[derive(Debug, Args)]
pub struct OneVm {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
}
