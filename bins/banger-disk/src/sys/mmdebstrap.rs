//! mmdebstrap(1): a Debian root filesystem from packages, as root or in a user namespace.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use banger_contract::error::escape_controls;
use banger_host::fs::fd;
use banger_host::process::exec::{Exec, ExecError, find_program};

/// How many lines of the program that failed below mmdebstrap an error keeps.
const CAUSE_LINES: usize = 3;

/// How many of its last lines an error keeps.
const KEPT_LINES: usize = 12;

/// How much of a line an error keeps, bytes.
const KEPT_LINE_BYTES: usize = 400;

/// A line that is longer counts as several, bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// How long a signal may wait until it is heeded.
const POLL: Duration = Duration::from_millis(100);

/// How long it may take to end and clean up.
const ENDING: Duration = Duration::from_secs(15);

/// Holds the number of the output directory's descriptor.
pub const OUTPUT_VARIABLE: &str = "BANGER_OUTPUT_FD";

/// Holds the number of the lock's descriptor, which nobody reads.
const LOCK_VARIABLE: &str = "BANGER_IMAGES_LOCK_FD";

/// Holds how much memory the root may take, bytes.
const MEMORY_VARIABLE: &str = "BANGER_MEMORY_BYTES";

/// Puts the directory where mmdebstrap works into memory, with the little that is in it before anything is installed. The mount goes
/// with the namespace that it is made in. Where there can be none, all stays on the disk.
const INTO_MEMORY: &str = r#"cd "$1" || exit
mount -t tmpfs -o "size=$BANGER_MEMORY_BYTES,mode=755" tmpfs "${1%/*}" || exit 0
mkdir "$1" && cp -a . "$1""#;

/// Descriptors for the hook are numbered from here on: mmdebstrap has the shell redirect to descriptors of its own by number, and
/// dash takes one digit only.
const FIRST_DESCRIPTOR: i32 = 100;

/// What mmdebstrap says while it works that is worth passing on.
const STEPS: [&str; 4] = ["running apt", "downloading", "extracting", "installing"];

/// What mmdebstrap is to do.
#[derive(Debug)]
pub struct Bootstrap<'a> {
    /// The release.
    pub suite: &'a str,
    /// Lines of sources.list(5); none: mmdebstrap's own default.
    pub sources: &'a [String],
    /// The keys that sign the packages; `None`: those that the host's apt trusts.
    pub keyring: Option<&'a Path>,
    /// Packages beyond the essential ones.
    pub packages: &'a [String],
    /// Lines for dpkg's configuration, such as `path-exclude=…`.
    pub dpkg_options: &'a [&'a str],
    /// A shell script that runs when everything is installed, with the root directory as `$1`. Nothing else of the root is kept.
    pub hook: &'a str,
    /// Variables of the hook.
    pub variables: &'a [(&'a str, String)],
    /// Variables about a proxy, for apt.
    pub proxies: &'a [(&'static str, OsString)],
    /// A directory with files that the hook writes: in a user namespace it could not come there by the path, so its descriptor's
    /// number is in the variable [`OUTPUT_VARIABLE`], for use as `/proc/self/fd/N/file`.
    pub output: &'a File,
    /// A lock that is to last as long as anything of the run: killed in a user namespace, mmdebstrap takes its time to end.
    pub lock: BorrowedFd<'a>,
    /// Where it works: an empty directory. In a user namespace its users, too, must be able to pass through it.
    pub scratch: &'a Path,
    /// How much memory the root may take, bytes; `None`: it is made on the disk. Nothing of the root is kept, and to
    /// free again what has reached a disk may take longer than to install it; in memory there is nothing to write and nothing to free.
    pub memory: Option<u64>,
    /// Whether this process is root; else a user namespace is used.
    pub root: bool,
}

