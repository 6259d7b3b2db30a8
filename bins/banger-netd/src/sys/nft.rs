//! nftables, through `nft`: a script in, JSON out.
//!
//! Scripts are nft(8)'s own language, one transaction each, so that what is applied can be read, reviewed and tried by
//! hand; what the kernel holds is read as JSON (libnftables-json(5)).

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::{Exec, ExecError};

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

    /// Whether the kernel refused a line of the script in which `words` are.
    pub fn is_about(&self, words: &str) -> bool {
        self.stderr().contains(words)
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
            NftCause::Exec(ExecError::Untrusted { .. }) => ErrorCode::Denied,
            _ if self.stderr().contains("Operation not permitted") => ErrorCode::Denied,
            _ if self.is_existing() => ErrorCode::Conflict,
            // The kernel lacks an expression, a chain type or nf_tables itself.
            _ if self.stderr().contains("not supported") => ErrorCode::Unsupported,
            _ => ErrorCode::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        if let NftCause::Exec(ExecError::Untrusted { source, .. }) = &self.source {
            return Some(source.remedy());
        }
        (self.code() == ErrorCode::Unsupported).then(|| "banger doctor says what the host lacks".into())
    }
}

fn nft() -> Exec {
    Exec::new("nft").deadline(Duration::from_secs(30)).stdout_limit(MAX_LISTING).dies_with_us()
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

/// Reads one chain, as a table that has no more than it; `None` where it is not there.
///
/// # Errors
/// `nft` is missing or refuses.
pub fn list_chain(family: &str, table: &str, chain: &str) -> Result<Option<Table>, NftError> {
    let error = |source| NftError { action: "list a chain of", table: format!("{family} {table}"), source };
    match objects(&["-j", "list", "chain", family, table, chain]).map_err(error) {
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

/// Packets that met a rule or an element, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Counter {
    fn parse(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(Self { packets: number("packets")?, bytes: number("bytes")? })
    }
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule<'a> {
    /// The chain.
    pub chain: &'a str,
    /// Its comment.
    pub comment: Option<&'a str>,
    /// Its counter.
    pub counter: Option<Counter>,
    expr: &'a Value,
}

impl Rule<'_> {
    /// Whether it holds `text` as a value anywhere.
    pub fn mentions(&self, text: &str) -> bool {
        mentions(self.expr, text)
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its key; several parts where keys are concatenated.
    pub key: Vec<String>,
    /// The chain that is jumped to; maps of verdicts only.
    pub target: Option<&'a str>,
    /// Its comment.
    pub comment: Option<&'a str>,
    /// Its counter.
    pub counter: Option<Counter>,
}

impl<'a> Element<'a> {
    fn parse(value: &'a Value, target: Option<&'a str>) -> Option<Self> {
        let inner = value.get("elem");
        let key = inner.map_or(Some(value), |elem| elem.get("val"))?;
        let part = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let key = match key.get("concat").and_then(Value::as_array) {
            Some(parts) => parts.iter().map(part).collect::<Option<Vec<_>>>()?,
            None => vec![part(key)?],
        };
        let comment = inner.and_then(|elem| elem.get("comment")?.as_str());
        let counter = inner.and_then(|elem| Counter::parse(elem.get("counter")?));
        Some(Self { key, target, comment, counter })
    }

    /// The key as nft(8) writes it, where none of its parts needs quotes.
    pub fn key(&self) -> String {
        self.key.join(" . ")
    }
}

/// The elements of every map of the family `inet`: the table, the map, its elements.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Maps {
    objects: Vec<Value>,
}

/// Reads every map of the family `inet`.
///
/// # Errors
/// `nft` is missing or refuses.
pub fn inet_maps() -> Result<Maps, NftError> {
    let error = |source| NftError { action: "list the maps of", table: "inet (all)".to_owned(), source };
    Ok(Maps { objects: objects(&["-j", "list", "maps", "inet"]).map_err(error)? })
}

impl Maps {
    /// The elements of the maps named `map` with their tables.
    pub fn named(&self, map: &str) -> Vec<(&str, Vec<Element<'_>>)> {
        let maps = self.objects.iter().filter_map(|object| object.get("map"));
        maps.filter(|m| m.get("name").and_then(Value::as_str) == Some(map))
            .filter_map(|m| Some((m.get("table")?.as_str()?, elements_of(m))))
            .collect()
    }
}

fn elements_of(set: &Value) -> Vec<Element<'_>> {
    let list = set.get("elem").and_then(Value::as_array).into_iter().flatten();
    let is_map = set.get("map").is_some();
    list.filter_map(|entry| {
        if is_map {
            Element::parse(entry.get(0)?, entry.get(1)?.pointer("/jump/target").and_then(Value::as_str))
        } else {
            Element::parse(entry, None)
        }
    })
    .collect()
}

