//! Who holds the locks of a package manager: apt and dpkg, dnf, pacman, zypper.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

/// A lock of a package manager, by the way it is held.
#[derive(Debug, Clone, Copy)]
pub enum PackageLock<'a> {
    /// A file under a lock of fcntl(2).
    Record(&'a str),
    /// A file with the number of the process that holds it, removed or emptied afterwards.
    PidFile(&'a str),
    /// A file that is there, and open in the process that holds it.
    Open(&'a str),
}

/// apt's and dpkg's, in the order in which apt-get takes them.
pub const APT: &[PackageLock<'_>] = &[
    PackageLock::Record("/var/lib/apt/lists/lock"),
    PackageLock::Record("/var/lib/dpkg/lock-frontend"),
    PackageLock::Record("/var/lib/dpkg/lock"),
    PackageLock::Record("/var/cache/apt/archives/lock"),
];
/// dnf's (4 and 5) and rpm's.
pub const DNF: &[PackageLock<'_>] = &[
    PackageLock::PidFile("/var/cache/dnf/metadata_lock.pid"),
    PackageLock::PidFile("/var/cache/dnf/download_lock.pid"),
    PackageLock::PidFile("/var/lib/dnf/rpmdb_lock.pid"),
    PackageLock::Record("/run/dnf/rpmtransaction.lock"),
    PackageLock::Record("/var/lib/rpm/.rpm.lock"),
    PackageLock::Record("/usr/lib/sysimage/rpm/.rpm.lock"),
];
/// pacman's.
pub const PACMAN: &[PackageLock<'_>] = &[PackageLock::Open("/var/lib/pacman/db.lck")];
/// zypper's.
pub const ZYPPER: &[PackageLock<'_>] = &[PackageLock::PidFile("/run/zypp.pid")];

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// Its number; `None` where the kernel does not tell, as of a process in another container.
    pub pid: Option<i32>,
    /// Its name, at most 15 bytes.
    pub name: Option<String>,
    /// The lock's file.
    pub path: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.pid) {
            (Some(name), Some(pid)) => write!(f, "{name} (process {pid})"),
            (None, Some(pid)) => write!(f, "process {pid}"),
            _ => f.write_str("a process that cannot be seen from here"),
        }
    }
}

/// Who holds the first of `locks` that somebody holds. Those that this user may not look at count as free.
pub fn holder(locks: &[PackageLock<'_>]) -> Option<LockHolder> {
    locks.iter().find_map(|lock| {
        let (path, pid) = match *lock {
            PackageLock::Record(path) => (path, record_holder(path)?),
            PackageLock::PidFile(path) => (path, Some(running_pid(path)?)),
            PackageLock::Open(path) => (path, Some(opener(path)?)),
        };
        let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        Some(LockHolder { pid, name: name.map(|name| name.trim_end().to_owned()), path: path.to_owned() })
    })
}

/// Who keeps others from a write lock on the file; `Some(None)` where that is not told.
fn record_holder(path: &str) -> Option<Option<i32>> {
    let file = File::open(path).ok()?;
    // SAFETY: a flock of zeros is a valid one: the whole file.
    let mut asked: libc::flock = unsafe { std::mem::zeroed() };
    asked.l_type = libc::F_WRLCK as libc::c_short;
    asked.l_whence = libc::SEEK_SET as libc::c_short;
    fcntl(&file, FcntlArg::F_GETLK(&mut asked)).ok()?;
    (asked.l_type != libc::F_UNLCK as libc::c_short).then_some((asked.l_pid > 0).then_some(asked.l_pid))
}

fn running_pid(path: &str) -> Option<i32> {
    let pid: i32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (pid > 0 && Path::new("/proc").join(pid.to_string()).exists()).then_some(pid)
}

fn opener(path: &str) -> Option<i32> {
    let wanted = fs::metadata(path).ok()?;
    let opens = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|entry| fs::metadata(entry.path()).ok())
            .any(|file| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino()))
    };
    let pids = fs::read_dir("/proc").ok()?.flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(opens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Stdio};

    /// A process that holds a lock of fcntl(2) on `path` until it is killed.
    fn hold(path: &Path) -> Child {
        let script = "use Fcntl; open(my $f, '+<', $ARGV[0]) or die; my $l = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0); \
                      fcntl($f, F_SETLK, $l) or die; $| = 1; print \"held\\n\"; sleep 60";
        let mut command =
            banger_host::process::exec::Exec::new("perl").args(["-e", script]).arg(path).command().unwrap();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        child
    }

    #[test]
    fn who_holds_a_record_lock_is_told_until_it_ends() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let path = temp.path().to_str().unwrap();
        let locks = [PackageLock::Record("/nowhere/lock"), PackageLock::Record(path)];
        assert_eq!(holder(&locks), None);
        let mut child = hold(temp.path());
        let pid = child.id().cast_signed();
        let found = holder(&locks).unwrap();
        assert_eq!((found.pid, found.path.as_str()), (Some(pid), path));
        assert_eq!(found.to_string(), format!("perl (process {pid})"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holder(&locks), None);
    }

    #[test]
    fn pid_files_and_open_files_count_while_their_process_lives() {
        let temp = tempfile::tempdir().unwrap();
        let (pid_file, open) = (temp.path().join("a.pid"), temp.path().join("db.lck"));
        let locks =
            [PackageLock::PidFile(pid_file.to_str().unwrap()), PackageLock::Open(open.to_str().unwrap())];
        fs::write(&open, "").unwrap();
        for stale in ["", "0", "2147483647", "no number"] {
            fs::write(&pid_file, stale).unwrap();
            assert_eq!(holder(&locks), None, "{stale:?}");
        }
        let own = std::process::id().cast_signed();
        let file = File::open(&open).unwrap();
        assert_eq!(holder(&locks).and_then(|h| h.pid), Some(own));
        drop(file);
        fs::write(&pid_file, format!("{own}\n")).unwrap();
        assert_eq!(holder(&locks).unwrap().path, pid_file.to_str().unwrap());
    }
}
