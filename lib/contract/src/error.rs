//! Failure: the codes, the exit status of each, and the error record on stdout.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The schema of [`ErrorRecord`].
pub const ERROR_SCHEMA: &str = "banger.error/1";

/// The exit status with which `vm run` and `vm exec` report any failure of banger's own, as env(1), timeout(1), docker and
/// podman do, so that it cannot be mistaken for the guest command's.
pub const OWN_FAILURE_STATUS: u8 = 125;

/// What kind of failure it was. The exit status follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The operation was tried and failed.
    Failed,
    /// What is there differs from what was asked for.
    Conflict,
    /// The object is used by others, who are named.
    InUse,
    /// The VM stopped while it was needed.
    VmStopped,
    /// A deadline passed.
    Timeout,
    /// Interrupted by a signal; what had been done was undone.
    Interrupted,
    /// The arguments are wrong.
    Usage,
    /// The record on stdin, a config file or another input is wrong.
    BadInput,
    /// The record's schema is not one that this program speaks.
    UnsupportedSchema,
    /// A record was expected on stdin and none came.
    NoInput,
    /// No such VM, image, kernel or file.
    NotFound,
    /// Somebody else holds the lock; trying again later may succeed.
    Busy,
    /// The host lacks a feature or a program.
    Unsupported,
    /// The host denies a privilege.
    Denied,
    /// A bug in banger.
    Bug,
}

impl ErrorCode {
    /// The exit status: 1 failed, 2 bad input, 3 not found, 4 busy, 5 the host lacks something, 70 a bug.
    pub fn exit_status(self) -> u8 {
        use ErrorCode::*;
        match self {
            Failed | Conflict | InUse | VmStopped | Timeout | Interrupted => 1,
            Usage | BadInput | UnsupportedSchema | NoInput => 2,
            NotFound => 3,
            Busy => 4,
            Unsupported | Denied => 5,
            Bug => 70,
        }
    }

    /// Whether the same call may succeed later without any change.
    pub fn retry(self) -> bool {
        self == ErrorCode::Busy
    }
}

/// An error that knows its place in the contract. Domains implement it for their error types.
///
/// `Display` says what failed and on which object and never repeats its source; the sources become `causes`.
pub trait Coded: std::error::Error + Send + Sync + 'static {
    /// The contract's code.
    fn code(&self) -> ErrorCode;

    /// Facts for machines: the object, its holder, a path. Empty by default.
    fn details(&self) -> Map<String, Value> {
        Map::new()
    }

    /// What to do about it, in one sentence. `None` by default.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The body of an error record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// The kind of failure.
    pub code: ErrorCode,
    /// What failed, on which object.
    pub message: String,
    /// Facts for machines.
    #[serde(default)]
    pub details: Map<String, Value>,
    /// Why, outermost cause first. Errors of an undo that failed as well follow.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Whether the same call may succeed later without any change.
    pub retry: bool,
    /// The program that failed.
    pub tool: String,
    /// Its verb.
    pub verb: String,
}

impl Fault {
    /// The fault that `error` amounts to when `tool verb` meets it.
    pub fn new(error: &dyn Coded, tool: &str, verb: &str) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        let mut is_too_large = false;
        while let Some(cause) = next {
            causes.push(cause.to_string());
            let kind = cause.downcast_ref().map(std::io::Error::kind);
            is_too_large |= kind == Some(std::io::ErrorKind::FileTooLarge);
            next = cause.source();
        }
        // Whatever was written: it is the shell that forbids it.
        let limit =
            || is_too_large.then(|| "ulimit -f keeps this shell's files that small: raise it".to_owned());
        Self {
            code: error.code(),
            message: error.to_string(),
            details: error.details(),
            causes,
            hint: error.hint().or_else(limit),
            retry: error.code().retry(),
            tool: tool.to_owned(),
            verb: verb.to_owned(),
        }
    }

    /// The one line for people: what failed, on which object, why, what to do. Control characters are escaped, since
    /// parts of it may come from a guest.
    pub fn human_line(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        if let Some(hint) = &self.hint {
            line.push_str("; ");
            line.push_str(hint);
        }
        escape_controls(&line)
    }
}

/// A whole error record, as it stands on stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorRecord {
    /// Always [`ERROR_SCHEMA`].
    pub schema: String,
    /// The failure.
    pub error: Fault,
}

impl ErrorRecord {
    /// Wraps `error`.
    pub fn new(error: Fault) -> Self {
        Self { schema: ERROR_SCHEMA.to_owned(), error }
    }
}

/// `text` with every control character but the newline's escape written as `\u{..}`, so that it can be shown on a terminal
/// whoever wrote it. Bidirectional overrides count as controls.
pub fn escape_controls(text: &str) -> String {
    let unsafe_char =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if unsafe_char(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot make the tap bgt1")]
    struct Outer(#[source] std::io::Error);
    impl Coded for Outer {
        fn code(&self) -> ErrorCode {
            ErrorCode::Denied
        }
        fn hint(&self) -> Option<String> {
            Some("run as root".into())
        }
    }

    #[test]
    fn a_fault_names_causes_once_and_escapes() {
        let error = Outer(std::io::Error::other("bad \x1b[2J thing"));
        let fault = Fault::new(&error, "banger-netd", "attach");
        assert_eq!(fault.human_line(), "cannot make the tap bgt1: bad \\u{1b}[2J thing; run as root");
        assert_eq!(fault.code.exit_status(), 5);
        let json = serde_json::to_value(ErrorRecord::new(fault.clone())).unwrap();
        assert_eq!(json["error"]["code"], "denied");
        assert_eq!(serde_json::from_value::<ErrorRecord>(json).unwrap().error, fault);
    }
}
