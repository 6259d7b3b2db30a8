//! `banger-disk dm`: the one verb that needs root, and the way to it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;
use thiserror::Error;

use crate::dm;
use crate::sys::dm::CONTROL;
use crate::{DmVerbError, Mapper, MapperError};
use banger_cli::plumbing::{self, Input};
use banger_cli::{Failure, collect};
use banger_contract::dm::{DM_SCHEMA, DmReply, DmRequest};
use banger_contract::error::ErrorRecord;
use banger_contract::record::{NetMode, Vm};
use banger_contract::{Coded, ErrorCode, Fault};
use banger_host::process::caller::{Caller, SudoUidError};
use banger_host::process::exec::Exec;

const TOOL: &str = "banger-disk";
/// How long the privileged part may take: it waits for others for 20 s.
const LIMIT: Duration = Duration::from_secs(40);

#[derive(Debug, Subcommand)]
pub(super) enum DmVerb {
    /// Make a VM's root as a snapshot of its image, or find it; needs root
    Create(Input),
    /// Remove the snapshot; the file with the changes stays; needs root
    Remove(Input),
    /// Say how much of the file with the changes is taken; needs root
    Status(Input),
    /// Remove snapshots of VMs that are not on the list; needs root
    Gc(Input),
}

/// What is wrong with a request.
#[derive(Debug, Error)]
enum DmEdgeError {
    #[error("the request is not one of {DM_SCHEMA}: {0}")]
    Request(String),
    #[error(transparent)]
    SudoUid(SudoUidError),
}

impl Coded for DmEdgeError {
    fn code(&self) -> ErrorCode {
        ErrorCode::BadInput
    }
}

/// Runs one of the verbs.
pub(super) fn main(verb: &DmVerb) -> ExitCode {
    plumbing::seal_if_root();
    let run =
        |verb: &str, input: &Input, work: &dyn Fn(&DmRequest, &Caller) -> Result<DmReply, DmVerbError>| {
            plumbing::value_verb(TOOL, verb, || {
                let reply = work(&request(input)?, &caller()?)?;
                Ok(plumbing::value(&reply))
            })
        };
    match verb {
        DmVerb::Create(input) => run("dm create", input, &dm::create),
        DmVerb::Remove(input) => run("dm remove", input, &dm::remove),
        DmVerb::Status(input) => run("dm status", input, &dm::status),
        DmVerb::Gc(input) => plumbing::value_verb(TOOL, "dm gc", || gc(input)),
    }
}

fn request(input: &Input) -> Result<DmRequest, Failure> {
    let request: DmRequest =
        serde_json::from_slice(&input.bytes()?).map_err(|error| DmEdgeError::Request(error.to_string()))?;
    if request.schema != DM_SCHEMA {
        return Err(DmEdgeError::Request(format!("its schema is {:?}", request.schema)).into());
    }
    Ok(request)
}

/// Who called, by the process's credentials and sudo's variable.
fn caller() -> Result<Caller, Failure> {
    let sudo_uid = std::env::var_os("SUDO_UID").map(|uid| uid.to_string_lossy().into_owned());
    let euid = rustix::process::geteuid().as_raw();
    Ok(Caller::new(euid, sudo_uid.as_deref()).map_err(DmEdgeError::SudoUid)?)
}

fn gc(input: &Input) -> Result<Value, Failure> {
    let (state, keep) = collect::listed(input)?;
    let dm::Collected { removed, errors } = dm::gc(&state, &keep, &caller()?)?;
    let errors = errors.iter().map(|error| Fault::new(error, TOOL, "dm gc")).collect();
    collect::account(TOOL, removed, errors)
}

/// The way to device-mapper: this process where it is root, else the same program through sudo.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByPrivilege;

impl ByPrivilege {
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn call(
        verb: &str,
        request: &DmRequest,
        here: fn(&DmRequest, &Caller) -> Result<DmReply, DmVerbError>,
    ) -> Result<DmReply, MapperError> {
        if Self::is_root() {
            // What a stage of a pipeline run by root does is root's own, whoever called sudo before it.
            return Ok(here(request, &Caller::root())?);
        }
        let own = std::env::current_exe().map_err(MapperError::Own)?;
        let json = serde_json::to_vec(request).expect("a request has string keys only");
        let exec =
            Exec::new("sudo").args(["-n", "--"]).arg(own).args(["dm", verb]).stdin(json).deadline(LIMIT);
        let output = exec.output().map_err(MapperError::Sudo)?;
        if let Ok(reply) = serde_json::from_slice(&output.stdout) {
            return Ok(reply);
        }
        let told: Result<ErrorRecord, _> = serde_json::from_slice(&output.stdout);
        Err(told.map_or(MapperError::NoReply, |record| MapperError::Told(Box::new(record.error))))
    }
}

impl Mapper for ByPrivilege {
    fn is_at_hand(&self, vm: &Vm) -> bool {
        // Through sudo only where the VM's network needs it as well.
        let willing = Self::is_root() || vm.net_mode == NetMode::Tap;
        willing && Path::new(CONTROL).exists()
    }

    fn create(&self, request: &DmRequest) -> Result<DmReply, MapperError> {
        Self::call("create", request, dm::create)
    }

    fn remove(&self, request: &DmRequest) -> Result<DmReply, MapperError> {
        Self::call("remove", request, dm::remove)
    }
}
