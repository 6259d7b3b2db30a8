//! Asking the VMM's program about a VM that runs.

use std::process::ExitCode;

use banger_contract::{Coded, ErrorCode};
use banger_state::db::VmRow;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::context::{self, Context, Result};
use crate::lifecycle::{self, LifecycleError};
use crate::stage::{self, Stage};
use crate::{observed, vmm};

/// What is wrong with a VM that runs.
#[derive(Debug, Error)]
pub enum InsideError {
    #[error("VM {0} runs, and its agent does not answer")]
    Sick(String),
    #[error("{program} {verb} gave something else than its record")]
    Nonsense { program: &'static str, verb: &'static str },
}

impl Coded for InsideError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Sick(_) => ErrorCode::Failed,
            Self::Nonsense { .. } => ErrorCode::Bug,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Sick(name) => Some(format!("see what its console says: banger vm logs {name}")),
            Self::Nonsense { .. } => Some("install all of banger's programs from one version".into()),
        }
    }
}

/// Runs a verb of the VM's VMM program on its record.
pub fn ask<T: DeserializeOwned>(context: &Context, row: &VmRow, verb: &'static str) -> Result<T> {
    if !lifecycle::runs(&row.vm) {
        return Err(LifecycleError::Stopped(row.vm.name.to_string()).into());
    }
    let document = observed::current(row)?;
    let program = vmm::program_of(&context.config, &document)?;
    let value = Stage::new(program, verb).run(context, document.to_value().to_string().as_bytes(), None)?;
    Ok(serde_json::from_value(value).map_err(|_| InsideError::Nonsense { program, verb })?)
}

/// The pipeline that a verb stands for.
pub fn explained(context: &Context, row: &VmRow, verb: &'static str) -> Result<ExitCode> {
    let program = vmm::program_of(&context.config, &observed::current(row)?)?;
    Ok(context::print(&stage::pipeline(&row.vm.name, [&Stage::new(program, verb)])))
}
