//! banger-ws against a real sshd on loopback that runs commands as root on this machine, with the "guest" path in a
//! temporary directory.

mod agent;
mod apply;
mod broken;
mod command;
mod exec;
mod export;
mod faults;
mod fetch;
mod guest;
mod home;
mod hostile;
mod locks;
mod memory;
mod modes;
mod patch_dir;
mod prepare;
mod resync;
mod sequences;
mod submodules;
