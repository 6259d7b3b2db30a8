//! On whose behalf the program acts.

use super::NetError;

/// The user who started the program, seen through sudo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// `None`: root itself, who may act for anyone.
    uid: Option<u32>,
    has_net_admin: bool,
}

impl Caller {
    /// `sudo_uid` is what sudo says about who called it. It counts only when the effective uid is 0: anybody can set a
    /// variable, and only sudo gets to run this program as root with it.
    ///
    /// # Errors
    /// The program runs as root and `sudo_uid` is not a number.
    pub fn new(euid: u32, sudo_uid: Option<&str>, has_net_admin: bool) -> Result<Self, NetError> {
        let uid = match (euid, sudo_uid) {
            (0, None) => None,
            (0, Some(text)) => {
                let uid: u32 =
                    text.parse().map_err(|_| NetError::SudoUid(text.chars().take(20).collect()))?;
                (uid != 0).then_some(uid)
            }
            (euid, _) => Some(euid),
        };
        Ok(Self { uid, has_net_admin })
    }

    /// Whether the caller may name `owner` as the owner of a VM, or change what is tagged with it.
    pub fn may_act_for(&self, owner: u32) -> bool {
        self.uid.is_none_or(|uid| uid == owner)
    }

    /// Whether the caller is root, and not somebody else through sudo.
    pub fn is_root(&self) -> bool {
        self.uid.is_none_or(|uid| uid == 0)
    }

    /// # Errors
    /// The caller is neither root nor `owner`.
    pub fn require_for(&self, owner: u32) -> Result<(), NetError> {
        match self.uid {
            Some(caller) if caller != owner => Err(NetError::NotOwner { owner, caller }),
            _ => Ok(()),
        }
    }

    /// The user for whom the program acts; `None`: root itself.
    pub fn uid(&self) -> Option<u32> {
        self.uid
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_narrows_root_and_a_variable_widens_nobody() {
        let caller = |euid, sudo| Caller::new(euid, sudo, true).unwrap();
        assert!(caller(0, None).may_act_for(1000));
        assert!(caller(0, Some("0")).may_act_for(1000));
        assert!(caller(0, Some("1000")).may_act_for(1000) && !caller(0, Some("1000")).may_act_for(0));
        assert!(!caller(1000, Some("1001")).may_act_for(1001) && !caller(1000, Some("0")).may_act_for(0));
        assert!(Caller::new(0, Some("x"), true).is_err() && Caller::new(0, Some(""), true).is_err());
    }
}
