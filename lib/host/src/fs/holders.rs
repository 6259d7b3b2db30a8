//! Which processes hold an exclusive flock(2), or have a name, and ending them. A pid that was written down somewhere proves nothing: this looks
//! at what the kernel says of each process's descriptors (proc_pid_fdinfo(5)).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::process::poll;

/// A process that holds the lock, or has the name.
#[derive(Debug)]
pub struct Holder {
    pid: i32,
    pidfd: OwnedFd,
}

impl Holder {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it. One that has ended is no error.
    ///
    /// # Errors
    /// Those of pidfd_send_signal(2).
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The processes that hold an exclusive flock on `path`, this one excepted. Processes of other users are seen by root only. Give
/// `hints`, process numbers, to look at those alone.
///
/// # Errors
/// /proc or `path` cannot be read.
pub fn of(path: &Path, hints: Option<&[i32]>) -> io::Result<Vec<Holder>> {
    let file = fs::metadata(path)?;
    let is_file = |fd: &Path| fs::metadata(fd).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()));
    Ok(match hints {
        Some(pids) => among(pids.iter().copied(), &is_file),
        None => among(all()?, &is_file),
    })
}

/// The processes that hold an exclusive flock on a file that was removed, whose path ended in `end`, several names that nothing else has.
///
/// # Errors
/// /proc cannot be read.
pub fn of_removed(end: &Path) -> io::Result<Vec<Holder>> {
    // As proc_pid_fd(5) has it.
    let end = Path::new("/").join(end).into_os_string().into_encoded_bytes();
    let end = [&end[..], b" (deleted)"].concat();
    let is_file =
        |fd: &Path| fs::read_link(fd).is_ok_and(|path| path.as_os_str().as_encoded_bytes().ends_with(&end));
    Ok(among(all()?, &is_file))
}

/// The processes whose name is `name` as the kernel has it, and that the user `uid` runs.
///
/// # Errors
/// /proc cannot be read.
pub fn named(name: &str, uid: u32) -> io::Result<Vec<Holder>> {
    let own = std::process::id().cast_signed();
    let is_it = |pid: i32| is_named(pid, name) && runs_for(pid, uid);
    Ok(all()?
        .filter(|pid| *pid != own && is_named(*pid, name))
        .filter_map(|pid| opened(pid, &is_it))
        .collect())
}

fn is_named(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.strip_suffix('\n') == Some(name))
}

/// Whether the real uid of a process is `uid` (proc_pid_status(5)).
fn runs_for(pid: i32, uid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let real =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    real == Some(uid)
}

/// All processes.
fn all() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Those of `pids` that hold an exclusive flock on a file that `is_file` says.
fn among(pids: impl IntoIterator<Item = i32>, is_file: &dyn Fn(&Path) -> bool) -> Vec<Holder> {
    let own = std::process::id().cast_signed();
    pids.into_iter()
        .filter(|pid| *pid != own)
        .filter_map(|pid| opened(pid, &|pid| holds(pid, is_file)))
        .collect()
}

/// The process `pid` where `is_it` says that it is the one.
fn opened(pid: i32, is_it: &dyn Fn(i32) -> bool) -> Option<Holder> {
    // The pidfd comes first: if the process lives after the look at /proc, then what was seen there is of that process.
    let known = (pid > 0).then(|| Pid::from_raw(pid)).flatten()?;
    let pidfd = pidfd_open(known, PidfdFlags::empty()).ok()?;
    let is_it = is_it(pid);
    (is_it && !has_ended(&pidfd)).then_some(Holder { pid, pidfd })
}

fn holds(pid: i32, is_file: &dyn Fn(&Path) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(entry.file_name());
        let exclusive =
            |line: &str| line.starts_with("lock:") && line.contains("FLOCK") && line.contains("WRITE");
        is_file(&entry.path()) && fs::read_to_string(info).is_ok_and(|text| text.lines().any(exclusive))
    })
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    poll::wait(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(Instant::now())).is_ok_and(|n| n > 0)
}

/// Waits until all of `holders` have ended; `false` where one has not at `until`.
///
/// # Errors
/// Those of poll(2).
pub fn wait(holders: &[Holder], until: Instant) -> io::Result<bool> {
    for holder in holders {
        let fd = holder.pidfd.as_fd();
        if poll::wait(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(until))? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_holder_is_found_with_and_without_a_hint_and_a_bystander_is_not() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let path = temp.path().to_owned();
        let mut start =
            crate::process::exec::Exec::new("flock").arg(&path).arg("sleep").arg("30").command().unwrap();
        let mut child = start.spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(25);
        while of(&path, None).unwrap().len() < 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let holders = of(&path, None).unwrap();
        assert_eq!(holders.len(), 2, "flock and the sleep that inherits: {holders:?}");
        assert!(of(&path, Some(&[1, 0, -4])).unwrap().is_empty());
        assert_eq!(of(&path, Some(&[child.id().cast_signed()])).unwrap().len(), 1);
        let name = Path::new(path.file_name().unwrap());
        assert!(of_removed(name).unwrap().is_empty(), "it is there");
        drop(temp);
        assert_eq!(of_removed(name).unwrap().len(), 2);
        holders.iter().for_each(|h| h.kill().unwrap());
        child.wait().unwrap();
        assert!(wait(&holders, until).unwrap());
        assert!(of_removed(name).unwrap().is_empty());
    }
}
