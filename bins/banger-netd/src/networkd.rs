//! systemd-networkd, where it takes our links for its own: a `.network` file that matches every link has it configure them as if they
//! led to a network, ask guests for addresses and remove ours. Only the host's owner can tell it not to.

use super::host::Host;
use super::tag::Tag;
use crate::sys::networkd;
use banger_host::net::link::Link;

/// A link of banger's that systemd-networkd manages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// The link.
    pub link: String,
    /// The file that says so.
    pub file: String,
}

/// What has it leave all links of banger's alone: a command.
pub const REMEDY: &str = r"printf '[Match]\nName=bgr* bgt* bgq* bgd*\n\n[Link]\nUnmanaged=yes\n' >/etc/systemd/network/00-banger.network && networkctl reload";

/// The first link of banger's, of whichever state directory, that it manages. `None` also where it cannot be asked.
pub fn managed() -> Option<Managed> {
    let host = Host::read().ok()?;
    let mut ours: Vec<&Link> = host.links.iter().filter(|link| Tag::of(link).is_some()).collect();
    // What happens to a bridge matters most.
    ours.sort_by_key(|link| link.kind.as_deref() != Some("bridge"));
    ours.into_iter().find_map(of)
}

/// Whether it manages the link, and by which file.
pub(super) fn of(link: &Link) -> Option<Managed> {
    let file = networkd::manages(link.index).ok().flatten()?;
    Some(Managed { link: link.name.clone(), file })
}
