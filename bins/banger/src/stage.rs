//! Running one of the other programs as a process: a record in, a record or an error record out.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use banger_cli::{Failure, plumbing};
use banger_contract::record::MAX_RECORD_BYTES;
use banger_contract::types::{StateId, VmName};
use banger_contract::{Coded, Document, ErrorCode, ErrorRecord};
use banger_host::fs::fd;
use banger_host::process::exec::{Exec, ExecError, shell_status};
use banger_host::process::signal::{Ended, Interrupts, signal_group, signal_one};
use banger_netd::tag;
use banger_state::lock::LOCK_FD_VARIABLE;
use banger_state::lock::VmLock;
use nix::sys::signal::Signal;
use serde_json::Value;
use thiserror::Error;

use crate::context::{Context, ContextError, Result};
use crate::progress::{Channel, Progress};

/// How long an interrupted stage may take to undo what it did before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// The variable beside `--progress-fd`, for a program's children.
const PROGRESS_FD_VARIABLE: &str = "BANGER_PROGRESS_FD";

/// What goes wrong with a stage that says nothing itself.
#[derive(Debug, Error)]
pub enum StageError {
    #[error("cannot find banger's own programs")]
    Siblings(#[source] io::Error),
    #[error("cannot run a stage")]
    Exec(#[from] ExecError),
    #[error("cannot talk to {program}")]
    Talk {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} {verb} ended with status {status} and without a record")]
    NoRecord { program: String, verb: String, status: i32 },
    #[error("{program} needs root, and sudo asks for a password")]
    Sudo { program: String },
    #[error("{program} needs root, and there is no sudo")]
    NoSudo { program: String },
}

impl Coded for StageError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Siblings(_) | Self::NoRecord { .. } => ErrorCode::Bug,
            Self::Sudo { .. } | Self::NoSudo { .. } => ErrorCode::Denied,
            Self::Exec(ExecError::NotFound(_)) => ErrorCode::Unsupported,
            Self::Exec(_) | Self::Talk { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Sudo { .. } => {
                Some("run `sudo -v` first; a VM made with --net user needs no privilege".into())
            }
            Self::NoSudo { .. } => Some("be root; a VM made with --net user needs no privilege".into()),
            Self::Exec(ExecError::NotFound(_)) => {
                Some("install all of banger's programs in one directory".into())
            }
            _ => None,
        }
    }
}

/// The pipeline that a verb stands for, as a person would type it: the record of `vm` through `stages`.
pub fn pipeline<'a>(vm: &VmName, stages: impl IntoIterator<Item = &'a Stage>) -> String {
    let stages = stages.into_iter().map(|stage| format!(" | {}", stage.shown()));
    format!("banger vm show {vm} --record{}\n", stages.collect::<String>())
}

