//! Room for what VMs write: the filesystem of the state directory, and device-mapper's files of changes. Either that is full gives
//! guests I/O errors, so it is told before.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use banger_contract::dm::{DmReply, DmRequest};
use banger_contract::record::{DiskBackend, Vm};
use banger_contract::reply::{Check, CheckState};
use banger_contract::types::Size;
use banger_host::fs::space::Space;
use banger_state::db::{Store, VmRow};
use banger_state::dir::VmDir;
use bytesize::ByteSize;
use serde_json::json;

use crate::context::{Context, Result};
use crate::lifecycle;
use crate::stage::Stage;

/// From which share on a file of changes is told of, percent.
const NEARLY_FULL: u64 = 80;

/// For `banger doctor`: the room of the state directory and of VMs' files of changes.
pub fn checks(context: &Context) -> Vec<Check> {
    let root = context.state.root();
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let mut checks = Vec::new();
    if let Ok(space) = Space::of(existing) {
        let state = if space.is_low() { CheckState::Note } else { CheckState::Ok };
        checks.push(Check { name: "space".into(), state, detail: room(context, space) });
    }
    let rows =
        Store::open_existing(&context.state).ok().flatten().map_or(Ok(Vec::new()), |store| store.vms());
    let changes = rows.unwrap_or_default();
    checks.extend(changes.iter().filter_map(|row| changes_problem(context, row)).map(|detail| Check {
        name: "changes".into(),
        state: CheckState::Note,
        detail,
    }));
    checks
}

/// For `banger ps`: what is nearly full, to whoever looks at VMs.
pub fn warn(context: &Context, rows: &[VmRow]) {
    if let Ok(space) = Space::of(context.state.root())
        && space.is_low()
        && !rows.is_empty()
    {
        context.say(room(context, space));
    }
    rows.iter().filter_map(|row| changes_problem(context, row)).for_each(|problem| context.say(problem));
}

/// After a guest's command has failed: whether the host's full disk may be why.
pub fn explain(context: &Context, vm: &Vm) {
    if Space::of(context.state.root()).is_ok_and(|space| space.is_full()) {
        let (root, name) = (context.state.root().display(), &vm.name);
        context.say(format!(
            "the filesystem of {root} is full, so {name} gets I/O errors when it writes, and what it wrote last may be lost; make room, then: banger vm stop {name} && banger vm start {name}"
        ));
    }
}

fn room(context: &Context, space: Space) -> String {
    let short = |bytes| ByteSize::b(bytes).display().iec_short().to_string();
    let (free, size, root) =
        (short(space.free_bytes), short(space.size_bytes), context.state.root().display());
    let advice = if space.is_low() { ": VMs get I/O errors when it is full" } else { "" };
    format!("{free} of {size} are free on the filesystem of {root}{advice}")
}

/// What is wrong with the VM's file of changes. Only root may ask the kernel, and asking through sudo for every VM takes too long; to
/// others the file itself tells how much is in it, since the kernel fills it from its beginning.
fn changes_problem(context: &Context, row: &VmRow) -> Option<String> {
    let disk = lifecycle::document(row).disk().ok()??;
    if disk.backend != DiskBackend::Dm {
        return None;
    }
    let name = row.vm.name.as_str();
    if !rustix::process::geteuid().is_root() {
        let (used_bytes, size_bytes) = held(&VmDir::at(&row.vm.paths.dir).cow())?;
        return nearly_full(name, used_bytes, size_bytes);
    }
    let reply = changes(context, &row.vm).ok()?;
    if reply.broken {
        return Some(format!("the root of {name} is broken: its file of changes was full"));
    }
    nearly_full(name, reply.used_bytes?, reply.size_bytes?)
}

/// How much of the file is no hole, and how large it is.
fn held(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.blocks().saturating_mul(512), file.len()))
}

fn nearly_full(name: &str, used_bytes: u64, size_bytes: u64) -> Option<String> {
    let percent = used_bytes.saturating_mul(100) / size_bytes.max(1);
    (percent >= NEARLY_FULL).then(|| {
        let size = Size::from_bytes(size_bytes);
        format!("the changes to the root of {name} fill {percent} % of the {size} that they may take; its root is lost when they are full")
    })
}

fn changes(context: &Context, vm: &Vm) -> Result<DmReply> {
    let stage = Stage::new("banger-disk", "dm").arg("status");
    let reply = stage.run(context, json!(DmRequest::of(vm)).to_string().as_bytes(), None)?;
    Ok(serde_json::from_value(reply).map_err(|_| crate::stage::StageError::NoRecord {
        program: "banger-disk".into(),
        verb: "dm status".into(),
        status: 0,
    })?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_of_changes_tells_how_full_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.cow");
        let file = fs::File::create_new(&path).unwrap();
        file.set_len(10 << 20).unwrap();
        let told = || {
            let (used_bytes, size_bytes) = held(&path).unwrap();
            nearly_full("dev1", used_bytes, size_bytes)
        };
        file.write_all_at(&[1; 4 << 20], 0).unwrap();
        file.sync_all().unwrap();
        assert_eq!(told(), None);
        file.write_all_at(&[1; 9 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let told = told().unwrap();
        assert!(told.contains("dev1 fill 90 % of the 10M"), "{told}");
        assert_eq!(held(&dir.path().join("none")), None);
    }
}
