//! What the threads that answer know.

use std::sync::{Arc, PoisonError, RwLock};

use crate::dns::upstream::Upstreams;
use crate::dns::zone::Zone;

/// What the threads that answer know.
#[derive(Debug)]
pub struct Shared {
    pub zone: RwLock<Arc<Zone>>,
    pub upstreams: Upstreams,
    pub links: [u32; 2],
}

impl Shared {
    /// The names as of now.
    pub fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether packets from the link with this number are guests' or the host's own.
    pub fn is_inside(&self, link: u32) -> bool {
        self.links.contains(&link)
    }
}
