//! Why a VM does not run, or does not end.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use super::monitor::MonitorError;
use banger_contract::error::escape_controls;
use banger_contract::types::VmName;
use banger_contract::{Coded, ErrorCode, Fault};
use banger_host::fs::atomic::WriteFileError;

/// How many of the console's last lines an error shows.
const LINES: usize = 10;
/// How much of each, characters.
const LINE_CHARS: usize = 200;

/// What was heard of the VM when it failed.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The end of the console, as it came.
    pub console: String,
    /// The end of the VMM's log, as it came.
    pub log: String,
    /// Where the whole console is.
    pub console_log: String,
}

impl Evidence {
    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        details.insert("console_tail".into(), last_lines(&self.console).into());
        details.insert("vmm_log_tail".into(), last_lines(&self.log).into());
        details.insert("console_log".into(), self.console_log.as_str().into());
        details
    }
}

/// The last lines of `text`, escaped and cut.
pub fn last_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    let skipped = lines.len().saturating_sub(LINES);
    let cut = |line: &&str| escape_controls(&line.chars().take(LINE_CHARS).collect::<String>());
    lines[skipped..].iter().map(cut).collect()
}

/// How the console ends, for a person: the line before the last often tells why.
fn last_words(evidence: &Evidence) -> String {
    let lines = last_lines(&evidence.console);
    let last = &lines[lines.len().saturating_sub(2)..];
    if last.is_empty() { String::new() } else { format!("; the console ends with {:?}", last.join(" / ")) }
}

/// The kernel's last words in `console`, if it panicked.
pub fn panic_in(console: &str) -> Option<String> {
    let line = console.lines().rev().find(|l| l.contains("Kernel panic - not syncing"))?;
    let said = &line[line.find("Kernel panic")?..];
    Some(escape_controls(&said.trim_end().chars().take(LINE_CHARS).collect::<String>()))
}

/// Why a VM did not get to "ready".
#[derive(Debug, Error)]
pub enum BootError {
    /// The VMM ended.
    #[error("the VMM ended during the boot with {status}{}", last_words(.evidence))]
    Ended {
        /// How.
        status: ExitStatus,
        /// Why, where that is known.
        source: Option<BoxedCause>,
        /// What was heard.
        evidence: Evidence,
    },
    /// The guest's kernel panicked.
    #[error("the guest's kernel panicked during the boot: {said}")]
    Panicked {
        /// Its last words.
        said: String,
        /// What was heard.
        evidence: Evidence,
    },
    /// The guest gave up.
    #[error("the guest failed to boot at its step {step:?}: {message}")]
    Guest {
        /// Where.
        step: String,
        /// Why, in its words.
        message: String,
        /// What was heard.
        evidence: Evidence,
    },
    /// The guest was not ready in time.
    #[error("the guest did not say that it is ready within {} s", .limit.as_secs())]
    NotReady {
        /// The deadline.
        limit: Duration,
        /// What was heard.
        evidence: Evidence,
    },
    /// The VM's time was over before its guest was ready.
    #[error("the VM's time to live of {} s was over before its guest was ready", .ttl.as_secs())]
    Expired {
        /// The time to live.
        ttl: Duration,
        /// What was heard.
        evidence: Evidence,
    },
    /// The VMM could not be directed.
    #[error("the VMM does not boot the VM")]
    Monitor {
        /// Why.
        source: BoxedCause,
        /// What was heard.
        evidence: Evidence,
    },
}

/// A VMM's own error as a source.
#[derive(Debug)]
pub struct BoxedCause(pub MonitorError);

impl fmt::Display for BoxedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for BoxedCause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl BootError {
    fn evidence(&self) -> &Evidence {
        match self {
            Self::Ended { evidence, .. }
            | Self::Panicked { evidence, .. }
            | Self::Guest { evidence, .. }
            | Self::NotReady { evidence, .. }
            | Self::Expired { evidence, .. }
            | Self::Monitor { evidence, .. } => evidence,
        }
    }

