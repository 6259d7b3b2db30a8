//! On whose behalf a privileged program acts.

use thiserror::Error;

/// The user who started the program, seen through sudo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// `None`: root itself, who may act for anyone.
    uid: Option<u32>,
}

/// sudo's word on who called it is not a number.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("SUDO_UID is {0:?}, which is not a user id")]
pub struct SudoUidError(pub String);

impl Caller {
    /// `sudo_uid` is what sudo says about who called it. It counts only when the effective uid is 0: anybody can set a
    /// variable, and only sudo gets to run this program as root with it.
    ///
    /// # Errors
    /// The program runs as root and `sudo_uid` is not a number.
    pub fn new(euid: u32, sudo_uid: Option<&str>) -> Result<Self, SudoUidError> {
        let uid = match (euid, sudo_uid) {
            (0, None) => None,
            (0, Some(text)) => {
                let uid: u32 = text.parse().map_err(|_| SudoUidError(text.chars().take(20).collect()))?;
                (uid != 0).then_some(uid)
            }
            (euid, _) => Some(euid),
        };
        Ok(Self { uid })
    }

    /// Root, on its own behalf.
    pub fn root() -> Self {
        Self { uid: None }
    }

    /// The user; `None`: root itself, who may act for anyone.
    pub fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// Whether the caller may name `owner` as an object's owner, or change what is tagged with it.
    pub fn may_act_for(&self, owner: u32) -> bool {
        self.uid.is_none_or(|uid| uid == owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_narrows_root_and_a_variable_widens_nobody() {
        let caller = |euid, sudo| Caller::new(euid, sudo).unwrap();
        assert!(caller(0, None).may_act_for(1000));
        assert!(caller(0, Some("0")).may_act_for(1000));
        assert!(caller(0, Some("1000")).may_act_for(1000) && !caller(0, Some("1000")).may_act_for(0));
        assert!(!caller(1000, Some("1001")).may_act_for(1001) && !caller(1000, Some("0")).may_act_for(0));
        assert!(Caller::new(0, Some("x")).is_err() && Caller::new(0, Some("")).is_err());
    }
}