/// One program and verb, with its arguments.
#[derive(Debug, Clone)]
pub struct Stage {
    pub program: &'static str,
    pub args: Vec<OsString>,
    /// Whether it needs root.
    pub privileged: bool,
    /// Where it only removes: the state directory without whose links there is nothing to be root for.
    links_of: Option<StateId>,
    /// Whether it runs to its end whatever signal comes, as what cleans up must.
    pub steadfast: bool,
    /// Whether it runs in our process group, and so can read the terminal.
    in_our_group: bool,
    /// Whether it reads our stdin.
    reads_stdin: bool,
    /// A variable that is set for it, which nobody is shown.
    secret: Option<(&'static str, String)>,
}

impl Stage {
    pub fn new(program: &'static str, verb: &str) -> Self {
        let args = vec![verb.into()];
        Self {
            program,
            args,
            privileged: false,
            links_of: None,
            steadfast: false,
            in_our_group: false,
            reads_stdin: false,
            secret: None,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn privileged(mut self, needed: bool) -> Self {
        self.privileged = needed;
        self
    }

    /// Needs root only while links of `state` are there: whoever was refused a network has none to be refused the removal of.
    pub fn where_linked(mut self, state: &StateId) -> Self {
        self.links_of = Some(state.clone());
        self
    }

    /// Has Ctrl-C ignored while it runs: what removes a VM is bounded in time, and stopped half-way it would leave the rest.
    pub fn steadfast(mut self) -> Self {
        self.steadfast = true;
        self
    }

    /// Runs it in our own process group where `needed`: the terminal's signals then reach it as well.
    pub fn in_our_group(mut self, needed: bool) -> Self {
        self.in_our_group = needed;
        self
    }

    /// Gives it our stdin where `needed`, which is not a terminal then.
    pub fn with_stdin(mut self, needed: bool) -> Self {
        self.reads_stdin = needed;
        self
    }

    /// Sets a variable for it where there is a value. Unlike an argument no other user sees it.
    pub fn with_secret(mut self, name: &'static str, value: Option<String>) -> Self {
        self.secret = value.map(|value| (name, value));
        self
    }

    fn verb(&self) -> String {
        self.args[0].to_string_lossy().into_owned()
    }

    /// The command as a person would type it.
    pub fn shown(&self) -> String {
        let words =
            std::iter::once(OsStr::new(self.program)).chain(self.args.iter().map(OsString::as_os_str));
        let line = words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
        if self.through_sudo() { format!("sudo -n {line}") } else { line }
    }

    fn through_sudo(&self) -> bool {
        self.privileged
            && !rustix::process::geteuid().is_root()
            && self.links_of.as_ref().is_none_or(tag::any_link_of)
    }

    /// The process to be, in a process group of its own: Ctrl-C at the terminal reaches the dispatcher alone.
    pub fn command(&self) -> std::result::Result<Command, StageError> {
        let path = sibling(self.program)?;
        let mut command = if self.through_sudo() {
            let found = Exec::new("sudo").arg("-n").arg(path).args(&self.args).command();
            found.map_err(|_| StageError::NoSudo { program: self.program.to_owned() })?
        } else {
            Exec::new(path).args(&self.args).command()?
        };
        command.env(plumbing::DISPATCHED_VARIABLE, "1");
        command.envs(self.secret.clone());
        if !self.in_our_group {
            command.process_group(0);
        }
        Ok(command)
    }

    /// Runs it on `stdin` and gives the JSON it printed. An error record becomes the failure; a signal ends it.
    pub fn run(&self, context: &Context, stdin: &[u8], lock: Option<&VmLock>) -> Result<Value> {
        self.run_telling(context, stdin, lock, None)
    }

    /// The same for a program that takes long: what it tells of its progress is shown.
    pub fn run_long(self, context: &Context, message: &str) -> Result<Value> {
        let talk = |source| StageError::Talk { program: self.program.to_owned(), source };
        let channel = Channel::new().map_err(talk)?;
        let stage = self.clone().arg("--progress-fd").arg(channel.number().to_string());
        let progress = Progress::of_stage(context, message)?;
        stage.run_telling(context, b"", None, Some((channel, &progress)))
    }

    fn run_telling(
        &self,
        context: &Context,
        stdin: &[u8],
        lock: Option<&VmLock>,
        progress: Option<(Channel, &Progress)>,
    ) -> Result<Value> {
        let mut command = self.command()?;
        // A shell that sudo made has this for good. What root does there with its own VMs is not done for whoever called sudo; git, which
        // banger-ws runs, trusts that user's checkouts by it.
        if self.program != "banger-ws" && context.is_roots_own() {
            command.env_remove("SUDO_UID");
        }
        if let Some(lock) = lock.filter(|_| !self.through_sudo()) {
            fd::hand_down(&mut command, lock, LOCK_FD_VARIABLE);
        }
        if let Some((channel, _)) = &progress {
            fd::hand_down(&mut command, channel, PROGRESS_FD_VARIABLE);
        }
        let input = if self.reads_stdin { Stdio::inherit() } else { Stdio::piped() };
        command.stdin(input).stdout(Stdio::piped());
        let interrupts = context.interrupts()?;
        let spawn = |source| StageError::Talk { program: self.program.to_owned(), source };
        let mut child = command.spawn().map_err(spawn)?;
        let mut output = child.stdout.take().expect("piped");
        let input = child.stdin.take();
        let (bytes, ended) = std::thread::scope(|scope| {
            // A stage that does not read its input is judged by its status, so EPIPE is no error here.
            scope.spawn(move || input.map(|mut input| drop(input.write_all(stdin))));
            let reader = scope.spawn(move || {
                let mut bytes = Vec::new();
                output.by_ref().take(4 * MAX_RECORD_BYTES).read_to_end(&mut bytes).map(|_| bytes)
            });
            if let Some((channel, progress)) = progress {
                let lines = channel.into_lines();
                scope.spawn(move || lines.for_each(|message| progress.tell(context, &message)));
            }
            let ended = if self.steadfast {
                wait_whatever_comes(interrupts, &mut child)
            } else {
                wait(interrupts, &mut child, true)
            };
            (reader.join().expect("the reader does not panic"), ended)
        });
        let (status, signal) = ended.map_err(spawn)?;
        if let Some(signal) = signal {
            return Err(ContextError::Interrupted(signal).into());
        }
        self.judge(status, &bytes.map_err(spawn)?)
    }

    fn judge(&self, status: ExitStatus, bytes: &[u8]) -> Result<Value> {
        let value: Option<Value> = serde_json::from_slice(bytes).ok();
        match value {
            // A patch that lacks something is there all the same, and its record says what.
            Some(value) if status.success() || is_lossy(&value) => Ok(value),
            Some(value) if value["schema"] == banger_contract::error::ERROR_SCHEMA => {
                let record: std::result::Result<ErrorRecord, _> = serde_json::from_value(value);
                match record {
                    Ok(record) => Err(Failure::Passed(Box::new(record.error))),
                    Err(_) => Err(self.no_record(status).into()),
                }
            }
            _ if self.through_sudo() && status.code() == Some(1) => {
                Err(StageError::Sudo { program: self.program.to_owned() }.into())
            }
            _ => Err(self.no_record(status).into()),
        }
    }

    fn no_record(&self, status: ExitStatus) -> StageError {
        StageError::NoRecord {
            program: self.program.to_owned(),
            verb: self.verb(),
            status: shell_status(status),
        }
    }

    /// Runs it on a record and gives the record it printed.
    pub fn run_record(&self, context: &Context, document: &Document, lock: &VmLock) -> Result<Document> {
        let input = document.to_value().to_string();
        let output = self.run(context, input.as_bytes(), Some(lock))?;
        Ok(Document::parse(output.to_string().as_bytes())?)
    }
}

/// Whether a record is of a patch that lacks something.
fn is_lossy(record: &Value) -> bool {
    record["result"]["lost"].as_array().is_some_and(|lost| !lost.is_empty())
}

/// Waits for `child`. After a signal it, or its group if it leads one, gets SIGTERM, and SIGKILL when [`GRACE`] has passed; the
/// signal is given too.
pub fn wait(
    interrupts: &Interrupts,
    child: &mut Child,
    leads: bool,
) -> io::Result<(ExitStatus, Option<i32>)> {
    let signal = match interrupts.wait(child)? {
        Ended::Child(status) => return Ok((status, None)),
        Ended::Signal(signal) => signal,
    };
    let ended = end(child, leads);
    // timeout(1) signals its child and then the whole group. What came while the stage ended is the same interruption: it
    // must not end the undoing that follows.
    while interrupts.pending().is_some() {}
    ended.map(|status| (status, Some(signal)))
}

/// Ends `child`, and its group if it leads one: SIGTERM, and SIGKILL when [`GRACE`] has passed.
fn end(child: &mut Child, leads: bool) -> io::Result<ExitStatus> {
    let tell =
        |child: &Child, signal| if leads { signal_group(child, signal) } else { signal_one(child, signal) };
    tell(child, Signal::SIGTERM);
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    tell(child, Signal::SIGKILL);
    child.wait()
}

/// Waits for `child`; signals that come are taken and change nothing.
fn wait_whatever_comes(interrupts: &Interrupts, child: &mut Child) -> io::Result<(ExitStatus, Option<i32>)> {
    loop {
        if let Ended::Child(status) = interrupts.wait(child)? {
            return Ok((status, None));
        }
    }
}

/// The absolute path of a program that is installed beside this one.
fn sibling(program: &str) -> std::result::Result<PathBuf, StageError> {
    let own = std::env::current_exe().map_err(StageError::Siblings)?;
    Ok(own.with_file_name(program))
}
