//! The one place that starts programs: argv as a list, null stdin unless given, `LC_ALL=C.UTF-8`, a bounded tail of
//! stderr, a deadline. An error carries the program, its arguments and how it ended.

mod held;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

pub use held::Held;

use super::sealed::{self, Untrusted};
use super::signal;
use banger_contract::error::escape_controls;

/// How much of a program's stderr an error keeps, bytes.
const STDERR_TAIL: usize = 4096;

/// The largest stdout that [`Exec::run`] keeps unless told otherwise, bytes.
const STDOUT_LIMIT: usize = 64 << 20;

/// A program that could not be run, or that ran and failed.
#[derive(Debug, Error)]
pub enum ExecError {
    /// It is not installed.
    #[error("{0} is not installed or not in PATH")]
    NotFound(String),
    /// Others than root could have made it what it is.
    #[error("{program} is not run as root")]
    Untrusted {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: Untrusted,
    },
    /// It could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with another status than 0.
    #[error("{argv} ended with {status}{}", tail(.stderr))]
    Status {
        /// The program and its arguments, for people.
        argv: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its stderr, escaped.
        stderr: String,
    },
    /// It ran longer than it may and was killed.
    #[error("{argv} did not end within {} s and was killed", .limit.as_secs_f32())]
    Deadline {
        /// The program and its arguments, for people.
        argv: String,
        /// Its deadline.
        limit: Duration,
    },
    /// A signal came while it ran; it was killed.
    #[error("{argv} was ended, since signal {signal} came")]
    Interrupted {
        /// The program and its arguments, for people.
        argv: String,
        /// The signal's number.
        signal: i32,
    },
    /// Its stdout is larger than expected.
    #[error("{argv} printed more than {limit} bytes")]
    TooMuch {
        /// The program and its arguments, for people.
        argv: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// Reading or writing its streams failed.
    #[error("cannot talk to {argv}")]
    Stream {
        /// The program and its arguments, for people.
        argv: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// How a program ended that was allowed to fail.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// The end of its stderr, escaped.
    pub stderr: String,
}

/// A program about to be run.
#[derive(Debug)]
pub struct Exec {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_remove: Vec<OsString>,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    deadline: Duration,
    stdout_limit: usize,
    stderr_limit: usize,
    dies_with_us: bool,
    memory_limit: Option<u64>,
    file_limit: Option<u64>,
}

impl Exec {
    /// `program` by name (looked up in PATH, then in the directories of system tools) or by path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            env_remove: Vec::new(),
            dir: None,
            stdin: None,
            deadline: Duration::from_secs(60),
            stdout_limit: STDOUT_LIMIT,
            stderr_limit: STDERR_TAIL,
            dies_with_us: false,
            memory_limit: None,
            file_limit: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Removes a variable from its environment.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env_remove.push(key.as_ref().to_owned());
        self
    }

    /// Its working directory.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Its stdin; null otherwise.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may run; 60 s otherwise.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// How much it may print, bytes; 64 MiB otherwise.
    pub fn stdout_limit(mut self, bytes: usize) -> Self {
        self.stdout_limit = bytes;
        self
    }

    /// How much of the end of its stderr is kept, bytes; 4 KiB otherwise.
    pub fn stderr_limit(mut self, bytes: usize) -> Self {
        self.stderr_limit = bytes;
        self
    }

    /// Has it killed when this process is: what it changes is guarded by a lock that goes with this process. ([`Self::start`] always
    /// does so.)
    pub fn dies_with_us(mut self) -> Self {
        self.dies_with_us = true;
        self
    }

    /// How much memory of its own it may have, bytes (`RLIMIT_DATA`).
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// How large a file it may write, bytes (`RLIMIT_FSIZE`).
    pub fn file_limit(mut self, bytes: u64) -> Self {
        self.file_limit = Some(bytes);
        self
    }

    /// The program and its arguments, for people: escaped and cut.
    fn shown(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        let line = words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let cut: String = line.chars().take(300).collect();
        escape_controls(&cut)
    }

    /// The command with everything but its streams, for callers who need to hold the process themselves.
    ///
    /// # Errors
    /// [`ExecError::NotFound`].
    pub fn command(&self) -> Result<Command, ExecError> {
        let program = self.program.to_string_lossy().into_owned();
        let path = if sealed::is_sealed() && !is_path(&self.program) {
            let untrusted = |source| ExecError::Untrusted { program: program.clone(), source };
            sealed::program(&self.program).map_err(untrusted)?
        } else {
            find_program(&self.program)
        };
        let path = path.ok_or(ExecError::NotFound(program))?;
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let mut command = Command::new(path);
        command.arg0(&self.program).args(&self.args).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        for (key, value) in &self.env {
            command.env(key, value);
        }
        for key in &self.env_remove {
            command.env_remove(key);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        signal::unblock_in_child(&mut command);
        let limits = [(libc::RLIMIT_DATA, self.memory_limit), (libc::RLIMIT_FSIZE, self.file_limit)];
        for (resource, limit) in limits {
            if let Some(limit) = limit {
                super::child::limit(&mut command, resource, limit);
            }
        }
        Ok(command)
    }

    /// Runs it to its end and gives its stdout.
    ///
    /// # Errors
    /// Any [`ExecError`]; a status other than 0 is one.
    pub fn run(self) -> Result<Vec<u8>, ExecError> {
        let shown = self.shown();
        let output = self.output()?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(ExecError::Status { argv: shown, status: output.status, stderr: output.stderr })
        }
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// Any [`ExecError`] but [`ExecError::Status`].
    pub fn output(mut self) -> Result<Output, ExecError> {
        let argv = self.shown();
        let stdin = self.stdin.take();
        let mut command = self.command()?;
        command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.dies_with_us {
            super::child::die_with_parent(&mut command);
        }
        let program = self.program.to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|source| ExecError::Spawn { program, source })?;
        let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let input = child.stdin.take();
        let (limit, kept) = (self.stdout_limit, self.stderr_limit);
        // One thread per stream: a program that fills one pipe while we wait on another must not hang.
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                if let (Some(mut pipe), Some(bytes)) = (input, stdin) {
                    // A program that does not read its input is judged by its status, so EPIPE is no error here.
                    drop(pipe.write_all(&bytes));
                }
            });
            let reader = scope.spawn(move || read_limited(&mut out, limit));
            let complaints = scope.spawn(move || read_tail(&mut err, kept));
            let status = wait_until(&mut child, Instant::now() + self.deadline);
            let stdout = reader.join().expect("the reader does not panic");
            let stderr = complaints.join().expect("the reader does not panic");
            writer.join().expect("the writer does not panic");
            let stream = |source| ExecError::Stream { argv: argv.clone(), source };
            let Some(status) = status.map_err(stream)? else {
                return Err(ExecError::Deadline { argv: argv.clone(), limit: self.deadline });
            };
            let Some(stdout) = stdout.map_err(stream)? else {
                return Err(ExecError::TooMuch { argv: argv.clone(), limit });
            };
            Ok(Output { status, stdout, stderr })
        })
    }
}

