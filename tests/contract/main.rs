//! Tier `contract`: the programs themselves with fake tools. Needs no privilege.

#![allow(clippy::disallowed_methods, unsafe_code, reason = "what is for the programs is not for tests")]

use banger_test_support as support;

mod arguments;
mod catalog;
mod changes;
mod config;
mod disk;
mod file_sync;
mod firecracker;
mod half_made;
mod import;
mod inside;
mod kernel;
mod netd;
mod patch;
mod pipe;
mod registry;
mod replaceable;
mod seed;
mod set;
mod setup;
mod state;
mod stdout;
mod sudo;
mod surroundings;
mod trust;
mod vmm;
mod ws;
