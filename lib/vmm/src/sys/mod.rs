//! Of the host what only VMMs use.

pub mod http;
pub mod netdev;
