//! Long steps, for people: a spinner on a terminal, one plain line per step elsewhere.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use banger_contract::error::escape_controls;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;

use crate::context::{Context, Result};

/// The longest line of progress that is read, bytes.
const MAX_LINE: u64 = 4096;

/// A step under way. On a terminal its line goes when it ends; elsewhere it stays.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// What is said before the first step that is told.
    ahead: Mutex<Option<String>>,
}

impl Progress {
    /// Begins to show `message`.
    pub fn begin(context: &Context, message: &str) -> Result<Self> {
        let progress = Self::of_stage(context, message)?;
        progress.say_ahead(context);
        Ok(progress)
    }

    /// Begins to show `message` for a program that tells its steps. Off a terminal that waits for the first of them: before it is at work,
    /// the program may refuse its arguments.
    pub fn of_stage(context: &Context, message: &str) -> Result<Self> {
        // The spinner is a thread, and signals must be blocked before there is one.
        context.interrupts()?;
        if !io::stderr().is_terminal() {
            return Ok(Self { bar: None, ahead: Mutex::new(Some(message.to_owned())) });
        }
        let style =
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is valid");
        let bar = ProgressBar::new_spinner().with_style(style).with_message(escape_controls(message));
        bar.enable_steady_tick(Duration::from_millis(120));
        Ok(Self { bar: Some(bar), ahead: Mutex::new(None) })
    }

    /// Shows the next step.
    pub fn tell(&self, context: &Context, message: &str) {
        self.say_ahead(context);
        match &self.bar {
            Some(bar) => bar.set_message(escape_controls(message)),
            None => context.say(message),
        }
    }

    fn say_ahead(&self, context: &Context) {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        ahead.iter().for_each(|message| context.say(message));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Where a program writes its progress: `--progress-fd`.
pub struct Channel {
    read: OwnedFd,
    write: OwnedFd,
}

impl Channel {
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }

    /// The number that the program is told.
    pub fn number(&self) -> i32 {
        self.write.as_raw_fd()
    }

    /// Ends our side of the writing, once the program was started, and gives the lines to come.
    pub fn into_lines(self) -> impl Iterator<Item = String> + Send {
        drop(self.write);
        let mut reader = BufReader::new(File::from(self.read));
        std::iter::from_fn(move || next_message(&mut reader))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

/// The `message` of the next line that has one; `None` at the end or when a line is absurdly long.
fn next_message(reader: &mut impl BufRead) -> Option<String> {
    loop {
        let mut line = String::new();
        let count = io::Read::take(&mut *reader, MAX_LINE).read_line(&mut line).ok()?;
        if count == 0 || count as u64 == MAX_LINE {
            return None;
        }
        let value: Option<Value> = serde_json::from_str(&line).ok();
        if let Some(message) = value.as_ref().and_then(|v| v["message"].as_str()) {
            return Some(message.to_owned());
        }
    }
}
