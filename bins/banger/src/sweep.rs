//! Cleaning up after commands that were killed.

use banger_contract::error::Fault;
use banger_state::db::{Store, VmRow};
use banger_state::lock::{LockError, SessionLock, VmLock};

use crate::context::{Context, Result};
use crate::lifecycle;

/// Deletes the VMs whose making was cut short, or whose `vm run --rm` was killed. A VM whose command lives is left alone.
/// One that cannot be removed is told of and given, and stands in nobody's way.
pub fn sweep(context: &Context, store: &mut Store) -> Result<(Vec<String>, Vec<Fault>)> {
    let (mut removed, mut errors) = (Vec::new(), Vec::new());
    for row in store.suspects()? {
        let name = &row.vm.name;
        match sweep_one(context, store, &row) {
            Ok(true) => {
                context.say(format!("removed {name}, left by a command that was killed"));
                removed.push(name.to_string());
            }
            Ok(false) => {}
            Err(failure) => {
                let fault = failure.into_fault("banger", "gc");
                context.say(format!(
                    "cannot remove {name}, left by a command that was killed: {}",
                    fault.human_line()
                ));
                errors.push(fault);
            }
        }
    }
    Ok((removed, errors))
}

fn sweep_one(context: &Context, store: &mut Store, row: &VmRow) -> Result<bool> {
    let session = SessionLock::acquire(&context.state, &row.vm.id, "banger gc");
    let lock = session.and_then(|session| {
        VmLock::acquire(&context.state, &row.vm.id, "banger gc").map(|lock| (session, lock))
    });
    match lock {
        Ok((_session, lock)) => lifecycle::run_delete(context, store, row, &lock).map(|()| true),
        Err(LockError::Busy { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
