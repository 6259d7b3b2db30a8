//! The workspace: a git checkout goes into the guest, a command runs in it, a patch comes out.
//!
//! | step | module |
//! |---|---|
//! | what the checkout holds | [`checkout`] |
//! | the git directory made for the guest, beside and never in the host's | [`staging`] |
//! | the one tar stream | [`stream`] |
//! | the connection, and what a remote script says | [`guest`] |
//! | where the command's streams end | `marks` |
//! | prepare | [`transfer`] |
//! | exec | [`command`] |
//! | export | [`export`] |
//! | whether a patch may be handed on, and what it does | [`patch`] |
//! | what of it a person should look at | [`flags`] |
//!
//! # What travels
//!
//! Files that the index knows, byte for byte as they stand in the working tree (deleted ones do not), with
//! modification times and permission bits; untracked ones if asked for, ignored ones never. The history reachable from HEAD. The
//! index, the current branch, what decides how git reads files (line endings, `.git/info`), and the identity for commits. No
//! other branch, no stash, no reflog, no remote, no hook, nothing inside a submodule.

pub mod checkout;
pub mod command;
pub mod error;
pub mod export;
pub mod flags;
pub mod guest;
mod marks;
pub mod patch;
pub mod staging;
pub mod stream;
pub mod transfer;
