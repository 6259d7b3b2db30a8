//! What a verb fails with: any error that knows its place in the contract, or the failure of a stage before.

use serde_json::{Map, Value};

use banger_contract::{Coded, ErrorCode, Fault};

/// A failed verb. Made from any [`Coded`] error with `?`.
#[derive(Debug)]
pub enum Failure {
    /// This program's own error.
    Own(Box<dyn Coded>),
    /// The fault of a program that ran before or below this one, passed on as it is.
    Passed(Box<Fault>),
}

impl<E: Coded> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Own(Box::new(error))
    }
}

impl Failure {
    /// Its code in the contract.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Own(error) => error.code(),
            Self::Passed(fault) => fault.code,
        }
    }

    /// Facts about it for machines.
    pub fn details(&self) -> Map<String, Value> {
        match self {
            Self::Own(error) => error.details(),
            Self::Passed(fault) => fault.details.clone(),
        }
    }

    /// The fault to report when `tool verb` fails with this.
    pub fn into_fault(self, tool: &str, verb: &str) -> Fault {
        match self {
            Self::Own(error) => Fault::new(&*error, tool, verb),
            Self::Passed(fault) => *fault,
        }
    }
}
