//! The workspace: a git checkout goes into the guest, a command runs in it, a patch comes out.
//!
//! | step | module |
//! |---|---|
//! | what the checkout holds | [`checkout`] |
//! | the checkout and its submodules, looked at | [`survey`] |
//! | which files git takes as they are; the bytes of one | `attributes`, `content` |
//! | what need not be read again | [`known`] |
//! | which of its submodules are there | [`submodule`] |
//! | which tags travel | [`tags`] |
//! | git's configuration, read and written; what of it travels | [`config`], [`travelling`] |
//! | git's index, read and cut | [`index`] |
//! | what of a checkout travels, and the commit that holds it | [`staging`] |
//! | all that travels, submodules included | [`shipment`] |
//! | the git directory made for the guest | [`gitdir`] |
//! | its objects | [`pack`] |
//! | packs of the host's that travel as they are | [`reuse`] |
//! | the large files that the guest makes from those | [`fill`] |
//! | the one tar stream | [`stream`] |
//! | the connection, and what a remote script says | [`guest`] |
//! | where the command's streams end | `marks` |
//! | prepare | [`transfer`] |
//! | prepare again: what the guest was given, what differs, how it gets there | [`note`], [`delta`], [`rewritten`], [`resync`] |
//! | exec | [`command`] |
//! | what was sent, by its bytes, and how the host remembers it | [`sent`], [`object`] |
//! | a git that knows of nothing but bytes | [`plain_git`] |
//! | export: what the guest tells of its files, and the patch that is made of it here | [`export`], [`incoming`], [`maker`], [`literal`] |
//! | whether a patch may be handed on, and what it does | [`patch`] |
//! | what of it a person should look at | [`flags`] |
//! | apply it to a checkout of the host | [`apply`] |
//! | what both sides agree on then | [`agreed`] |
//! | throw away what the guest has changed | [`reset`] |
//! | fetch: the guest's commits become a branch of the host's repository | [`fetch`] |
//!
//! # What travels
//!
//! Files that the index knows, byte for byte as they stand in the working tree (deleted ones do not), with
//! modification times and permission bits; untracked ones if asked for, ignored ones never. The history reachable from HEAD, or
//! one commit of it. The index, the current branch and its upstream, remotes without credentials, what decides how git reads
//! files (line endings, `.git/info`, the sparse checkout), and the identity for commits. Submodules that are checked out, each in
//! the same way. With the history the tags of its commits. No other branch, no stash, no reflog, no hook. Or, if asked for, the files alone.

pub mod agreed;
pub mod apply;
mod attributes;
pub mod checkout;
#[allow(clippy::disallowed_methods, reason = "here the caller's world is read")]
pub mod cli;
pub mod command;
pub mod config;
mod content;
pub mod delta;
pub mod error;
pub mod export;
pub mod fetch;
pub mod fill;
pub mod flags;
pub mod gitdir;
pub mod guest;
pub mod incoming;
pub mod index;
pub mod known;
pub mod literal;
mod loops;
pub mod maker;
mod marks;
pub mod note;
pub mod object;
pub mod pack;
pub mod patch;
pub mod plain_git;
pub mod repository;
pub mod reset;
pub mod resync;
pub mod reuse;
pub mod rewritten;
pub mod sent;
pub mod shipment;
mod shorten;
pub mod staging;
pub mod stream;
pub mod submodule;
pub mod survey;
mod sys;
pub mod tags;
pub mod transfer;
pub mod transport;
pub mod travelling;
