//! Giving up root: for a moment, to open what a user names, and for good.

use std::io;

use nix::unistd::{Gid, Uid, User, setegid, seteuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

/// The user who owns nothing (the kernel's overflow uid and gid).
pub const NOBODY: u32 = 65534;

/// Runs `work` with the rights of the user `uid` instead of root's. Only for a process with one thread: the ids are the process's.
///
/// # Errors
/// The ids cannot be changed; or those of `work`.
pub fn as_user<T>(uid: u32, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let group = user.map_or(Gid::from_raw(NOBODY), |user| user.gid);
    // Root's further groups would open what the user may not.
    setgroups(&[])?;
    setegid(group)?;
    let result = seteuid(Uid::from_raw(uid)).map_err(io::Error::from).and_then(|()| work());
    seteuid(Uid::from_raw(0))?;
    setegid(Gid::from_raw(0))?;
    result
}

/// From now on this process is nobody's, without a capability and with no way back. Call it before threads are started.
///
/// # Errors
/// The kernel refuses, or root could be had again; then the process must not go on.
pub fn renounce() -> io::Result<()> {
    become_powerless(NOBODY)?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root was given up and came back"));
    }
    Ok(())
}

/// From now on this process is the user `uid`'s where it was root's, of no group that has anything, and without a capability, even where
/// `uid` is root. Call it before threads are started.
///
/// # Errors
/// The kernel refuses; then the process must not go on.
pub fn become_powerless(uid: u32) -> io::Result<()> {
    if Uid::effective().is_root() {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(NOBODY));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(set_no_new_privs(true)?)
}
