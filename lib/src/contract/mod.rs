//! What banger's programs say to each other and to their callers: banger-json(7) as types.
//!
//! [`record`] is the document that flows through a pipeline, [`error`] what stands on stdout when a program fails,
//! [`guest`] what host and guest say to each other, [`image`] what an image is. Nothing here touches the host.

pub mod error;
pub mod guest;
pub mod image;
pub mod record;
pub mod schema;

pub use error::{Coded, ErrorCode, ErrorRecord, Fault};
pub use record::{Document, RecordError};
