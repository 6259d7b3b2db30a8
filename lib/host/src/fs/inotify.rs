//! inotify(7): to be woken when something appears in a directory, instead of looking again and again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

/// Tells when an entry is made in, or moved into, one directory.
#[derive(Debug)]
pub struct NewEntries {
    fd: OwnedFd,
}

impl NewEntries {
    /// Watches `dir` from now on. Look for what you await after this call: what is there already tells nothing.
    pub fn watch(dir: impl AsRef<Path>) -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        add_watch(&fd, dir.as_ref(), WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)?;
        Ok(Self { fd })
    }

    /// Forgets what was told so far, so that the descriptor is readable again only once something new appears.
    pub fn clear(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        while reader.next().is_ok() {}
    }
}

impl AsFd for NewEntries {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn only_what_is_new_is_told() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("old"), "").unwrap();
        let entries = NewEntries::watch(temp.path()).unwrap();
        let readable = || {
            let mut fds = [PollFd::new(&entries, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!readable());
        std::fs::write(temp.path().join("new"), "").unwrap();
        assert!(readable());
        entries.clear();
        assert!(!readable());
    }
}
