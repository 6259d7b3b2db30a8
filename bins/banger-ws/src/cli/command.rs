//! How a command in a guest is to run: the options that `banger` and `banger-ws` share.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use thiserror::Error;

use crate::command::Command;
use banger_contract::types::{Span, is_variable};
use banger_contract::{Coded, ErrorCode};

/// The variable with the values of the command's environment, a JSON object, that `banger` hands down: arguments are for all users of
/// a host to see, an environment is not.
pub const ENV_VARIABLE: &str = "BANGER_COMMAND_ENV";
/// How much later than now a time may be up.
const MAX_LIMIT: Duration = Duration::from_secs(366 * 24 * 3600);

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CommandOptions {
    /// Set a variable for the command; KEY alone takes the value that it has here. May be given several times
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<OsString>,
    /// Run the command in this directory of the workspace; / is its root
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// End the command, with status 124, when it takes longer, such as 90s, 1.5m or 1h30m; a bare number is seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_limit)]
    pub timeout: Option<Duration>,
    /// Do not run the command through mise where the guest has it
    #[arg(long)]
    pub no_mise: bool,
    /// Give the command no stdin
    #[arg(long, short)]
    pub no_stdin: bool,
}

/// What of the options no guest can be told.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The name of a variable.
    #[error("{0:?} is not the name of a variable: letters, digits and _, no digit first")]
    Name(String),
    /// The value of a variable.
    #[error("the value of the variable {0} is not UTF-8, and can be sent to no guest")]
    Value(String),
    /// What a parent process handed down.
    #[error("{ENV_VARIABLE} holds no JSON object of strings")]
    HandedDown(#[source] serde_json::Error),
    /// A directory.
    #[error("the directory {0:?} holds a control character")]
    Workdir(String),
}

impl Coded for CommandError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
}

/// How long a command may take.
fn parse_limit(text: &str) -> Result<Duration, String> {
    let limit = text.parse::<Span>().map_err(|error| error.to_string())?.duration();
    match limit {
        limit if (Duration::from_millis(1)..=MAX_LIMIT).contains(&limit) => Ok(limit),
        _ => Err("it must be between 1 ms and a year".to_owned()),
    }
}

impl CommandOptions {
    /// The variables, the last of each name. A name alone that is not set here is not set there, as with docker.
    pub fn variables(&self) -> Result<BTreeMap<String, String>, CommandError> {
        let mut variables = BTreeMap::new();
        for given in &self.env {
            let text = given.to_string_lossy();
            let name = text.split('=').next().unwrap_or_default().to_owned();
            if !is_variable(&name) {
                return Err(CommandError::Name(name));
            }
            let value = match given.to_str().map(|text| text.split_once('=')) {
                Some(Some((_, value))) => value.to_owned(),
                None => return Err(CommandError::Value(name)),
                Some(None) => match std::env::var_os(&name).map(OsString::into_string) {
                    None => continue,
                    Some(Ok(value)) => value,
                    Some(Err(_)) => return Err(CommandError::Value(name)),
                },
            };
            variables.insert(name, value);
        }
        Ok(variables)
    }

    /// The command with `words`, with what a parent process handed down of its environment.
    pub fn command(&self, words: &[String]) -> Result<Command, CommandError> {
        let mut variables = BTreeMap::new();
        if let Some(text) = std::env::var_os(ENV_VARIABLE) {
            let handed = serde_json::from_str::<BTreeMap<String, String>>(&text.to_string_lossy());
            variables = handed.map_err(CommandError::HandedDown)?;
        }
        variables.extend(self.variables()?);
        if let Some(name) = variables.keys().find(|name| !is_variable(name)) {
            return Err(CommandError::Name(name.clone()));
        }
        Ok(Command {
            words: words.to_vec(),
            env: variables.into_iter().collect(),
            workdir: self.checked_workdir()?,
            limit: self.timeout,
            mise: !self.no_mise,
        })
    }

    /// The directory, once it is known that a message may hold it.
    pub fn checked_workdir(&self) -> Result<Option<String>, CommandError> {
        match &self.workdir {
            Some(dir) if dir.chars().any(char::is_control) => Err(CommandError::Workdir(dir.clone())),
            dir => Ok(dir.clone().filter(|dir| !dir.is_empty())),
        }
    }

    /// This process' stdin for the command; `None` where it holds nothing, or something else.
    pub fn stdin(&self, taken: bool) -> io::Result<Option<OwnedFd>> {
        let none = self.no_stdin || taken || is_null(rustix::fs::fstat(rustix::stdio::stdin())?.st_rdev);
        if none { Ok(None) } else { Ok(Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?)) }
    }
}

/// Whether it is /dev/null, which saves a round trip.
fn is_null(device: u64) -> bool {
    device == rustix::fs::makedev(1, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bounded() {
        assert_eq!(parse_limit("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "0", "367d", "999999999d"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_have_names_that_every_shell_takes() {
        let options = |env: &[&str]| CommandOptions {
            env: env.iter().map(OsString::from).collect(),
            ..CommandOptions::default()
        };
        let variables = options(&["A=1=2", "_b=", "A=3", "BANGER_TEST_NOT_SET"]).variables().unwrap();
        assert_eq!(variables, BTreeMap::from([("A".into(), "3".into()), ("_b".into(), String::new())]));
        for bad in ["", "=x", "1A=x", "A B=x", "A;rm=x", "Ä=x"] {
            assert!(options(&[bad]).variables().is_err(), "{bad}");
        }
    }
}
