//! Programs that work on bytes which nobody vouches for: between files, and ended by a signal.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Exec, ExecError, Output, Program, STDERR_TAIL, read_tail};
use crate::process::poll;
use crate::process::signal::Interrupts;

/// What a program reads and writes.
#[derive(Debug, Default)]
pub struct Held {
    /// Its stdin, from where the file stands; else what [`Exec::stdin`] gives.
    pub stdin: Option<File>,
    /// Its stdout; else it is kept, as far as [`Exec::stdout_limit`] allows.
    pub stdout: Option<File>,
}

/// What came first.
enum First {
    Ended(ExitStatus),
    Late,
    Signal(i32),
}

impl Exec {
    /// Runs it to its end, whatever its status; a signal that comes meanwhile ends it.
    ///
    /// # Errors
    /// Any [`ExecError`] but [`ExecError::Status`].
    pub fn run_held(self, held: Held, interrupts: &Interrupts) -> Result<Output, ExecError> {
        let limit = self.stdout_limit;
        let argv = self.shown();
        let stream = |source: io::Error| ExecError::Stream { argv: argv.clone(), source };
        let kept = match &held.stdout {
            Some(_) => None,
            None => Some(unnamed().map_err(stream)?),
        };
        let stdout = match (held.stdout, &kept) {
            (Some(file), _) => file.into(),
            (None, Some(file)) => file.try_clone().map_err(stream)?.into(),
            (None, None) => Stdio::null(),
        };
        let (mut program, _) = self.launch(held.stdin.map_or_else(Stdio::null, Stdio::from), stdout)?;
        let first = wait(&mut program.child, program.until, interrupts).map_err(stream);
        // Whatever came, it is gone before anything is made of it.
        drop(program.child.kill());
        drop(program.child.wait());
        let status = match first? {
            First::Ended(status) => status,
            First::Late => return Err(ExecError::Deadline { argv, limit: program.limit }),
            First::Signal(signal) => return Err(ExecError::Interrupted { argv, signal }),
        };
        // At a terminal the signal reaches it as well, and it may be gone first.
        if let Some(signal) = interrupts.pending().filter(|_| !status.success()) {
            return Err(ExecError::Interrupted { argv, signal });
        }
        let stdout = kept.map_or(Ok(Some(Vec::new())), |file| read(file, limit)).map_err(stream)?;
        let stdout = stdout.ok_or_else(|| ExecError::TooMuch { argv: argv.clone(), limit })?;
        Ok(Output { status, stdout, stderr: complaints(program).map_err(stream)? })
    }
}

impl Output {
    /// Its stdout where it succeeded; the error calls it `argv`.
    ///
    /// # Errors
    /// [`ExecError::Status`].
    pub fn success(self, argv: &str) -> Result<Vec<u8>, ExecError> {
        if self.status.success() {
            Ok(self.stdout)
        } else {
            Err(ExecError::Status { argv: argv.to_owned(), status: self.status, stderr: self.stderr })
        }
    }
}

/// A file that is gone with its last descriptor.
fn unnamed() -> io::Result<File> {
    Ok(rustix::fs::memfd_create(c"stdout", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

fn wait(child: &mut Child, until: Instant, interrupts: &Interrupts) -> io::Result<First> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let mut fds =
            [PollFd::new(&pidfd, PollFlags::IN), PollFd::from_borrowed_fd(interrupts.as_fd(), PollFlags::IN)];
        if poll::wait(&mut fds, Some(until))? == 0 && Instant::now() >= until {
            return Ok(First::Late);
        }
        if !fds[0].revents().is_empty() {
            return child.wait().map(First::Ended);
        }
        if let Some(signal) = interrupts.pending() {
            return Ok(First::Signal(signal));
        }
    }
}

fn read(mut file: File, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

fn complaints(mut program: Program) -> io::Result<String> {
    program.complaints.rewind()?;
    Ok(read_tail(&mut program.complaints, STDERR_TAIL))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_program_is_held_to_its_limits() {
        let interrupts = Interrupts::catch().unwrap();
        let run = |exec: Exec| exec.run_held(Held::default(), &interrupts);
        let output = run(Exec::new("cat").stdin("x")).unwrap();
        assert_eq!(output.success("cat").unwrap(), b"x");
        let limits = run(Exec::new("sh")
            .args(["-c", "ulimit -d; ulimit -f"])
            .memory_limit(64 << 20)
            .file_limit(2 << 20));
        let limits = String::from_utf8(limits.unwrap().stdout).unwrap();
        assert_eq!(limits.lines().next(), Some("65536"), "KiB");
        let late = run(Exec::new("sleep").arg("60").deadline(Duration::from_millis(50)));
        assert!(matches!(late, Err(ExecError::Deadline { .. })), "{late:?}");
        let much = run(Exec::new("echo").arg("many words").stdout_limit(4));
        assert!(matches!(much, Err(ExecError::TooMuch { limit: 4, .. })), "{much:?}");
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
        let ended = run(Exec::new("sleep").arg("60"));
        assert!(matches!(ended, Err(ExecError::Interrupted { signal: libc::SIGHUP, .. })), "{ended:?}");
        interrupts.release();
    }
}