impl Exec {
    /// Starts it and lets it run beside us, its stdout dropped. It is killed when the result is dropped or this process ends. Its
    /// stdin must fit a pipe (64 KiB).
    ///
    /// # Errors
    /// Any [`ExecError`] but [`ExecError::Status`].
    pub fn start(self) -> Result<Running, ExecError> {
        let (last, _) = self.launch(Stdio::null(), Stdio::null())?;
        Ok(Running { programs: vec![last] })
    }

    /// Like [`Self::start`], with `file` as its stdin.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_reading(self, file: File) -> Result<Running, ExecError> {
        let (last, _) = self.launch(file.into(), Stdio::null())?;
        Ok(Running { programs: vec![last] })
    }

    /// Like [`Self::start`], with its stdout as the stdin of `next`, which is started as well.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_into(self, next: Self) -> Result<Running, ExecError> {
        let (first, stdout) = self.launch(Stdio::null(), Stdio::piped())?;
        // It is killed if the next cannot be started.
        let mut running = Running { programs: vec![first] };
        let (last, _) = next.launch(stdout.map_or_else(Stdio::null, Stdio::from), Stdio::null())?;
        running.programs.push(last);
        Ok(running)
    }

    /// Like [`Self::start`], with both its stdin and its stdout as pipes of ours: it answers what it is asked later.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_serving(self) -> Result<(Running, ChildStdin, ChildStdout), ExecError> {
        let (mut last, stdout) = self.launch(Stdio::piped(), Stdio::piped())?;
        let stdin = last.child.stdin.take().expect("piped");
        Ok((Running { programs: vec![last] }, stdin, stdout.expect("piped")))
    }

    fn launch(mut self, stdin: Stdio, stdout: Stdio) -> Result<(Program, Option<ChildStdout>), ExecError> {
        let argv = self.shown();
        let bytes = self.stdin.take();
        let mut command = self.command()?;
        command.stdin(if bytes.is_some() { Stdio::piped() } else { stdin });
        let program = self.program.to_string_lossy().into_owned();
        let spawn = |source| ExecError::Spawn { program: program.clone(), source };
        // A file and not a thread that reads a pipe: who confines itself meanwhile must have no thread that is not confined.
        let complaints = rustix::fs::memfd_create(c"stderr", rustix::fs::MemfdFlags::CLOEXEC);
        let complaints = File::from(complaints.map_err(|e| spawn(e.into()))?);
        command.stdout(stdout).stderr(complaints.try_clone().map_err(spawn)?);
        super::child::die_with_parent(&mut command);
        let mut child = command.spawn().map_err(spawn)?;
        let out = child.stdout.take();
        if let Some(bytes) = bytes
            && let Some(mut pipe) = child.stdin.take()
        {
            // As in `output`: one that does not read it is judged by its status.
            drop(pipe.write_all(&bytes));
        }
        let until = Instant::now() + self.deadline;
        Ok((Program { child, argv, complaints, until, limit: self.deadline }, out))
    }
}

