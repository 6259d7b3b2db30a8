//! What banger's programs say to each other and to their callers: banger-json(7) as types.
//!
//! [`changes`] is how a guest tells what changed in a workspace, [`config`] what the file of preferences says, [`dm`] what the privileged verb for roots is asked, [`dns`] what the host's resolver is told, [`document`] what flows through a pipeline,
//! [`record`] its sections, [`error`] what stands on stdout when a program fails, [`file_sync`] which files of the user
//! travel, [`guest`] what host and guest say to each other, [`host_policy`] what root lets others have,
//! [`image`] what an image is, [`inside`] what a running VM uses, [`kernel`] what a kernel is, [`names`] which VMs the resolver knows,
//! [`policy`] who reaches whom, [`reply`] what verbs without a record answer, [`resync`] what a second copy tells the guest, [`words`]
//! how these two write lists. Nothing here
//! touches the host.

pub mod catalog;
pub mod changes;
pub mod config;
pub mod dm;
pub mod dns;
pub mod document;
pub mod error;
pub mod file_sync;
pub mod frames;
pub mod guest;
pub mod host_policy;
pub mod image;
pub mod inside;
pub mod kernel;
pub mod names;
pub mod policy;
pub mod record;
pub mod reply;
pub mod resync;
pub mod schema;
pub mod trust;
pub mod words;

pub use document::{Document, RecordError};
pub use error::{Coded, ErrorCode, ErrorRecord, Fault};
