//! Of the host what only the network uses: one file for each tool or interface of the kernel.

pub mod bus;
pub mod conntrack;
pub mod datagram;
pub mod forwarding;
pub mod iptables;
pub mod ipv6;
pub mod network_manager;
pub mod networkd;
pub mod nf_tables;
pub mod nft;
pub mod resolved;
pub mod route;
pub mod tap;
