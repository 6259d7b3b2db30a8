//! The command line that banger's programs share: arguments, stdin and stdout, exit codes. Only this, the modules `cli` of the programs
//! and `bins/banger` touch them.

#![allow(clippy::disallowed_methods, reason = "here the caller's world is read")]

pub mod collect;
pub mod generate;
pub mod plumbing;
pub mod progress;

mod failure;
pub use failure::Failure;
