//! nftables, through `nft`: a script in, JSON out.
//!
//! Scripts are nft(8)'s own language, one transaction each, so that what is applied can be read, reviewed and tried by
//! hand; what the kernel holds is read as JSON (libnftables-json(5)).

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use super::exec::{Exec, ExecError};
use crate::contract::{Coded, ErrorCode};

/// The largest table that is read, bytes of JSON.
const MAX_LISTING: usize = 32 << 20;

/// `nft` could not do what was asked.
#[derive(Debug, Error)]
#[error("cannot {action} the nftables table {table}")]
pub struct NftError {
    action: &'static str,
    table: String,
    #[source]
    source: NftCause,
}

/// Why not.
#[derive(Debug, Error)]
pub enum NftCause {
    /// The program.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// What it printed.
    #[error("nft printed something that is not JSON")]
    Json(#[from] serde_json::Error),
    /// What it printed.
    #[error("nft printed JSON of another shape than libnftables-json(5) describes")]
    Shape,
}

impl NftError {
    fn stderr(&self) -> &str {
        match &self.source {
            NftCause::Exec(ExecError::Status { stderr, .. }) => stderr,
            _ => "",
        }
    }

    /// Whether an element was there already with another value.
    pub fn is_existing(&self) -> bool {
        self.stderr().contains("File exists")
    }

    /// Whether `nft` is not installed.
    pub fn is_missing_program(&self) -> bool {
        matches!(self.source, NftCause::Exec(ExecError::NotFound(_)))
    }
}

impl Coded for NftError {
    fn code(&self) -> ErrorCode {
        match &self.source {
            NftCause::Exec(ExecError::NotFound(_)) => ErrorCode::Unsupported,
            _ if self.stderr().contains("Operation not permitted") => ErrorCode::Denied,
            _ if self.is_existing() => ErrorCode::Conflict,
            // The kernel lacks an expression, a chain type or nf_tables itself.
            _ if self.stderr().contains("not supported") => ErrorCode::Unsupported,
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        (self.code() == ErrorCode::Unsupported).then(|| "banger doctor says what the host lacks".into())
    }
}

fn nft() -> Exec {
    Exec::new("nft").deadline(Duration::from_secs(30)).stdout_limit(MAX_LISTING)
}

/// Applies a script: all of it or nothing. `table` is named in errors.
///
/// # Errors
/// `nft` is missing or refuses.
pub fn apply(table: &str, script: &str) -> Result<(), NftError> {
    let error = |e: ExecError| NftError { action: "change", table: table.to_owned(), source: e.into() };
    nft().args(["-f", "-"]).stdin(script).run().map(drop).map_err(error)
}

/// Everything in the table `name` of `family`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    objects: Vec<Value>,
}

/// Reads a table; `None` where there is none.
///
/// # Errors
/// `nft` is missing or refuses.
pub fn list(family: &str, name: &str) -> Result<Option<Table>, NftError> {
    let error = |source| NftError { action: "list", table: format!("{family} {name}"), source };
    match objects(&["-j", "list", "table", family, name]).map_err(error) {
        Ok(objects) => Ok(Some(Table { objects })),
        Err(error) if error.stderr().contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

fn objects(args: &[&str]) -> Result<Vec<Value>, NftCause> {
    let mut value: Value = serde_json::from_slice(&nft().args(args).run()?)?;
    match value.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => Ok(objects),
        _ => Err(NftCause::Shape),
    }
}

impl Table {
    /// Its chains and how many rules each has.
    pub fn chains(&self) -> Vec<(&str, usize)> {
        let of = |kind: &'static str, key: &'static str| {
            self.objects.iter().filter_map(move |o| o.get(kind)?.get(key)?.as_str())
        };
        of("chain", "name").map(|name| (name, of("rule", "chain").filter(|c| *c == name).count())).collect()
    }

    /// The entries of the verdict map `map`: the key and the chain that is jumped to.
    pub fn jumps(&self, map: &str) -> Vec<(&str, &str)> {
        let maps = self.objects.iter().filter_map(|object| object.get("map"));
        let elements = maps
            .filter(|m| m.get("name").and_then(Value::as_str) == Some(map))
            .filter_map(|m| m.get("elem")?.as_array())
            .flatten();
        elements
            .filter_map(|pair| {
                Some((pair.get(0)?.as_str()?, pair.get(1)?.pointer("/jump/target")?.as_str()?))
            })
            .collect()
    }

    /// Whether a rule of `chain` holds `text` as a value anywhere.
    pub fn chain_mentions(&self, chain: &str, text: &str) -> bool {
        let rules = self.objects.iter().filter_map(|object| object.get("rule"));
        rules
            .filter(|rule| rule.get("chain").and_then(Value::as_str) == Some(chain))
            .filter_map(|rule| rule.get("expr"))
            .any(|expr| mentions(expr, text))
    }
}

fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(s) => s == text,
        Value::Array(list) => list.iter().any(|v| mentions(v, text)),
        Value::Object(map) => map.iter().any(|(key, v)| key == text || mentions(v, text)),
        _ => false,
    }
}