/// A root filesystem that could not be made.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// A program is not installed.
    #[error("a program that builds images is missing")]
    Program(#[source] ExecError),
    /// An ordinary user has no range of users of their own.
    #[error("this user can build no image: {0}")]
    NoUserNamespace(&'static str),
    /// It could not be started or listened to.
    #[error("cannot run mmdebstrap")]
    Run(#[source] io::Error),
    /// A signal came and it was ended.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// It failed.
    #[error("mmdebstrap ended with {status}: {lines}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// Its last words, escaped.
        lines: String,
    },
}

/// What root runs, with the user's name behind it, to give a user a range.
pub const SUBUID_FIX: &str = "usermod --add-subuids 1000000-1065535 --add-subgids 1000000-1065535";

/// Whether this user can use mmdebstrap's user namespaces: newuidmap(1) and a range in /etc/subuid.
pub fn check_user_namespace(user: &str, uid: u32) -> Result<(), BootstrapError> {
    if find_program("newuidmap".as_ref()).is_none() {
        return Err(BootstrapError::NoUserNamespace("newuidmap (package uidmap) is not installed"));
    }
    let listed = std::fs::read_to_string("/etc/subuid").unwrap_or_default().lines().any(|line| {
        let owner = line.split(':').next().unwrap_or_default();
        owner == user || owner == uid.to_string()
    });
    listed.then_some(()).ok_or(BootstrapError::NoUserNamespace("/etc/subuid gives it no range of users"))
}

impl Bootstrap<'_> {
    /// Runs it; `progress` gets its steps as they come. Once `interrupted` names a signal it is ended.
    pub fn run(
        &self,
        progress: &mut dyn FnMut(&str),
        interrupted: &dyn Fn() -> Option<i32>,
    ) -> Result<(), BootstrapError> {
        let high = |fd: BorrowedFd| {
            let duplicate = rustix::io::fcntl_dupfd_cloexec(fd, FIRST_DESCRIPTOR);
            duplicate.map_err(|errno| BootstrapError::Run(errno.into()))
        };
        let (output, lock) = (high(self.output.as_fd())?, high(self.lock)?);
        let mut command = self.command()?;
        fd::hand_down(&mut command, &output, OUTPUT_VARIABLE);
        fd::hand_down(&mut command, &lock, LOCK_VARIABLE);
        let mut child = command.spawn().map_err(BootstrapError::Run)?;
        let mut lines = Lines::new(child.stderr.take().expect("piped"));
        let mut last = Vec::new();
        let signal = loop {
            match lines.next(POLL).map_err(BootstrapError::Run)? {
                Next::Line(line) => {
                    let step = line.strip_prefix("I: ");
                    if let Some(step) = step.filter(|line| STEPS.iter().any(|step| line.starts_with(step))) {
                        progress(step.trim_end_matches('.'));
                    }
                    last.push(line);
                    last.drain(..last.len().saturating_sub(KEPT_LINES));
                }
                Next::Nothing => {}
                Next::End => break None,
            }
            if let Some(signal) = interrupted() {
                self.end(Pid::from_child(&child));
                lines.drain(ENDING).map_err(BootstrapError::Run)?;
                break Some(signal);
            }
        };
        let status = child.wait().map_err(BootstrapError::Run)?;
        // A signal to the whole process group ends mmdebstrap before it is seen here.
        match signal.or_else(interrupted) {
            Some(signal) => Err(BootstrapError::Interrupted(signal)),
            None if status.success() => Ok(()),
            None => Err(BootstrapError::Failed { status, lines: complaint(&last) }),
        }
    }

    /// Ends it before its time. As root all of it is in a process namespace of `unshare`'s, which ends with it and leaves nothing but
    /// files below `scratch`. In a user namespace only mmdebstrap itself can remove those, but would first let its children finish.
    fn end(&self, pid: Pid) {
        if !self.root {
            return end_descendants(pid);
        }
        // It may have ended by itself meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }

    fn command(&self) -> Result<Command, BootstrapError> {
        let program = find_program("mmdebstrap".as_ref());
        let program = program.ok_or_else(|| {
            BootstrapError::Program(ExecError::NotFound("mmdebstrap (package mmdebstrap)".into()))
        })?;
        // As root mmdebstrap mounts /proc and others where it stands. In namespaces of its own they go with it, also when it is
        // killed; as an ordinary user it makes such namespaces itself.
        let exec = if self.root {
            let namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
            Exec::new("unshare").args(namespaces).arg("--").arg(program).arg("--mode=root")
        } else {
            Exec::new(program).arg("--mode=unshare")
        };
        let mut exec = exec
            // Nothing of the root is kept after the hook: nothing in it is to be cleaned.
            .args(["--variant=apt", "--format=null", "--skip=cleanup"])
            .args(
                self.keyring
                    .map(|keyring| [OsStr::new("--keyring"), keyring.as_os_str()])
                    .into_iter()
                    .flatten(),
            )
            .arg(format!("--include={}", self.packages.join(",")))
            .args(self.dpkg_options.iter().map(|option| format!("--dpkgopt={option}")))
            .args(self.memory.map(|_| format!("--setup-hook={INTO_MEMORY}")))
            .arg("--customize-hook=eval \"$BANGER_HOOK\"")
            .args([self.suite, "-"])
            .args(self.sources)
            .env("BANGER_HOOK", self.hook)
            .env("TMPDIR", self.scratch)
            // The image boots from an initrd of banger's: its own would take longer to make than everything else.
            .env("INITRD", "No")
            .env("DEBIAN_FRONTEND", "noninteractive");
        if let Some(bytes) = self.memory {
            exec = exec.env(MEMORY_VARIABLE, bytes.to_string());
        }
        for (name, value) in self.proxies {
            exec = exec.env(name, value);
        }
        for (name, value) in self.variables {
            exec = exec.env(name, value);
        }
        let mut command = exec.command().map_err(BootstrapError::Program)?;
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        end_with_parent(&mut command, if self.root { libc::SIGKILL } else { libc::SIGTERM });
        Ok(command)
    }
}

/// What comes next of a stream.
enum Next {
    /// A line, cut.
    Line(String),
    /// Nothing yet.
    Nothing,
    /// The stream's end.
    End,
}

/// The lines of a pipe, waited for no longer than asked.
struct Lines {
    pipe: ChildStderr,
    bytes: Vec<u8>,
}

impl Lines {
    fn new(pipe: ChildStderr) -> Self {
        Self { pipe, bytes: Vec::new() }
    }

    fn next(&mut self, patience: Duration) -> io::Result<Next> {
        if let Some(line) = self.take_line() {
            return Ok(Next::Line(line));
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Next::Nothing),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut buffer = [0; 4096];
        let n = self.pipe.read(&mut buffer)?;
        self.bytes.extend_from_slice(&buffer[..n]);
        if n == 0 {
            return Ok(Next::End);
        }
        Ok(self.take_line().map_or(Next::Nothing, Next::Line))
    }

    /// Waits until the last process that has the stream is gone, so that none writes any more, though no longer than `patience`.
    fn drain(&mut self, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        while Instant::now() < until && !matches!(self.next(POLL)?, Next::End) {}
        Ok(())
    }

    /// The first whole line; of one that is overlong, its beginning.
    fn take_line(&mut self) -> Option<String> {
        let end = self.bytes.iter().position(|&b| b == b'\n');
        let end = end.or((self.bytes.len() > MAX_LINE_BYTES).then_some(MAX_LINE_BYTES))?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line[..end.min(KEPT_LINE_BYTES)]).into_owned())
    }
}

