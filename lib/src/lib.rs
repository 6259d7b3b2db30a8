//! The parts of banger, grouped by layer. This is the first file to open.
//!
//! A program of `bins/` is a thin shim over one module of [`cli`], which is a thin shim over one *domain*:
//!
//! | program | shim | domain | what it does |
//! |---|---|---|---|
//! | `banger-netd` | [`cli::netd`] | [`net`] | bridge, tap, addresses, nftables |
//! | `banger-disk` | [`cli::disk`] | [`disk`] | images, kernels, copy-on-write root, work disk, initrd |
//! | `banger-fc`, `banger-qemu` | [`cli::vmm`] | [`vmm`] | the virtual machine monitor and its supervisor |
//! | `banger-ws` | [`cli::ws`] | [`workspace`] | the checkout in, the command, the patch out |
//! | `banger` | `bins/banger` | – | people: runs the others as processes |
//!
//! # Direction of dependency
//!
//! `types ← contract ← sys, state ← net, disk, vmm, workspace ← cli ← bins`
//!
//! A module may use what stands to the left of it, never what stands to the right. Domains never import each other:
//! they meet in the record ([`contract::record`]). [`sys`] knows nothing of VMs. Only [`cli`] and `bins/banger`
//! touch stdin, stdout, exit codes and the environment. `tests/hygiene` enforces this.

// Values that are parsed once at the edge and trusted afterwards. Pure.
pub mod types;

// What the programs say to each other and to callers: the record, errors, exit codes. Pure.
pub mod contract;

// The host: one file per tool or kernel interface.
pub mod sys;

// The state directory: SQLite, locks, the files of a VM.
pub mod state;

// One domain per plumbing program.
pub mod disk;
pub mod net;
pub mod vmm;
pub mod workspace;

// Arguments, stdin and stdout, exit codes, man pages and completions.
pub mod cli;
