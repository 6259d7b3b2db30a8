//! What every plumbing program does: parse, read the record, run one verb, print exactly one record, exit.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::{Failure, generate};
use banger_contract::record::{MAX_RECORD_BYTES, VM_SCHEMA};
use banger_contract::reply::{VERSION_SCHEMA, Version};
use banger_contract::{Coded, Document, ErrorCode, ErrorRecord, Fault, error};
use banger_host::clock::Timeline;
use banger_host::process::sealed;
use banger_host::process::signal;

/// The variable that says that `banger` runs this program: of an interruption it tells itself, once.
pub const DISPATCHED_VARIABLE: &str = "BANGER_DISPATCHED";

/// All of the environment that a program uses which runs as root, beside sudo's word on who called.
const KEPT: [&str; 2] = ["SUDO_UID", DISPATCHED_VARIABLE];

/// Makes a program that runs as root, on whoever's behalf, one that takes nothing from its environment: see [`sealed`]. First thing in
/// `main`.
pub fn seal_if_root() {
    if rustix::process::geteuid().is_root() {
        sealed::seal(&KEPT).expect("there is memory for three variables");
    }
}

/// Whether `banger` runs this program.
pub fn is_dispatched() -> bool {
    std::env::var_os(DISPATCHED_VARIABLE).is_some()
}

/// The directory that a variable names; one that is not absolute counts as unset (XDG Base Directory Specification).
pub fn directory_of(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// One line for people on stderr: what `tool` failed at.
pub fn tell(tool: &str, fault: &Fault) {
    if fault.code != ErrorCode::Interrupted || !is_dispatched() {
        drop(writeln!(io::stderr(), "{tool}: {}", fault.human_line()));
    }
}

/// Where a verb's record comes from.
#[derive(Debug, clap::Args)]
pub struct Input {
    /// Read the record from FILE instead of stdin ("-")
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
}

/// Why there is no record to work on.
#[derive(Debug, Error)]
pub enum InputError {
    /// A person sits at stdin.
    #[error("stdin is a terminal, and this verb reads a record from it")]
    Terminal,
    /// A file is named to a program that runs as root, perhaps by somebody who could not open it.
    #[error("as root this verb reads its record from stdin alone, and opens no file that it is told of")]
    Privileged,
    /// Stdin or the file cannot be read.
    #[error("cannot read the record from {path:?}")]
    Read {
        /// The file, `-` for stdin.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stage before this one failed, and did not say how in the form that it should.
    #[error("the program before this one failed, and what it says of that is not a valid error record{}", said(.message))]
    ErrorRecord {
        /// Its message, where there is one.
        message: Option<String>,
        /// What is wrong with the record.
        #[source]
        source: serde_json::Error,
    },
}

/// What a program says of its failure, cut, for people.
fn said(message: &Option<String>) -> String {
    message
        .as_ref()
        .map_or_else(String::new, |text| format!(" ({:?})", text.chars().take(300).collect::<String>()))
}

impl Coded for InputError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Terminal | Self::Privileged => ErrorCode::Usage,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            Self::Read { .. } | Self::ErrorRecord { .. } => ErrorCode::BadInput,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Terminal => Some("pipe a record in, or give --input FILE".into()),
            Self::Privileged => Some("leave out --input, and have the shell open it: < FILE".into()),
            Self::ErrorRecord { .. } => {
                Some("mend that failure first; its own words are above, on stderr".into())
            }
            Self::Read { .. } => None,
        }
    }
}

/// Wrong arguments, in clap's words.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl Coded for UsageError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
    fn hint(&self) -> Option<String> {
        Some("--help shows how".into())
    }
}

impl Input {
    /// Whether the record comes on stdin.
    pub fn is_stdin(&self) -> bool {
        self.input == Path::new("-")
    }

    /// The bytes of the input, at most one more than [`MAX_RECORD_BYTES`].
    pub fn read(&self) -> Result<Vec<u8>, InputError> {
        let error = |source| InputError::Read { path: self.input.clone(), source };
        let mut bytes = Vec::new();
        if self.is_stdin() {
            if io::stdin().is_terminal() {
                return Err(InputError::Terminal);
            }
            io::stdin().lock().take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
        } else if sealed::is_sealed() {
            return Err(InputError::Privileged);
        } else {
            let file = File::open(&self.input).map_err(error)?;
            file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
        }
        Ok(bytes)
    }

    /// The bytes of the input. The error record of a failed stage before this one becomes this verb's failure.
    pub fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let bytes = self.read()?;
        match passed_on(&bytes)? {
            Some(fault) => Err(Failure::Passed(Box::new(fault))),
            None => Ok(bytes),
        }
    }

    /// The record. The error record of a failed stage before this one becomes this verb's failure.
    pub fn document(&self) -> Result<Document, Failure> {
        Ok(Document::parse(&self.bytes()?)?)
    }
}

/// The fault in `bytes` where they are an error record.
fn passed_on(bytes: &[u8]) -> Result<Option<Fault>, InputError> {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Ok(None) };
    if value.get("schema").and_then(Value::as_str) != Some(error::ERROR_SCHEMA) {
        return Ok(None);
    }
    let message = value["error"]["message"].as_str().map(str::to_owned);
    let record: Result<ErrorRecord, _> = serde_json::from_value(value);
    record.map(|record| Some(record.error)).map_err(|source| InputError::ErrorRecord { message, source })
}

