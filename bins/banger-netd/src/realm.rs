//! Which names the host objects of a state directory have. The ids in a record are anybody's to write, so a name that followed from them
//! alone could be taken by another user, who would then be in the way. The owner's uid is part of it:
//!
//! | object | root's | another user's |
//! |---|---|---|
//! | bridge, its port for the carrier, waiting taps | `bgr`, `bgd`, `bgq` and the state id | the same and the digest of state id and uid |
//! | tap | `bgt` and the VM's id | `bgt` and the digest of the VM's id and uid |
//! | chains of a VM, and what holds its ports | `bgp`, `bgl` and the same | |
//! | tables, locks | as the bridge | |
//!
//! A link's name has room for 12 digits of a digest, and there are 2^32 state ids: that another user finds one with the same name is
//! improbable (1 : 65536), and finding a VM's takes 2^48 tries. The tag of a link says whose it is in any case.
//!
//! Earlier programs named all users' objects as root's. As long as such a bridge is there, its VMs and those that join them have those names.

use super::tag::Tag;
use banger_contract::types::{LinkName, StateId, VmId};
use banger_host::digest::sha256;
use banger_host::net::link::{self, Link};
use banger_host::net::netlink::Netlink;

/// How many digits of a digest a name has.
const DIGITS: usize = 12;

/// A state directory of one user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realm {
    tag: Tag,
    /// What the names have instead of the state id; `None`: that itself.
    key: Option<String>,
}

impl Realm {
    /// The state directory `state` of the user `uid`.
    pub fn of(state: &StateId, uid: u32) -> Self {
        let tag = Tag { state: state.clone(), uid };
        let plain = Self { tag: tag.clone(), key: None };
        if uid == 0 || plain.has_bridge() {
            return plain;
        }
        Self { key: Some(digest(&format!("{state}:{uid}"))), tag }
    }

    /// The state directory `state` of whoever runs this program.
    pub fn of_caller(state: &StateId) -> Self {
        Self::of(state, rustix::process::geteuid().as_raw())
    }

    /// Whether the bridge is there and has our tag.
    fn has_bridge(&self) -> bool {
        let name = self.bridge();
        let ours = |link: &Link| link.name == name.as_str() && Tag::of(link).as_ref() == Some(&self.tag);
        let links = Netlink::open().and_then(|mut netlink| link::list(&mut netlink));
        links.is_ok_and(|links| links.iter().any(ours))
    }

    /// What its links are tagged with.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// The state id.
    pub fn state(&self) -> &StateId {
        &self.tag.state
    }

    /// What all names have in common.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(self.tag.state.as_str())
    }

    fn link(&self, kind: &str) -> LinkName {
        format!("{kind}{}", self.key()).parse().expect("3 letters and 12 digits at most are a link name")
    }

    /// The bridge.
    pub fn bridge(&self) -> LinkName {
        self.link("bgr")
    }

    /// The port that gives the bridge its carrier.
    pub fn dummy(&self) -> LinkName {
        self.link("bgd")
    }

    /// What the names of waiting taps begin with; two digits follow.
    pub fn slots(&self) -> String {
        // Where one is taken, another will do.
        format!("bgq{}", &self.key()[..self.key().len().min(DIGITS - 2)])
    }

    /// Both nftables tables.
    pub fn nft_table(&self) -> String {
        format!("banger_{}", self.key())
    }

    /// What stands for a VM in the names of its objects.
    pub fn vm(&self, vm: &VmId) -> VmId {
        match self.key {
            None => vm.clone(),
            Some(_) => {
                let digest = digest(&format!("{vm}:{}", self.tag.uid));
                digest.parse().expect("12 hexadecimal digits are a VM's id")
            }
        }
    }
}

fn digest(text: &str) -> String {
    let mut hex = sha256(text.as_bytes());
    hex.truncate(DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_users_have_a_name_in_common() {
        let (state, vm): (StateId, VmId) = ("0a1b2c3d".parse().unwrap(), "000102aabbff".parse().unwrap());
        let root = Realm::of(&state, 0);
        assert_eq!((root.bridge().as_str(), root.dummy().as_str()), ("bgr0a1b2c3d", "bgd0a1b2c3d"));
        assert_eq!((root.nft_table().as_str(), root.slots().as_str()), ("banger_0a1b2c3d", "bgq0a1b2c3d"));
        assert_eq!(root.vm(&vm).tap().as_str(), "bgt000102aabbff");
        let [ann, bob] = [61000, 61001].map(|uid| Realm::of(&state, uid));
        let names = |realm: &Realm| {
            [realm.bridge().to_string(), realm.nft_table(), realm.slots(), realm.vm(&vm).tap().to_string()]
        };
        for (one, other) in [(&root, &ann), (&root, &bob), (&ann, &bob)] {
            assert!(names(one).iter().zip(names(other)).all(|(one, other)| *one != other));
        }
        assert_eq!(ann.slots().len(), 13);
        assert_eq!(ann, Realm::of(&state, 61000));
    }
}
