//! Tier `contract`: the programs themselves with fake tools. Needs no privilege.

mod disk;
mod netd;
mod pipe;
mod state;
mod vmm;
mod ws;