/// What mmdebstrap says went wrong: its errors, after the last lines of the program that failed below it; or else all of its last
/// lines.
fn complaint(last: &[String]) -> String {
    let lines: Vec<_> = last.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    let Some(first) = lines.iter().position(|line| line.starts_with("E: ")) else {
        return escape_controls(&lines.join("; "));
    };
    let (before, after) = lines.split_at(first);
    let own = |line: &&&str| ["I: ", "W: ", "done"].iter().any(|mark| line.starts_with(mark));
    let cause: Vec<_> = before.iter().rev().take_while(|line| !own(line)).take(CAUSE_LINES).collect();
    let errors = after.iter().filter(|line| line.starts_with("E: "));
    let told: Vec<_> = cause.into_iter().rev().chain(errors).copied().collect();
    escape_controls(&told.join("; "))
}

/// Kills everything that `pid` started. This user may: to the owner of a user namespace its processes are its own.
fn end_descendants(pid: Pid) {
    let number = pid.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
    let children = children.unwrap_or_default();
    for child in children.split_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)) {
        end_descendants(child);
        // It may have ended by itself meanwhile.
        let _ = kill_process(child, Signal::KILL);
    }
}

/// Sends the child `signal` when the thread that starts it ends (prctl(2), PR_SET_PDEATHSIG): a killed build goes on for nobody.
fn end_with_parent(command: &mut Command, signal: i32) {
    // SAFETY: the closure runs between fork and exec and only calls prctl, a plain system call.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, signal) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Removes the directory `scratch` of a killed run in a user namespace. Some of its files belong to users that only such a namespace
/// has, others to this user, whose files the namespace may not touch: so first the one, then the other.
pub fn remove_scratch(scratch: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(scratch) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let leftovers: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if !leftovers.is_empty() {
        let helper =
            Exec::new("mmdebstrap").args(["--unshare-helper", "rm", "-rf", "--one-file-system", "--"]);
        // It always leaves the topmost directories; whether all else is gone shows below.
        drop(helper.args(leftovers).output());
    }
    std::fs::remove_dir_all(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_begins_with_what_the_failed_program_said() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let said = lines(
            "I: running hook\nsh: 3: mount: not found\nE: command failed\nI: main() received\nE: mmdebstrap failed",
        );
        assert_eq!(complaint(&said), "sh: 3: mount: not found; E: command failed; E: mmdebstrap failed");
        assert_eq!(complaint(&lines("I: a\nE: b")), "E: b");
        assert_eq!(complaint(&lines("unshare: no\n")), "unshare: no");
    }
}
