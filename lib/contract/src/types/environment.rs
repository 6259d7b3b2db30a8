//! The variables that an image gives to commands.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most that all names and values may take, each with the two bytes that it has around it in a process' memory, bytes. It is an
/// argument of sshd's, and the kernel takes none above 128 KiB (execve(2), MAX_ARG_STRLEN), quoted.
const MAX_BYTES: usize = 48 << 10;

/// Why a variable cannot be had.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum EnvironmentError {
    /// Its name.
    #[error("{0:?} is not the name of a variable: letters, digits and _, no digit first")]
    Name(String),
    /// Its value.
    #[error("the value of the variable {0} holds a control character other than tab and newline")]
    Value(String),
    /// There is no room for it.
    #[error("the variable {0} is too much: all of them may take {MAX_BYTES} bytes")]
    Size(String),
}

/// Variables by name: names that every shell takes, values without control characters but tab and newline, all of bounded size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// What they take.
    bytes: usize,
}

/// Whether every shell takes `name` for a variable.
pub fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Environment {
    /// Sets a variable. After an error it is what it was.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), EnvironmentError> {
        let shown = || name.chars().take(60).collect();
        if !is_variable(name) {
            return Err(EnvironmentError::Name(shown()));
        }
        if value.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n')) {
            return Err(EnvironmentError::Value(shown()));
        }
        let taken = |value: &String| name.len() + value.len() + 2;
        let value = value.to_owned();
        let bytes = self.bytes - self.variables.get(name).map_or(0, taken) + taken(&value);
        if bytes > MAX_BYTES {
            return Err(EnvironmentError::Size(shown()));
        }
        self.variables.insert(name.to_owned(), value);
        self.bytes = bytes;
        Ok(())
    }

    /// Whether there is no variable.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// The variables by name.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }
}

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = EnvironmentError;
    fn try_from(map: BTreeMap<String, String>) -> Result<Self, EnvironmentError> {
        let mut environment = Self::default();
        map.iter().try_for_each(|(name, value)| environment.set(name, value))?;
        Ok(environment)
    }
}

impl From<Environment> for BTreeMap<String, String> {
    fn from(environment: Environment) -> Self {
        environment.variables
    }
}

impl JsonSchema for Environment {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Environment".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, String>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_what_shells_and_processes_take() {
        let mut environment = Environment::default();
        environment.set("PATH", "/a:/b c").unwrap();
        environment.set("_x1", "two\nlines\t").unwrap();
        environment.set("PATH", "").unwrap();
        assert_eq!(environment.variables()["PATH"], "");
        for bad in ["", "1a", "a b", "a=b", "ä", "a\0", "npm.config", &"-".repeat(1000)] {
            assert!(
                matches!(environment.set(bad, "x"), Err(EnvironmentError::Name(name)) if name.len() <= 60)
            );
        }
        for bad in ["\0", "a\x1b[2J", "\u{9b}", "\r"] {
            assert_eq!(environment.set("A", bad), Err(EnvironmentError::Value("A".into())));
        }
        let before = environment.clone();
        assert_eq!(
            environment.set("LONG", &"x".repeat(MAX_BYTES)),
            Err(EnvironmentError::Size("LONG".into()))
        );
        environment.set("LONG", &"x".repeat(MAX_BYTES - 40)).unwrap();
        environment.set("LONG", "short").unwrap();
        assert!(environment.set("LONG", &"x".repeat(MAX_BYTES)).is_err());
        assert_eq!(environment.variables().len(), before.variables().len() + 1);
    }

    #[test]
    fn what_is_read_is_checked() {
        let read = |json: &str| serde_json::from_str::<Environment>(json);
        let good = read(r#"{"A":"1","B":""}"#).unwrap();
        assert_eq!(serde_json::to_string(&good).unwrap(), r#"{"A":"1","B":""}"#);
        for bad in [r#"{"A B":"1"}"#, r#"{"A":"\u0000"}"#, r#"{"A":1}"#, "[]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: BTreeMap<String, String> = (0..20_000).map(|i| (format!("V{i}"), String::new())).collect();
        assert!(Environment::try_from(many).is_err());
    }
}
