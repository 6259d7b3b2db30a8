//! What every `gc` has in common: the list of VMs that are to stay, on stdin, and the account of what went.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::Failure;
use super::plumbing::{self, Input};
use banger_contract::record::VMS_SCHEMA;
use banger_contract::reply::Collected;
use banger_contract::types::{StateId, VmId};
use banger_contract::{Coded, ErrorCode, Fault};

/// The VMs that are to stay. Items may carry more than their id.
#[derive(Debug, Deserialize)]
struct List {
    state_id: StateId,
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    id: VmId,
}

/// Why a list of VMs cannot be used, or what a collection left behind.
#[derive(Debug, Error)]
enum CollectError {
    #[error("no list of VMs came on stdin")]
    Empty,
    #[error("the input is not a list of VMs")]
    Json(#[source] serde_json::Error),
    #[error("the list's schema is {0:?}; this verb speaks {VMS_SCHEMA:?}")]
    Schema(String),
    #[error("cannot remove everything: {}", said(.errors))]
    Leftovers { removed: Vec<String>, errors: Vec<Fault> },
}

/// What went wrong, for people.
fn said(errors: &[Fault]) -> String {
    errors.iter().map(Fault::human_line).collect::<Vec<_>>().join("; ")
}

impl Coded for CollectError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::NoInput,
            Self::Json(_) => ErrorCode::BadInput,
            Self::Schema(_) => ErrorCode::UnsupportedSchema,
            Self::Leftovers { errors, .. } => errors.first().map_or(ErrorCode::Failed, |fault| fault.code),
        }
    }
    fn details(&self) -> Map<String, Value> {
        match self {
            Self::Leftovers { removed, errors } => {
                Map::from_iter([("removed".to_owned(), json!(removed)), ("errors".to_owned(), json!(errors))])
            }
            _ => Map::new(),
        }
    }
}

/// Reads the list: whose VMs, and which of them are to stay.
pub fn listed(input: &Input) -> Result<(StateId, BTreeSet<VmId>), Failure> {
    let bytes = input.bytes()?;
    if bytes.trim_ascii().is_empty() {
        return Err(CollectError::Empty.into());
    }
    let value: Map<String, Value> = serde_json::from_slice(&bytes).map_err(CollectError::Json)?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or("missing");
    if schema != VMS_SCHEMA {
        return Err(CollectError::Schema(schema.chars().take(60).collect()).into());
    }
    let list: List = serde_json::from_value(Value::Object(value)).map_err(CollectError::Json)?;
    Ok((list.state_id, list.items.into_iter().map(|item| item.id).collect()))
}

/// The account of what went; an error where something did not.
pub fn account(tool: &str, removed: Vec<String>, errors: Vec<Fault>) -> Result<Value, Failure> {
    if !errors.is_empty() {
        return Err(CollectError::Leftovers { removed, errors }.into());
    }
    Ok(plumbing::value(&Collected::new(tool, removed, errors)))
}
