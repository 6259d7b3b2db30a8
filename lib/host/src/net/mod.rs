//! Network links and sockets.

pub mod linger;
pub mod link;
pub mod listen;
pub mod netlink;
pub mod unix;
