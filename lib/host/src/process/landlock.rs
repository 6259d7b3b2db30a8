//! Confinement of this process by Landlock (landlock(7)): the files that it still needs, one TCP port, no new privileges.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use thiserror::Error;

use banger_contract::{Coded, ErrorCode};

/// The newest rules that are asked for (Linux 6.7: TCP). An older kernel enforces what it knows.
const RULES: ABI = ABI::V4;

/// The kernel refused rules that it should know.
#[derive(Debug, Error)]
#[error("cannot confine this process")]
pub struct ConfineError(#[from] RulesetError);

impl Coded for ConfineError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Failed
    }
}

/// How much of the confinement the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    /// All of it.
    Fully,
    /// Files, but not TCP ports.
    Partly,
    /// Nothing: no Landlock in this kernel.
    Not,
}

/// From now on this thread and those that it starts read below `read`, write below `write`, connect to `ports` alone, start no
/// program and gain no privilege. Paths that are not there are left out.
pub fn confine(read: &[&Path], write: &[&Path], ports: &[u16]) -> Result<Confined, ConfineError> {
    let all = AccessFs::from_all(RULES);
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = all & !AccessFs::Execute;
    let mut rules = Ruleset::default()
        .handle_access(all)?
        .handle_access(AccessNet::from_all(RULES))?
        .create()?
        .add_rules(
            ports.iter().map(|port| Ok::<_, ConfineError>(NetPort::new(*port, AccessNet::ConnectTcp))),
        )?;
    for (paths, access) in [(read, reading), (write, writing)] {
        for path in paths {
            if let Ok(fd) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(fd, access))?;
            }
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Confined::Fully,
        RulesetStatus::PartiallyEnforced => Confined::Partly,
        RulesetStatus::NotEnforced => Confined::Not,
    })
}
