//! Progress of a long verb: NDJSON on the descriptor that the caller handed down, never on stdout.

use std::fs::File;
use std::io::Write;

use serde_json::json;
use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_host::fs::fd;

/// The option of verbs that take long.
#[derive(Debug, clap::Args)]
pub struct ProgressArgs {
    /// Write progress as NDJSON to the open descriptor N (2 is stderr)
    #[arg(long, value_name = "N")]
    pub progress_fd: Option<i32>,
}

/// The descriptor is not open.
#[derive(Debug, Error)]
#[error("--progress-fd {0} is not an open descriptor")]
pub struct ProgressError(i32);

impl Coded for ProgressError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
}

/// Where progress goes; nowhere unless asked for.
#[derive(Debug)]
pub struct Progress(Option<File>);

impl ProgressArgs {
    /// Takes over the descriptor. Call it once, before any thread or child process exists.
    pub fn open(&self) -> Result<Progress, ProgressError> {
        let Some(number) = self.progress_fd else { return Ok(Progress(None)) };
        let fd = match number {
            2 => rustix::io::dup(rustix::stdio::stderr()).ok(),
            number => fd::inherit(number),
        };
        let fd = fd.ok_or(ProgressError(number))?;
        Ok(Progress(Some(fd.into())))
    }
}

impl Progress {
    /// Says that `step` now does what `message` tells people.
    pub fn tell(&mut self, step: &str, message: &str) {
        let Some(file) = &mut self.0 else { return };
        let line = format!("{}\n", json!({ "step": step, "message": message }));
        // Nobody listens any more: the work goes on.
        if file.write_all(line.as_bytes()).is_err() {
            self.0 = None;
        }
    }
}
