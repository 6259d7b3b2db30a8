//! The edge: arguments, stdin and stdout, exit codes. One file per program.

pub mod build;
pub mod catalog;
pub mod collect;
pub mod command;
pub mod disk;
mod dm;
pub mod generate;
pub mod import;
pub mod kernel;
pub mod lock;
pub mod netd;
pub mod plumbing;
pub mod progress;
pub mod pull;
mod register;
pub mod report;
pub mod serve;
pub mod trust;
pub mod vmm;
pub mod ws;

mod failure;
pub use failure::Failure;
