//! What an attach made so far, and undoing it.

use banger_contract::reply::Blocked;
use banger_host::fs::rootlock::RootLock;

use crate::bridge::remove_bridge;
use crate::error::UndoError;
use crate::hold::Port;
use crate::request::TapRequest;
use crate::{NetError, firewall, rules};

/// What this attach made and would have to undo.
#[derive(Debug, Default)]
pub struct Made {
    pub bridge: bool,
    pub rules: bool,
    /// The published ports, nobody else's any more.
    pub ports: Vec<Port>,
    /// Not made, but found: who keeps the network from working.
    pub blocked: Vec<Blocked>,
}

/// Takes back what was made; a new tap went when its descriptor was closed.
pub fn undo(error: NetError, request: &TapRequest, made: &Made, lock: &RootLock) -> NetError {
    let names = &request.names;
    let mut undo_errors = Vec::new();
    let mut note = |result: Result<(), NetError>| {
        undo_errors.extend(result.err().map(|e| e.line()));
    };
    if made.bridge {
        note(firewall::remove_tables(&names.realm).map(drop));
        note(remove_bridge(names, lock));
    } else if made.rules && !matches!(error, NetError::AddressTaken(_)) {
        note(rules::remove_guest(&names.table, &names.key).map(drop));
    }
    // Without nft there are no rules to take back, and the failure itself says so.
    let nft_is_missing = matches!(&error, NetError::Nft(e) if e.is_missing_program());
    if undo_errors.is_empty() || nft_is_missing {
        return error;
    }
    UndoError { error: Box::new(error), undo_errors }.into()
}
