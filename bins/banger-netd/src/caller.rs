//! On whose behalf the program acts, and what it may.

use super::NetError;
use banger_host::process::caller::Caller as User;

/// The user who started the program, seen through sudo, and its privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    user: User,
    has_net_admin: bool,
}

impl Caller {
    /// `sudo_uid` is what sudo says about who called it; see [`User::new`].
    ///
    /// # Errors
    /// The program runs as root and `sudo_uid` is not a number.
    pub fn new(euid: u32, sudo_uid: Option<&str>, has_net_admin: bool) -> Result<Self, NetError> {
        let user = User::new(euid, sudo_uid).map_err(|error| NetError::SudoUid(error.0))?;
        Ok(Self { user, has_net_admin })
    }

    /// Whether the caller may name `owner` as the owner of a VM, or change what is tagged with it.
    pub fn may_act_for(&self, owner: u32) -> bool {
        self.user.may_act_for(owner)
    }

    /// Whether the caller is root, and not somebody else through sudo.
    pub fn is_root(&self) -> bool {
        self.user.uid().is_none_or(|uid| uid == 0)
    }

    /// # Errors
    /// The caller is neither root nor `owner`.
    pub fn require_for(&self, owner: u32) -> Result<(), NetError> {
        match self.user.uid() {
            Some(caller) if caller != owner => Err(NetError::NotOwner { owner, caller }),
            _ => Ok(()),
        }
    }

    /// The user for whom the program acts; `None`: root itself.
    pub fn uid(&self) -> Option<u32> {
        self.user.uid()
    }

    /// Whether the program may change links and rules at all.
    pub fn has_net_admin(&self) -> bool {
        self.has_net_admin
    }

    /// # Errors
    /// The program lacks CAP_NET_ADMIN.
    pub fn require_net_admin(&self) -> Result<(), NetError> {
        if self.has_net_admin { Ok(()) } else { Err(NetError::Unprivileged) }
    }
}
