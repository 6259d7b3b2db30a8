//! `banger-fc` and its client of Firecracker's API, against the fake Firecracker of tests/fakes.

mod api;
mod failures;
mod lifecycle;
pub mod stage;
mod update;
