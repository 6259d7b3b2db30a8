//! What goes wrong in a guest: what was tried, and why it failed.

use std::fmt;

/// A failure, for people.
#[derive(Debug)]
pub struct Error {
    what: String,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure without a deeper cause.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{}: {cause}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Error {}

/// `cannot mount /dev/vda: …`
pub trait Context<T> {
    /// Says what was tried.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|cause| Error { what: what(), cause: Some(cause.into()) })
    }
}

/// A failure of the boot, with its step.
#[derive(Debug)]
pub struct BootFailure {
    /// The step that failed, as in the timings.
    pub step: &'static str,
    /// Why.
    pub error: Error,
}
