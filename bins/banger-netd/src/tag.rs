//! The owner tag: what a link's alias says about whose it is.

use std::fmt;
use std::str::FromStr;

use super::realm::Realm;
use banger_contract::types::StateId;
use banger_host::net::link::{self, Link};
use banger_host::net::netlink::Netlink;

/// The alias `banger:<state id>:<uid>` of every link that `banger-netd` makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The state directory that the link serves.
    pub state: StateId,
    /// The user who may have it changed and removed.
    pub uid: u32,
}

impl Tag {
    /// The tag of a link; `None` where it has none, so is not ours to touch.
    pub fn of(link: &Link) -> Option<Self> {
        link.alias.as_deref()?.parse().ok()
    }
}

/// Whether there is a link of `state`: tagged, or the bridge that a crash left without its tag. Where the kernel does not say, there is.
pub fn any_link_of(state: &StateId) -> bool {
    let bridge = Realm::of_caller(state).bridge();
    let ours =
        |link: &Link| link.name == bridge.as_str() || Tag::of(link).is_some_and(|tag| tag.state == *state);
    let links = Netlink::open().and_then(|mut netlink| link::list(&mut netlink));
    links.map_or(true, |links| links.iter().any(ours))
}

/// A string that is no tag.
#[derive(Debug, PartialEq, Eq)]
pub struct NoTag;

impl FromStr for Tag {
    type Err = NoTag;
    fn from_str(text: &str) -> Result<Self, NoTag> {
        let (state, uid) = text.strip_prefix("banger:").and_then(|t| t.split_once(':')).ok_or(NoTag)?;
        let tag = Self { state: state.parse().map_err(|_| NoTag)?, uid: uid.parse().map_err(|_| NoTag)? };
        // One way to write it: "+7" and "007" parse as numbers and are no tags.
        if tag.to_string() == text { Ok(tag) } else { Err(NoTag) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "banger:{}:{}", self.state, self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip_and_others_are_none() {
        let tag: Tag = "banger:0a1b2c3d:1000".parse().unwrap();
        assert_eq!((tag.state.as_str(), tag.uid), ("0a1b2c3d", 1000));
        assert_eq!(tag.to_string(), "banger:0a1b2c3d:1000");
        for bad in
            ["", "banger:", "banger:0a1b2c3d", "banger:0a1b2c3d:+7", "banger:0a1b2c3d:1:2", "x:0a1b2c3d:1"]
        {
            assert_eq!(bad.parse::<Tag>(), Err(NoTag), "{bad}");
        }
    }
}
