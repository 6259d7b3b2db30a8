//! Commands in a VM, through banger-ws.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::Stdio;

use banger_cli::Failure;
use banger_contract::{Coded, Document, ErrorCode, ErrorRecord};
use banger_host::fs::fd;
use banger_host::process::exec::shell_status;
use banger_state::lock::SessionLock;
use banger_ws::cli::command::{CommandOptions, ENV_VARIABLE};
use banger_ws::guest::quote;
use serde_json::Value;
use thiserror::Error;

use crate::context::{self, Context, ContextError, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::space;
use crate::stage::{self, Stage, StageError};

/// The variable with the descriptor of the session lock: banger-ws holds it as long as it runs, also when `banger` is killed.
const SESSION_FD_VARIABLE: &str = "BANGER_SESSION_FD";

/// How long a guest's command may be, quoted: what libssh2 puts in one packet, less what runs it.
const MAX_COMMAND: usize = 24 << 10;

/// A command that cannot be sent.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error("the command is {0} bytes long; {MAX_COMMAND} is the most that can be sent")]
    TooLong(usize),
    #[error("the command's word {0:?} is not UTF-8, and can be sent to no guest")]
    OddWord(OsString),
}

impl Coded for CommandError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::TooLong(_)).then(|| "put it in a file that is tracked, and run that".into())
    }
}

/// What came back from a command in a guest.
#[derive(Debug)]
pub struct Ran {
    /// The guest command's own status, as the shell reports it; 125 where its patch lacks something.
    pub status: u8,
    /// The record with what banger-ws learned.
    pub document: Document,
}

/// A command that goes to a guest.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub options: &'a CommandOptions,
    pub words: &'a [OsString],
}

impl Wanted<'_> {
    /// The options for banger-ws, but for the environment, which arguments would show to all users of this host.
    fn options(&self, stage: Stage) -> Stage {
        let mut stage = stage;
        if let Some(dir) = &self.options.workdir {
            stage = stage.arg("--workdir").arg(dir);
        }
        if let Some(limit) = self.options.timeout {
            stage = stage.arg("--timeout").arg(format!("{}s", limit.as_secs_f64()));
        }
        if self.options.no_mise {
            stage = stage.arg("--no-mise");
        }
        if self.options.no_stdin {
            stage = stage.arg("--no-stdin");
        }
        stage
    }

    /// The stage as a person would type it.
    pub fn shown(&self, stage: Stage) -> String {
        let names = self.options.env.iter().map(|given| {
            let given = given.to_string_lossy();
            given.split('=').next().unwrap_or_default().to_owned()
        });
        let stage = names.fold(self.options(stage), |stage, name| stage.arg("--env").arg(name));
        let words = self.words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
        format!("{} -- {words}", stage.shown())
    }
}

/// Refuses a command that cannot be sent, or is too long for its way to the guest with all that belongs to it.
pub fn check_command(wanted: &Wanted<'_>) -> Result<()> {
    let words = utf8(wanted.words)?;
    let variables = wanted.options.variables()?;
    let workdir = wanted.options.checked_workdir()?;
    let values = words.iter().chain(variables.values()).chain(&workdir);
    let length =
        quote(values.map(String::as_str)).len() + variables.keys().map(|key| key.len() + 9).sum::<usize>();
    if length > MAX_COMMAND { Err(CommandError::TooLong(length).into()) } else { Ok(()) }
}

/// The words of a command, which a guest takes as UTF-8.
pub fn utf8(words: &[OsString]) -> Result<Vec<String>> {
    let text =
        |word: &OsString| word.to_str().map(str::to_owned).ok_or_else(|| CommandError::OddWord(word.clone()));
    Ok(words.iter().map(text).collect::<std::result::Result<_, _>>()?)
}

/// Runs a verb of banger-ws that runs a guest command: our streams are the command's (with `--json` its output is all on stderr), the
/// records come and go through files.
pub fn run_in_guest(
    context: &Context,
    stage: Stage,
    wanted: &Wanted<'_>,
    document: &Document,
    session: Option<&SessionLock>,
) -> Result<Ran> {
    let vm = document.vm()?;
    let talk = |source| StageError::Talk { program: stage.program.to_owned(), source };
    let text = document.to_value().to_string();
    let files = |dir: &Path| {
        let file = || tempfile::Builder::new().prefix(".run-").tempfile_in(dir);
        let (mut input, record) = (file()?, file()?);
        input.write_all(text.as_bytes()).map(|()| (input, record))
    };
    // Where the VM's own filesystem is full, it is all the more important to get in.
    let (input, record) =
        files(Path::new(&vm.paths.dir)).or_else(|_| files(&std::env::temp_dir())).map_err(talk)?;
    let program = stage.program;
    let stage = wanted.options(stage).arg("--input").arg(input.path());
    let stage = wanted.words.iter().fold(stage.arg("--record").arg(record.path()).arg("--"), Stage::arg);
    // Who reads a terminal must be in its foreground group, which is ours, or be stopped (termios(3), SIGTTIN).
    let reads_terminal = !wanted.options.no_stdin && io::stdin().is_terminal();
    let mut process = stage.in_our_group(reads_terminal).command()?;
    if let Some(session) = session {
        fd::hand_down(&mut process, session, SESSION_FD_VARIABLE);
    }
    let variables = serde_json::to_string(&wanted.options.variables()?).expect("a map of strings");
    process.env(ENV_VARIABLE, variables);
    process.stdin(if wanted.options.no_stdin { Stdio::null() } else { Stdio::inherit() });
    if context.json {
        process.stdout(io::stderr());
    }
    let interrupts = context.interrupts()?;
    let mut child = process.spawn().map_err(talk)?;
    let (status, signal) = stage::wait(interrupts, &mut child, !reads_terminal).map_err(talk)?;
    if let Some(signal) = signal {
        let command_ran = may_have_run(record.path());
        return Err(ContextError::CommandInterrupted { vm: vm.name.to_string(), signal, command_ran }.into());
    }
    if !status.success() {
        space::explain(context, &vm);
    }
    let bytes = match fs::read(record.path()) {
        // It goes with the VM.
        Err(_) if !lifecycle::runs(&vm) => return Err(LifecycleError::Gone(vm.name.to_string()).into()),
        read => read.map_err(talk)?,
    };
    if let Ok(record) = serde_json::from_slice::<ErrorRecord>(&bytes) {
        return Err(Failure::Passed(Box::new(record.error)));
    }
    let status = shell_status(status);
    let no_record = StageError::NoRecord { program: program.to_owned(), verb: "run".into(), status };
    let document = Document::parse(&bytes).map_err(|_| no_record)?;
    let outcome = document.outcome()?.unwrap_or_default();
    let exit_code = outcome.exit_code.filter(|_| !outcome.is_lossy());
    Ok(Ran { status: exit_code.unwrap_or(context::OWN_FAILURE), document })
}

/// Whether the guest's command has begun, by what banger-ws wrote to `record` when it was interrupted: where it wrote nothing, it may have.
fn may_have_run(record: &Path) -> bool {
    let record = fs::read(record).ok().and_then(|bytes| serde_json::from_slice::<ErrorRecord>(&bytes).ok());
    record.is_none_or(|record| record.error.details.get("command_ran") != Some(&Value::Bool(false)))
}