    fn cause(&self) -> Option<&dyn Coded> {
        match self {
            Self::Monitor { source, .. } => Some(&*source.0),
            Self::Ended { source, .. } => source.as_ref().map(|s| &*s.0),
            _ => None,
        }
    }
}

impl Coded for BootError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotReady { .. } | Self::Expired { .. } => ErrorCode::Timeout,
            _ => self.cause().map_or(ErrorCode::Failed, Coded::code),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = self.evidence().details();
        details.extend(self.cause().map(Coded::details).unwrap_or_default());
        details
    }

    fn hint(&self) -> Option<String> {
        self.cause().and_then(Coded::hint).or_else(|| {
            let log = &self.evidence().console_log;
            match self {
                Self::NotReady { .. } => {
                    Some(format!(
                        "see {log} (--keep keeps it after a failed start); a slow host may need a larger BANGER_READY_TIMEOUT"
                    ))
                }
                Self::Expired { .. } => {
                    Some("the time to boot counts: give it a longer --ttl (vm set --ttl for a VM that is there)".into())
                }
                _ => Some(format!("see {log} (--keep keeps it after a failed start)")),
            }
        })
    }
}

/// Why the supervisor could not even begin.
#[derive(Debug, Error)]
#[error("cannot {what}")]
pub struct SetupError {
    /// What.
    pub what: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Coded for SetupError {
    fn code(&self) -> ErrorCode {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            _ => ErrorCode::Failed,
        }
    }
}

/// What another process reported.
#[derive(Debug)]
pub struct Relayed {
    fault: Fault,
    source: Option<Box<RelayedCause>>,
}

#[derive(Debug)]
struct RelayedCause {
    text: String,
    next: Option<Box<RelayedCause>>,
}

impl Relayed {
    /// The error that `fault` tells of.
    pub fn new(fault: Fault) -> Self {
        let causes = fault.causes.iter().rev();
        let source =
            causes.fold(None, |next, text| Some(Box::new(RelayedCause { text: text.clone(), next })));
        Self { fault, source }
    }
}

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault.message)
    }
}

impl StdError for Relayed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

impl fmt::Display for RelayedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for RelayedCause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.next.as_deref().map(|s| s as _)
    }
}

impl Coded for Relayed {
    fn code(&self) -> ErrorCode {
        self.fault.code
    }
    fn details(&self) -> Map<String, Value> {
        self.fault.details.clone()
    }
    fn hint(&self) -> Option<String> {
        self.fault.hint.clone()
    }
}

/// Why a verb failed.
#[derive(Debug, Error)]
pub enum VmmError {
    /// The VM runs, and not as the record has it.
    #[error("VM {vm} runs already, and {difference}")]
    Differs {
        /// The VM.
        vm: VmName,
        /// In what it differs.
        difference: &'static str,
    },
    /// The supervisor could not be started or heard.
    #[error("cannot start the supervisor of VM {vm}")]
    Supervisor {
        /// The VM.
        vm: VmName,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The supervisor is gone without a word.
    #[error("the supervisor of VM {0} ended unexpectedly")]
    SupervisorEnded(VmName),
    /// A signal came while the VM was being started.
    #[error("starting VM {0} was interrupted; it was undone")]
    Interrupted(VmName),
    /// The VM's processes cannot be found or ended.
    #[error("cannot end VM {vm}")]
    End {
        /// The VM.
        vm: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VM lives on although everything was tried.
    #[error("VM {0} still runs although it was killed")]
    Undead(String),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteFileError),
}

impl Coded for VmmError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Differs { .. } => ErrorCode::Conflict,
            Self::Interrupted(_) => ErrorCode::Interrupted,
            Self::Write(error) => error.code(),
            Self::End { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Differs { .. } => Some("stop it first".into()),
            Self::Undead(_) => Some("its processes may belong to another user, or hang in the kernel".into()),
            _ => None,
        }
    }
}