/// One program of a [`Running`].
#[derive(Debug)]
struct Program {
    child: Child,
    argv: String,
    complaints: File,
    until: Instant,
    limit: Duration,
}

/// Programs that run beside us.
#[derive(Debug)]
pub struct Running {
    programs: Vec<Program>,
}

impl Running {
    /// Waits for their end.
    ///
    /// # Errors
    /// That of the first that failed.
    pub fn wait(mut self) -> Result<(), ExecError> {
        let mut failed = None;
        for mut program in std::mem::take(&mut self.programs) {
            let ended = wait_until(&mut program.child, program.until);
            let (argv, mut complaints) = (program.argv, program.complaints);
            let stderr = complaints
                .rewind()
                .map_or_else(|_| String::new(), |()| read_tail(&mut complaints, STDERR_TAIL));
            let error = match ended {
                Ok(Some(status)) if status.success() => continue,
                Ok(Some(status)) => ExecError::Status { argv, status, stderr },
                Ok(None) => ExecError::Deadline { argv, limit: program.limit },
                Err(source) => ExecError::Stream { argv, source },
            };
            failed.get_or_insert(error);
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for program in &mut self.programs {
            drop(program.child.kill());
            drop(program.child.wait());
        }
    }
}

/// Whether `program` says where it is.
fn is_path(program: &OsStr) -> bool {
    Path::new(program).components().nth(1).is_some()
}

/// Where `program` is: itself if it is a path, else the first hit in PATH, then in the directories that hold system tools
/// and that an ordinary user's PATH may lack.
pub fn find_program(program: &OsStr) -> Option<PathBuf> {
    which::which(program)
        .ok()
        .or_else(|| which::which_in(program, Some("/usr/sbin:/sbin:/usr/local/sbin"), "/").ok())
}

/// All of `stream`, or `None` once it is longer than `limit`; the rest is drained so that the program can end.
fn read_limited(stream: &mut impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    stream.by_ref().take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        io::copy(stream, &mut io::sink())?;
        return Ok(None);
    }
    Ok(Some(bytes))
}

/// The last `limit` bytes of `stream`, escaped, lines joined by "; ".
fn read_tail(stream: &mut impl Read, limit: usize) -> String {
    let mut tail = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        tail.extend_from_slice(&buffer[..n]);
        let excess = tail.len().saturating_sub(limit);
        tail.drain(..excess);
    }
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    escape_controls(&lines.join("; "))
}

/// Waits for `child`; kills it at `until` and gives `None`.
fn wait_until(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The exit status that a shell would report: 128+n for a signal.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_in_both_directions_do_not_deadlock() {
        let input = vec![b'x'; 4 << 20];
        let output = Exec::new("cat").stdin(input.clone()).run().unwrap();
        assert_eq!(output, input);
    }

    #[test]
    fn programs_begin_with_no_signal_blocked() {
        let said = std::thread::spawn(|| {
            let _interrupts = signal::Interrupts::catch().unwrap();
            Exec::new("grep").args(["SigBlk", "/proc/self/status"]).run().unwrap()
        });
        assert_eq!(String::from_utf8(said.join().unwrap()).unwrap(), "SigBlk:\t0000000000000000\n");
    }

    #[test]
    fn failures_name_the_program_and_how_it_ended() {
        let error = Exec::new("sh").args(["-c", "echo 'a\tb' >&2; exit 3"]).run().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("a\\tb"), "{error}");
        let error = Exec::new("sleep").arg("9").deadline(Duration::from_millis(50)).run().unwrap_err();
        assert!(matches!(error, ExecError::Deadline { .. }), "{error}");
        let error = Exec::new("no-such-program-here").run().unwrap_err();
        assert!(matches!(error, ExecError::NotFound(_)), "{error}");
        let error = Exec::new("head").args(["-c", "2000", "/dev/zero"]).stdout_limit(1000).run().unwrap_err();
        assert!(matches!(error, ExecError::TooMuch { .. }), "{error}");
    }

    #[test]
    fn programs_beside_us_are_waited_for_or_killed() {
        Exec::new("cat").stdin("x").start().unwrap().wait().unwrap();
        let both = Exec::new("echo").arg("x").start_into(Exec::new("grep").arg("y")).unwrap();
        assert!(both.wait().unwrap_err().to_string().contains("grep y"));
        let error = Exec::new("sleep").arg("9").deadline(Duration::from_millis(50)).start().unwrap().wait();
        assert!(matches!(error, Err(ExecError::Deadline { .. })), "{error:?}");
        let before = Instant::now();
        drop(Exec::new("sleep").arg("60").start().unwrap());
        assert!(before.elapsed() < Duration::from_secs(45));
    }
}
