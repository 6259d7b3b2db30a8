//! `banger gc`: sweeps, then has every program compare what is recorded with what is there.

use std::path::Path;
use std::process::ExitCode;

use banger_contract::record::{NetMode, VMS_SCHEMA};
use banger_disk::dm::NODES;
use banger_state::db::{Store, StoreError};
use banger_state::lock::{self, LockError, SessionLock, VmLock};
use serde_json::{Value, json};

use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{resolver, sweep};

/// Removes the lock files of VMs that are no more, or never came to be. Gives whose they were.
fn sweep_locks(context: &Context, store: &Store) -> Result<Vec<String>> {
    let locks = context.state.locks();
    let error = |source| LockError::Io { path: locks.clone(), source };
    let mut removed = Vec::new();
    for id in lock::named_by_files(&context.state).map_err(error)? {
        let session = SessionLock::acquire(&context.state, &id, "banger gc");
        let vm =
            session.and_then(|session| Ok((session, VmLock::acquire(&context.state, &id, "banger gc")?)));
        // Only now, with nobody about to make the VM.
        if let (Ok((_session, vm)), Err(StoreError::NotFound(_))) = (vm, store.vm(id.as_str())) {
            vm.remove_files(&context.state, &id).map_err(error)?;
            removed.push(format!("locks of VM {id}"));
        }
    }
    Ok(removed)
}

/// `banger gc`: sweeps, then has every program compare what is recorded with what is there.
pub fn gc(context: &Context) -> Result<ExitCode> {
    // A build that was killed before there was any VM left its image there, and no database.
    let store = match Store::open_existing(&context.state)? {
        None if context.state.locks().is_dir() => Some(Store::open(&context.state)?),
        store => store,
    };
    let Some(mut store) = store else {
        return Ok(finish(
            context,
            &json!({ "schema": "banger.gc/1", "tool": "banger", "removed": [], "errors": [] }),
        ));
    };
    let (swept, mut errors) = sweep::sweep(context, &mut store)?;
    let locks = sweep_locks(context, &store)?;
    let mut removed: Vec<Value> = swept.into_iter().chain(locks).map(Value::from).collect();
    let rows = store.vms()?;
    let list = json!({
        "schema": VMS_SCHEMA,
        "state_id": store.state_id(),
        "items": rows.iter().map(|row| json!({ "id": row.vm.id, "name": row.vm.name })).collect::<Vec<_>>(),
    });
    let tap = rows.iter().any(|row| row.vm.net_mode == NetMode::Tap)
        || rustix::process::geteuid().is_root()
        || resolver::is_left(store.state_id());
    let mut stages = vec![
        Stage::new("banger-qemu", "gc").arg("--state-dir").arg(context.state.root()),
        Stage::new("banger-disk", "gc").arg("--state-dir").arg(context.state.root()),
        Stage::new("banger-ws", "gc").arg("--state-dir").arg(context.state.root()),
    ];
    // The directory is there once a device-mapper root was made since the host was started.
    if Path::new(NODES).exists() {
        stages.push(Stage::new("banger-disk", "dm").arg("gc").privileged(true));
    }
    // Without a tap ever made there is nothing that only root could remove.
    if tap {
        let stage = Stage::new("banger-netd", "gc").privileged(true);
        let left = resolver::is_left(store.state_id());
        stages.push(if left { stage } else { stage.where_linked(store.state_id()) });
    }
    let input = list.to_string();
    for stage in stages {
        match stage.run(context, input.as_bytes(), None) {
            Ok(report) => removed.extend(report["removed"].as_array().cloned().unwrap_or_default()),
            Err(failure) => errors.push(context::tell(failure, "gc")),
        }
    }
    // What went has no name any more; and a resolver that was killed is missed by the VMs that stay.
    if tap && let Err(failure) = resolver::mend(context) {
        errors.push(context::tell(failure, "gc"));
    }
    let exit = finish(
        context,
        &json!({ "schema": "banger.gc/1", "tool": "banger", "removed": removed, "errors": errors }),
    );
    Ok(errors.first().map_or(exit, |fault| ExitCode::from(fault.code.exit_status())))
}

fn finish(context: &Context, report: &Value) -> ExitCode {
    if context.json {
        return context::emit(report);
    }
    let removed = report["removed"].as_array().map_or(0, Vec::len);
    context.say(format!("{removed} leftover{} removed", if removed == 1 { "" } else { "s" }));
    ExitCode::SUCCESS
}
