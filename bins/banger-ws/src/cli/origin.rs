//! The workspace that a patch comes from, where it goes to the checkout which that was copied from: what both agree on is moved on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_cli::Failure;
use banger_contract::Document;
use banger_protocol::changes::Request;
use banger_state::dir::VmDir;
use banger_state::lock::{WorkspaceLock, state_of};
use tempfile::NamedTempFile;

use crate::agreed::Step;
use crate::apply::ApplyError;
use crate::checkout::Checkout;
use crate::error::WorkspaceError;
use crate::patch::{self, Scanned, Status};
use crate::sent::Memory;

/// The workspace that a patch comes from, where it goes to the checkout which that was copied from.
pub struct PatchOrigin {
    dir: VmDir,
    memory: Memory,
    base_commit: String,
    request: Request,
    /// Which of its trees the checkout is.
    tree: usize,
    _lock: WorkspaceLock,
}

impl PatchOrigin {
    /// `None` where the VM is gone, or the checkout is another one.
    pub fn of(document: &Document, checkout: &Checkout) -> Result<Option<Self>, Failure> {
        let (Ok(vm), Ok(Some(workspace))) = (document.vm(), document.workspace()) else { return Ok(None) };
        let dir = VmDir::at(&vm.paths.dir);
        let Ok(below) = checkout.root.strip_prefix(&workspace.host_path) else { return Ok(None) };
        if !dir.path().is_dir() {
            return Ok(None);
        }
        let lock = WorkspaceLock::acquire(&state_of(&vm)?, &vm.id, "banger-ws apply")?;
        let memory = Memory::of(&dir);
        let Some(request) = memory.agreed(&workspace.base_commit) else { return Ok(None) };
        let tree = request.trees.iter().position(|tree| tree.prefix == below.as_os_str().as_bytes());
        let base_commit = workspace.base_commit;
        Ok(tree.map(|tree| Self { dir, memory, base_commit, request, tree, _lock: lock }))
    }

    /// What the patch makes of what both sides agree on.
    pub fn step(&self, patch: &Path, scanned: &Scanned) -> Result<Option<Step>, WorkspaceError> {
        Step::of(self.dir.path(), &self.memory.objects(), (&self.request, self.tree), (patch, scanned))
    }

    /// The part of the patch that the checkout does not have yet, in a file of ours; `None` where that is all of it.
    pub fn what_is_new(
        &self,
        step: &Step,
        checkout: &Checkout,
        patch: &Path,
        scanned: &Scanned,
    ) -> Result<Option<(NamedTempFile, Scanned)>, Failure> {
        let (mut kept, mut halves) = (BTreeSet::new(), BTreeSet::new());
        let mut conflicts = Vec::new();
        for (number, entry) in scanned.entries.iter().enumerate() {
            if entry.status == Status::Deleted && step.has_other_mode(checkout, &entry.path)? {
                conflicts.push(String::from_utf8_lossy(&entry.path).into_owned());
            }
            let mut new = Vec::new();
            for path in entry.paths() {
                if !step.is_home(checkout, path)? {
                    new.push(path.clone());
                }
            }
            if new.len() == entry.paths().count() {
                kept.insert(number);
            } else {
                halves.extend(new);
            }
        }
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflict { root: checkout.root.clone(), paths: conflicts }.into());
        }
        if kept.len() == scanned.entries.len() {
            return Ok(None);
        }
        let temp = tempfile::Builder::new().prefix(".patch-").tempfile_in(self.dir.path());
        let temp = temp.map_err(WorkspaceError::io("make a file in", self.dir.path()))?;
        let mut from = File::open(patch).map_err(WorkspaceError::io("read", patch))?;
        let mut copied = scanned.copy(&mut from, &mut temp.as_file(), |number| kept.contains(&number));
        if !halves.is_empty() {
            let other = step.patch_of(self.dir.path(), &self.memory.objects(), &halves)?;
            copied = copied.and_then(|()| temp.as_file().write_all(&other));
        }
        copied.map_err(WorkspaceError::io("write", temp.path()))?;
        let read = WorkspaceError::io("read", temp.path());
        let rest =
            patch::scan(&mut temp.reopen().map_err(WorkspaceError::io("read", temp.path()))?, u64::MAX);
        let rest = rest.map_err(read)?.map_err(WorkspaceError::Patch)?;
        Ok(Some((temp, rest)))
    }

    /// What the patch has brought is on both sides now.
    pub fn agree(self, step: Step) -> Result<(), WorkspaceError> {
        let mut request = self.request;
        step.take(&mut request, self.tree);
        self.memory.agree(&self.base_commit, &request)
    }
}
