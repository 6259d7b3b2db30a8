//! `banger-netd`: its verbs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::thread::{CapabilitySet, capabilities};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::Failure;
use super::plumbing::{self, Input};
use crate::contract::record::NetMode;
use crate::contract::{Coded, Document, ErrorCode};
use crate::net::caller::Caller;
use crate::net::request::{Names, TapRequest};
use crate::net::{NetError, attach, check, detach, dns, gc, user};
use crate::sys::clock::Timeline;
use crate::types::{StateId, VmId};

const TOOL: &str = "banger-netd";

/// The schema of a list of VMs.
const VMS_SCHEMA: &str = "banger.vms/1";

/// Attach a VM to the network and detach it again
///
/// A stage of a banger pipeline: reads a record on stdin, writes its section "net", prints the record on stdout.
#[derive(Debug, Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the VM's bridge, tap and rules; or, in user mode, choose its SSH port
    Attach(Input),
    /// Remove what attach made, whatever is left of it
    Detach(Input),
    /// Compare the record with the host
    Check(Input),
    /// Remove what is tagged with a state directory and belongs to none of the VMs on stdin
    Gc(Input),
    /// Say which version this is and which schemas it speaks
    Version,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args: Arguments = match plumbing::parse(TOOL) {
        Ok(args) => args,
        Err(status) => return status,
    };
    match args.verb {
        Verb::Attach(input) => plumbing::record_verb(TOOL, "attach", &input, run_attach),
        Verb::Detach(input) => plumbing::record_verb(TOOL, "detach", &input, run_detach),
        Verb::Check(input) => plumbing::record_verb(TOOL, "check", &input, run_check),
        Verb::Gc(input) => plumbing::value_verb(TOOL, "gc", || run_gc(&input)),
        Verb::Version => plumbing::value_verb(TOOL, "version", || Ok(plumbing::version(TOOL))),
    }
}

/// Who called, by the process's credentials and sudo's variable.
fn caller() -> Result<Caller, NetError> {
    let sudo_uid = std::env::var_os("SUDO_UID").map(|uid| uid.to_string_lossy().into_owned());
    let has_net_admin =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
    Caller::new(rustix::process::geteuid().as_raw(), sudo_uid.as_deref(), has_net_admin)
}

fn run_attach(document: &mut Document, timeline: &mut Timeline) -> Result<bool, Failure> {
    let (vm, previous, caller) = (document.vm()?, document.net()?, caller()?);
    let (net, changed) = match vm.net_mode {
        NetMode::User => timeline.step("port", || user::attach(&vm, &caller, previous))?,
        NetMode::Tap => {
            let request = TapRequest::new(&vm, &caller)?;
            let files = [Path::new(dns::RESOLV_CONF), Path::new(dns::RESOLVED_UPSTREAM)];
            // A guest that may not go out reaches no resolver either.
            let resolvers = if vm.nat { dns::upstream(&files) } else { Vec::new() };
            attach::attach(&request, &caller, previous, resolvers, timeline)?
        }
    };
    document.set_net(Some(&net));
    Ok(changed)
}

fn run_detach(document: &mut Document, timeline: &mut Timeline) -> Result<bool, Failure> {
    let (vm, previous, caller) = (document.vm()?, document.net()?, caller()?);
    let names = Names::new(&vm, &caller)?;
    let changed = match vm.net_mode {
        NetMode::User => previous.is_some(),
        NetMode::Tap => detach::detach(&names, &caller, timeline)?,
    };
    document.set_net(None);
    Ok(changed)
}

fn run_check(document: &mut Document, _: &mut Timeline) -> Result<bool, Failure> {
    check::check(&document.vm()?, document.net()?, &caller()?)?;
    Ok(false)
}

/// The VMs that are to stay. Items may carry more than their id.
#[derive(Debug, Deserialize)]
struct Stay {
    state_id: StateId,
    items: Vec<StayItem>,
}

#[derive(Debug, Deserialize)]
struct StayItem {
    id: VmId,
}

/// Why a list of VMs cannot be used.
#[derive(Debug, Error)]
enum StayError {
    #[error("no list of VMs came on stdin")]
    Empty,
    #[error("the input is not a list of VMs")]
    Json(#[source] serde_json::Error),
    #[error("the list's schema is {0:?}; this verb speaks {VMS_SCHEMA:?}")]
    Schema(String),
}

impl Coded for StayError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::NoInput,
            Self::Json(_) => ErrorCode::BadInput,
            Self::Schema(_) => ErrorCode::UnsupportedSchema,
        }
    }
}

fn read_stay(input: &Input) -> Result<Stay, Failure> {
    let bytes = input.bytes()?;
    if bytes.trim_ascii().is_empty() {
        return Err(StayError::Empty.into());
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(StayError::Json)?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or("missing");
    if schema != VMS_SCHEMA {
        return Err(StayError::Schema(schema.chars().take(60).collect()).into());
    }
    Ok(serde_json::from_value(value).map_err(StayError::Json)?)
}

fn run_gc(input: &Input) -> Result<Value, Failure> {
    let stay = read_stay(input)?;
    let keep: BTreeSet<VmId> = stay.items.into_iter().map(|item| item.id).collect();
    let gc::Collected { removed, errors } = gc::collect(&stay.state_id, &keep, &caller()?)?;
    if !errors.is_empty() {
        return Err(NetError::Leftovers { removed, errors }.into());
    }
    Ok(json!({ "schema": "banger.gc/1", "tool": TOOL, "removed": removed, "errors": errors }))
}
