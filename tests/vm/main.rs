//! Tier `vm`: real virtual machines through banger itself. `tests/run` prepares the image outside and runs the tier in a network
//! namespace of its own; each test has its own state directory, into which the prepared image is linked.

#![allow(clippy::disallowed_methods, unsafe_code, reason = "what is for the programs is not for tests")]

#[path = "../host/netd/guest.rs"]
mod guest;
use banger_test_support as support;

mod attempts;
mod bad_days;
mod config;
mod dm;
mod exec;
mod firecracker;
mod full;
mod hints;
mod home;
mod import;
mod inside;
mod kernel;
mod lifecycle;
mod live;
mod main_job;
mod names;
mod outside;
mod pipeline;
mod reach;
mod recipe;
mod registry;
mod resync;
mod review;
mod scratch;
mod sequences;
mod surroundings;
mod trust;
mod truth;
mod unprivileged;
mod upgrade;
