//! The verbs: one file for each, with its arguments.

pub mod completion;
pub mod config;
pub mod dns;
pub mod doctor;
pub mod gc;
pub mod image;
pub mod kernel;
pub mod vm;
