//! Files, descriptors, and the locks that lie on them.

pub mod atomic;
pub mod fd;
pub mod holders;
pub mod inotify;
pub mod reflink;
pub mod rootlock;
pub mod space;
