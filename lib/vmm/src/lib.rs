//! The virtual machine monitor and its supervisor.
//!
//! [`start`] starts the [`supervisor`], which starts the VMM, lives exactly as long as it, and is the only process of banger's that
//! outlives a command. What differs between QEMU and Firecracker is behind [`monitor::Monitor`].

// The verbs.
pub mod gc;
pub mod inside;
pub mod rebuild;
pub mod start;
pub mod status;
pub mod stop;
pub mod update;

// The supervisor and its parts.
pub mod agent;
pub mod counters;
pub mod lines;
pub mod log;
pub mod marks;
pub mod routes;
pub mod server;
pub mod shutdown;
pub mod supervisor;
pub mod talk;
pub mod timings;
pub mod ttl;

// The VMMs.
pub mod arch;
pub mod monitor;

// What is told afterwards.
pub mod error;
pub mod exit;
mod section;

// Their command line.
#[allow(clippy::disallowed_methods, reason = "here the caller's world is read")]
pub mod cli;

pub mod sys;
