//! What host and guest say to each other. banger-guest, which is small and static, uses this crate and no other of banger's.
//!
//! [`guest`] is the configuration in the initrd, what a guest tells when it is ready, and what it is asked; [`frames`] runs commands over
//! one stream of bytes; [`resync`] is the second copy of a checkout; [`changes`] tells what became of it; [`words`] is how these two write
//! lists.

pub mod changes;
pub mod frames;
pub mod guest;
pub mod resync;
pub mod words;
