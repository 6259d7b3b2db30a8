//! Where the record of a verb goes whose stdout may belong to something else: a guest command's output, or a patch.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;

use crate::guest::{Output, OutputInterrupted};
use banger_cli::{Failure, plumbing};
use banger_contract::ErrorRecord;
use banger_contract::error::OWN_FAILURE_STATUS;
use banger_host::fs::atomic;
use banger_host::process::signal::Interrupts;

/// Where a record goes.
#[derive(Debug, Clone)]
pub enum RecordTo {
    /// To stdout.
    Stdout,
    /// To a file.
    File(PathBuf),
    /// Nowhere: stdout holds a patch and no file was given.
    Nowhere,
}

impl RecordTo {
    /// Delivers `value`; a file is replaced as a whole, a device or pipe written to.
    pub fn deliver(&self, value: &Value) -> Result<(), Failure> {
        let text = format!("{value}\n");
        match self {
            Self::Stdout => {
                // The caller's status still stands.
                plumbing::print(&text);
            }
            Self::File(path) if atomic::is_special(path) => atomic::write_through(path, text.as_bytes())?,
            Self::File(path) => atomic::write(&atomic::place_of(path), text.as_bytes(), 0o644)?,
            Self::Nowhere => {}
        }
        Ok(())
    }

    /// Reports a failure: one line on stderr, the error record here. Exits with 125 where `own` says that the status is otherwise a
    /// guest command's; `command_ran` tells machines whether that command may have run.
    pub fn fail(&self, failure: Failure, tool: &str, verb: &str, own: bool, command_ran: bool) -> ExitCode {
        let told = matches!(failure, Failure::Passed(_));
        let mut fault = failure.into_fault(tool, verb);
        if own {
            fault.details.insert("command_ran".into(), command_ran.into());
        }
        if !told {
            plumbing::tell(tool, &fault);
        }
        let status = if own { OWN_FAILURE_STATUS } else { fault.code.exit_status() };
        let record =
            serde_json::to_value(ErrorRecord::new(fault)).expect("an error record has string keys only");
        match self.deliver(&record) {
            Ok(()) => {}
            // The directory of the VM that is gone, most likely: `banger` sees that there is no record, and stdout is the command's.
            Err(_) if plumbing::is_dispatched() => {}
            Err(failure) => drop(plumbing::fail(failure, tool, verb)),
        }
        ExitCode::from(status)
    }
}

/// A guest command's output, passed on live and as it is.
pub struct Live<'a> {
    interrupts: &'a Interrupts,
    stdout_to_stderr: bool,
    on_ready: Option<Box<dyn FnOnce() + 'a>>,
}

impl std::fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("stdout_to_stderr", &self.stdout_to_stderr).finish_non_exhaustive()
    }
}

impl<'a> Live<'a> {
    /// To our stdout and stderr, or all to stderr. `on_ready` is called when the command begins.
    pub fn new(interrupts: &'a Interrupts, stdout_to_stderr: bool, on_ready: impl FnOnce() + 'a) -> Self {
        Self { interrupts, stdout_to_stderr, on_ready: Some(Box::new(on_ready)) }
    }
}

impl Output for Live<'_> {
    fn ready(&mut self) {
        if let Some(act) = self.on_ready.take() {
            act();
        }
    }
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fd = if self.stdout_to_stderr { rustix::stdio::stderr() } else { rustix::stdio::stdout() };
        write_all(fd, bytes, self.interrupts)
    }
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all(rustix::stdio::stderr(), bytes, self.interrupts)
    }
}

/// Writes all of `bytes` to `fd`; a signal ends it, even while the reader does not read: pipe(7) promises that a pipe that polls
/// writable takes PIPE_BUF bytes without blocking.
pub fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], interrupts: &Interrupts) -> io::Result<()> {
    const PIPE_BUF: usize = 4096;
    let mut left = bytes;
    while !left.is_empty() {
        let signals = interrupts.as_fd();
        let mut fds =
            [PollFd::from_borrowed_fd(fd, PollFlags::OUT), PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if let Some(signal) = interrupts.pending() {
            return Err(io::Error::other(OutputInterrupted(signal)));
        }
        match rustix::io::write(fd, &left[..left.len().min(PIPE_BUF)]) {
            Ok(count) => left = &left[count..],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The directory that a file of the user's is in.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