impl Table {
    fn all(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter_map(move |object| object.get(kind))
    }

    /// The names of its chains.
    pub fn chains(&self) -> impl Iterator<Item = &str> {
        self.all("chain").filter_map(|chain| chain.get("name")?.as_str())
    }

    /// The rules of `chain`, in order; `None` where there is no such chain.
    pub fn rules(&self, chain: &str) -> Option<Vec<Rule<'_>>> {
        self.chains().find(|name| *name == chain)?;
        let of_chain =
            self.all("rule").filter(|rule| rule.get("chain").and_then(Value::as_str) == Some(chain));
        let parsed = of_chain.filter_map(|rule| {
            let expr = rule.get("expr")?;
            let counter = expr.as_array().into_iter().flatten().find_map(|part| part.get("counter"));
            Some(Rule {
                chain: rule.get("chain")?.as_str()?,
                comment: rule.get("comment").and_then(Value::as_str),
                counter: counter.and_then(Counter::parse),
                expr,
            })
        });
        Some(parsed.collect())
    }

    /// The elements of the set or map `name`; none where it is not there.
    pub fn elements(&self, name: &str) -> Vec<Element<'_>> {
        let mut sets = self.all("map").chain(self.all("set"));
        let found = sets.find(|set| set.get("name").and_then(Value::as_str) == Some(name));
        found.map(elements_of).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_with_keys_targets_and_counters() {
        let text = r#"[
            {"map": {"name": "m", "table": "t", "map": "verdict", "elem": [
                [{"elem": {"val": {"concat": ["tcp", 80]}, "comment": "dev1"}}, {"jump": {"target": "c"}}],
                ["10.0.0.1", {"accept": null}]]}},
            {"set": {"name": "s", "elem": [{"elem": {"val": "10.0.0.2", "counter": {"packets": 1, "bytes": 60}}}, "10.0.0.3"]}},
            {"chain": {"name": "c"}},
            {"rule": {"chain": "c", "comment": "x", "expr": [{"counter": {"packets": 2, "bytes": 3}}, {"accept": null}]}}
        ]"#;
        let table = Table { objects: serde_json::from_str(text).unwrap() };
        let map = table.elements("m");
        assert_eq!(
            (map[0].key().as_str(), map[0].target, map[0].comment),
            ("tcp . 80", Some("c"), Some("dev1"))
        );
        assert_eq!((map[1].key().as_str(), map[1].target), ("10.0.0.1", None));
        let set = table.elements("s");
        assert_eq!(
            (set[0].key(), set[0].counter),
            ("10.0.0.2".into(), Some(Counter { packets: 1, bytes: 60 }))
        );
        assert_eq!(set[1].key(), "10.0.0.3");
        let rules = table.rules("c").unwrap();
        assert_eq!((rules[0].comment, rules[0].counter.unwrap().packets), (Some("x"), 2));
        assert!(rules[0].mentions("accept") && !rules[0].mentions("drop") && table.rules("d").is_none());
    }
}