/// Parses the arguments of `tool`; `Err` is how to exit when there is nothing to run: help, version, wrong arguments.
pub fn parse<A: Parser>(tool: &str) -> Result<A, ExitCode> {
    try_parse().map_err(|nothing| match nothing {
        NothingToRun::Printed(exit) => exit,
        NothingToRun::Wrong(error) => {
            let verb = std::env::args().nth(1).filter(|v| !v.starts_with('-')).unwrap_or_default();
            fail(error.into(), tool, &verb)
        }
    })
}

/// Why arguments name no verb to run.
#[derive(Debug)]
pub enum NothingToRun {
    /// Help, the version or something generated was asked for and printed.
    Printed(ExitCode),
    /// The arguments are wrong.
    Wrong(UsageError),
}

/// Parses the arguments, and prints help, version or what `--generate` names where they ask for it.
pub fn try_parse<A: Parser>() -> Result<A, NothingToRun> {
    // Here every program begins.
    signal::survive_file_limit();
    if let Some(asked) = generate::requested::<A>(std::env::args_os()) {
        return Err(asked.map_or_else(NothingToRun::Wrong, |text| NothingToRun::Printed(print(&text))));
    }
    A::try_parse().map_err(|error| {
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            // Its text is all of the help.
            return NothingToRun::Wrong(UsageError("no verb is given".into()));
        }
        let text = error.render().to_string();
        if error.use_stderr() {
            let text = text.trim_start_matches("error: ").trim_end();
            NothingToRun::Wrong(UsageError(first_paragraph(text) + &similar(&error)))
        } else {
            NothingToRun::Printed(print(&text))
        }
    })
}

/// Prints text for people or shells as it is.
pub fn print(text: &str) -> ExitCode {
    print_bytes(text.as_bytes())
}

/// Prints bytes as they are. Where nobody reads there is no one to tell; of any other reason people are told. The status says that
/// not all of it arrived.
pub fn print_bytes(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) else { return ExitCode::SUCCESS };
    if error.kind() != io::ErrorKind::BrokenPipe {
        let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
        let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let line = format!("{program}: cannot write to stdout: {error}");
        drop(writeln!(io::stderr(), "{}", error::escape_controls(&line)));
    }
    ExitCode::FAILURE
}

/// Clap's message without the usage and the pointer to `--help` below it, on one line.
fn first_paragraph(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// What clap takes for meant instead of what it does not know, in parentheses; empty where nothing is near.
fn similar(error: &clap::Error) -> String {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let nearest = kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(word) => Some(word),
        ContextValue::Strings(words) => words.last(),
        _ => None,
    });
    nearest.map_or_else(String::new, |word| format!(" (did you mean '{word}'?)"))
}

/// Runs a verb that takes a record: its changes, its timings and `result.changed` go to stdout.
pub fn record_verb(
    tool: &'static str,
    verb: &'static str,
    input: &Input,
    work: impl FnOnce(&mut Document, &mut Timeline) -> Result<bool, Failure>,
) -> ExitCode {
    value_verb(tool, verb, || {
        let mut document = input.document()?;
        let mut timeline = Timeline::new(tool, verb);
        let changed = work(&mut document, &mut timeline)?;
        let mut outcome = document.outcome()?.unwrap_or_default();
        outcome.changed = changed;
        document.set_outcome(&outcome);
        document.push_timings(timeline.into_timings());
        Ok(document.to_value())
    })
}

/// Runs a verb that gives any JSON value.
pub fn value_verb(tool: &str, verb: &str, work: impl FnOnce() -> Result<Value, Failure>) -> ExitCode {
    match work() {
        Ok(value) => emit(&value),
        Err(failure) => fail(failure, tool, verb),
    }
}

/// Prints one record and a newline.
pub fn emit(value: &Value) -> ExitCode {
    print(&format!("{value}\n"))
}

/// Reports a failure: one line on stderr, the error record on stdout, the code's status.
pub fn fail(failure: Failure, tool: &str, verb: &str) -> ExitCode {
    // A failure passed on was already told to people by the program it befell.
    let told = matches!(failure, Failure::Passed(_));
    let fault = failure.into_fault(tool, verb);
    if !told {
        tell(tool, &fault);
    }
    let status = fault.code.exit_status();
    let record = serde_json::to_value(ErrorRecord::new(fault)).expect("an error record has string keys only");
    emit(&record);
    ExitCode::from(status)
}

/// Says on stderr what a verb that succeeds has to say to people.
pub fn warn(tool: &str, text: &str) {
    // With nobody to read stderr there is nobody to warn.
    drop(writeln!(io::stderr(), "{tool}: {}", error::escape_controls(text)));
}

/// The answer to `version`: the program's version and the schemas it speaks.
pub fn version(tool: &str) -> Version {
    Version {
        schema: VERSION_SCHEMA.to_owned(),
        tool: tool.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schemas: vec![VM_SCHEMA.to_owned(), error::ERROR_SCHEMA.to_owned()],
        vmm: None,
    }
}

/// A reply as a JSON value.
pub fn value(reply: &impl Serialize) -> Value {
    serde_json::to_value(reply).expect("replies have string keys only")
}
