//! What banger's programs say to each other and to their callers: banger-json(7) as types. Nothing here touches the host.
//!
//! [`document`] is what flows through a pipeline, [`record`] its sections, [`error`] what stands on stdout when a program fails, [`reply`]
//! what verbs without a record answer, [`schema`] all of it for machines. [`catalog`], [`image`] and [`kernel`] are what VMs are made of,
//! [`inside`] is what a running one uses. [`config`] is the file of preferences, [`host_policy`] what root lets others have, [`file_sync`]
//! which files of the user travel, [`trust`] which authorities, [`policy`] who reaches whom. [`dm`] is what the privileged verb for roots
//! is asked, [`dns`] and [`names`] what the resolver is told. [`types`] are values that are parsed once and trusted afterwards.

pub mod catalog;
pub mod config;
pub mod dm;
pub mod dns;
pub mod document;
pub mod error;
pub mod file_sync;
pub mod host_policy;
pub mod image;
pub mod inside;
pub mod kernel;
pub mod names;
pub mod policy;
pub mod record;
pub mod reply;
pub mod schema;
pub mod trust;
pub mod types;

pub use document::{Document, RecordError};
pub use error::{Coded, ErrorCode, ErrorRecord, Fault};
