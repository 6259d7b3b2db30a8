//! What every verb needs: the state directory, how to talk to people, what to do about Ctrl-C.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use banger_cli::{Failure, plumbing};
use banger_contract::config::Config;
use banger_contract::error::{Fault, OWN_FAILURE_STATUS, escape_controls};
use banger_contract::{Coded, ErrorCode};
use banger_host::process::signal::Interrupts;
use banger_state::dir::StateDir;
use clap::Args;
use serde_json::Value;
use thiserror::Error;

use crate::settings;

/// The status for any failure of banger's own in `vm run` and `vm exec`.
pub const OWN_FAILURE: u8 = OWN_FAILURE_STATUS;

pub type Result<T> = std::result::Result<T, Failure>;

/// What goes wrong before or between the stages.
#[derive(Debug, Error)]
pub enum ContextError {
    #[error("there is no place for the state: neither --state-dir, XDG_STATE_HOME nor HOME is set")]
    NoStateDir,
    #[error("the state directory {0:?} is not an absolute path and the working directory cannot be found")]
    RelativeStateDir(PathBuf, #[source] io::Error),
    #[error("the state directory {0:?} has a name that is not UTF-8, which records cannot hold")]
    OddStateDir(PathBuf),
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
    #[error("interrupted by signal {0}; what had been made was removed")]
    Interrupted(i32),
    #[error("interrupted by signal {signal}; the command in {vm} was told to end")]
    CommandInterrupted { vm: String, signal: i32, command_ran: bool },
    #[error("{0}")]
    Tty(&'static str),
    #[error("{0} stands for no pipeline of programs")]
    NoPipeline(&'static str),
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    #[error("ssh failed: {0}")]
    Ssh(String),
}

impl Coded for ContextError {
    fn details(&self) -> serde_json::Map<String, Value> {
        match self {
            Self::Interrupted(signal) => [("signal".to_owned(), Value::from(*signal))].into_iter().collect(),
            Self::CommandInterrupted { signal, command_ran, .. } => {
                let facts = [("signal", Value::from(*signal)), ("command_ran", Value::from(*command_ran))];
                facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            }
            _ => serde_json::Map::new(),
        }
    }
    fn code(&self) -> ErrorCode {
        match self {
            Self::NoStateDir | Self::RelativeStateDir(..) | Self::OddStateDir(_) => ErrorCode::Usage,
            Self::Signals(_) | Self::Stdout(_) | Self::Ssh(_) => ErrorCode::Failed,
            Self::Interrupted(_) | Self::CommandInterrupted { .. } => ErrorCode::Interrupted,
            Self::Tty(_) | Self::NoPipeline(_) => ErrorCode::Usage,
        }
    }
    fn hint(&self) -> Option<String> {
        let of_place = matches!(self, Self::NoStateDir | Self::RelativeStateDir(..) | Self::OddStateDir(_));
        of_place.then(|| "give --state-dir DIR".into())
    }
}

/// The options that every verb has.
#[derive(Debug, Args)]
pub struct Globals {
    /// Where banger keeps its state [default: $XDG_STATE_HOME/banger, for root /var/lib/banger]
    #[arg(long, global = true, env = "BANGER_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// The configuration file [default: $XDG_CONFIG_HOME/banger/config.toml, for root /etc/banger/config.toml]
    #[arg(long, global = true, env = "BANGER_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print one JSON record instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Print the pipeline of programs that the verb stands for, and do nothing
    #[arg(long, global = true)]
    pub explain: bool,
}

/// What every verb needs.
#[derive(Debug)]
pub struct Context {
    pub state: StateDir,
    pub json: bool,
    pub explain: bool,
    pub config: Config,
    interrupts: OnceLock<Interrupts>,
}

impl Context {
    pub fn new(globals: &Globals) -> Result<Self> {
        let usual = || StateDir::default_root(rustix::process::geteuid().is_root(), plumbing::directory_of);
        let root = globals.state_dir.clone().or_else(usual).ok_or(ContextError::NoStateDir)?;
        let root = std::path::absolute(&root).map_err(|e| ContextError::RelativeStateDir(root, e))?;
        if root.to_str().is_none() {
            return Err(ContextError::OddStateDir(root).into());
        }
        let (state, config) = (StateDir::at(root), settings::load(globals)?.config);
        let (json, explain) = (globals.json, globals.explain);
        Ok(Self { state, json, explain, config, interrupts: OnceLock::new() })
    }

    /// From the first call on, Ctrl-C is something that stages are ended for and undone, not the end of this process.
    pub fn interrupts(&self) -> Result<&Interrupts> {
        if self.interrupts.get().is_none() {
            let caught = Interrupts::catch().map_err(ContextError::Signals)?;
            drop(self.interrupts.set(caught));
        }
        Ok(self.interrupts.get().expect("it was just set"))
    }

    /// Whether this is root, with a state directory of its own: its VMs are root's, whoever became root to make them.
    pub fn is_roots_own(&self) -> bool {
        let owner = std::fs::metadata(self.state.root()).map(|metadata| metadata.uid());
        rustix::process::geteuid().is_root() && owner.is_ok_and(|uid| uid == 0)
    }

    /// One line for people, on stderr, control characters escaped.
    pub fn say(&self, line: impl AsRef<str>) {
        // With nobody to read stderr there is nobody to tell about it.
        drop(writeln!(io::stderr(), "banger: {}", escape_controls(line.as_ref())));
    }
}

/// Tells people of a failure where no program has told them yet, and gives its fault: for one that goes on as [`Failure::Passed`].
pub fn tell(failure: Failure, verb: &str) -> Fault {
    let told = matches!(failure, Failure::Passed(_));
    let fault = failure.into_fault("banger", verb);
    if !told {
        drop(writeln!(io::stderr(), "banger: {}", fault.human_line()));
    }
    fault
}

/// Whether what was written to stdout has arrived; `false` where nobody reads.
pub fn arrived(written: io::Result<()>) -> Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ContextError::Stdout(error).into()),
        Ok(()) => Ok(true),
    }
}

/// Prints text for people on stdout.
pub fn print(text: &str) -> ExitCode {
    plumbing::print(text)
}

/// Prints one record on stdout.
pub fn emit(value: &Value) -> ExitCode {
    plumbing::emit(value)
}

/// Reports a failure: one line for people on stderr, and with `--json` the error record on stdout.
pub fn report(failure: Failure, verb: &str, json: bool) -> ExitCode {
    let fault = tell(failure, verb);
    let guest_verb = matches!(verb, "vm run" | "vm exec");
    let signal = fault.details.get("signal").and_then(Value::as_u64).and_then(|n| u8::try_from(n).ok());
    let status = match (fault.code, signal) {
        // As the shell reports a program that Ctrl-C ended.
        (ErrorCode::Interrupted, Some(signal @ 1..=64)) if guest_verb => 128 + signal,
        _ if guest_verb => OWN_FAILURE,
        (code, _) => code.exit_status(),
    };
    // `vm plan` begins a pipeline, so its failure must be a record too.
    if json || verb == "vm plan" {
        let record = banger_contract::ErrorRecord::new(fault);
        plumbing::emit(&serde_json::to_value(record).expect("an error record has string keys only"));
    }
    ExitCode::from(status)
}
