//! Of the host what only the workspace uses: the two ways to run a command in a guest.

pub mod framed;
pub mod remote;
pub mod ssh;
