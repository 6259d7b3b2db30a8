//! The host's resolvers, which know all other names: who they are, and what of what comes back is believed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::question::HEADER;
use super::{PORT, resolvers};

/// How old what was read of resolv.conf(5) may be.
const FRESH: Duration = Duration::from_secs(1);

/// How often a question is asked, of one resolver after the other.
pub const TRIES: usize = 3;

/// How long one resolver is waited for. All of them together take less than the 5 seconds after which the C library asks again.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// Who is asked.
#[derive(Debug)]
pub struct Upstreams {
    fixed: bool,
    own: Ipv4Addr,
    known: Mutex<(Instant, Arc<[SocketAddr]>)>,
}

impl Upstreams {
    /// Those in `fixed`, or, where there are none, those that the host itself asks but for `own`, the address of this resolver.
    pub fn new(fixed: &[SocketAddr], own: Ipv4Addr) -> Self {
        let list = if fixed.is_empty() { Self::read(own) } else { fixed.into() };
        Self { fixed: !fixed.is_empty(), own, known: Mutex::new((Instant::now(), list)) }
    }

    fn read(own: Ipv4Addr) -> Arc<[SocketAddr]> {
        let list = resolvers::of_host(Path::new(resolvers::RESOLV_CONF));
        list.into_iter().filter(|ip| *ip != IpAddr::V4(own)).map(|ip| (ip, PORT).into()).collect()
    }

    /// Those to ask now, the best first.
    pub fn list(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.fixed && known.0.elapsed() > FRESH {
            *known = (Instant::now(), Self::read(self.own));
        }
        known.1.clone()
    }
}

/// Whether `packet` answers the question in `asked` (the packet that was sent): same id, same question in the same case.
/// Anybody may send us anything; without this a guess of port and id would do.
pub fn answers(asked: &[u8], head: usize, packet: &[u8]) -> bool {
    packet.len() >= head.max(HEADER)
        && packet[..2] == asked[..2]
        && packet[2] & 0xf8 == 0x80
        && packet[4..6] == [0, 1]
        && packet[HEADER..head] == asked[HEADER..head]
}

/// Whether the answer says that this resolver cannot help, so that another one might: SERVFAIL, NOTIMP, REFUSED.
pub fn is_no_help(packet: &[u8]) -> bool {
    matches!(packet.get(3).map(|byte| byte & 15), Some(2 | 4 | 5))
}
