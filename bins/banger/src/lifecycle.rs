//! A VM's life: start, stop, delete, and the undoing of what failed half-way.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_cli::{Failure, plumbing};
use banger_contract::config::{Config, ConfigError};
use banger_contract::file_sync::FileSync;
use banger_contract::record::{NetMode, Vm};
use banger_contract::types::Proxy;
use banger_contract::{Coded, Document, ErrorCode};
use banger_disk::cli::trust::{PROXY_VARIABLE, TrustSpec};
use banger_state::db::{Life, Store, VmRow};
use banger_state::dir::VmDir;
use banger_state::handles::Handles;
use banger_state::lock::{VmLock, is_alive};
use serde_json::json;
use thiserror::Error;

use crate::context::{self, Context, Result};
use crate::progress::Progress;
use crate::stage::Stage;
use crate::{resolver, vmm};

/// How long programs of a VM that is gone may write into its directory.
const WRITERS_END: Duration = Duration::from_secs(10);

/// What stands in the way of a lifecycle verb.
#[derive(Debug, Error)]
pub enum LifecycleError {
    #[error("VM {0} runs")]
    Runs(String),
    #[error("VM {0} does not run")]
    Stopped(String),
    #[error("VM {0} was deleted while the command ran")]
    Gone(String),
    #[error("no checkout has been copied into VM {0}")]
    NoWorkspace(String),
    #[error("cannot remove the directory {path:?} of VM {vm}")]
    Remove {
        vm: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Coded for LifecycleError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Runs(_) => ErrorCode::InUse,
            Self::Stopped(_) | Self::Gone(_) => ErrorCode::VmStopped,
            Self::NoWorkspace(_) => ErrorCode::NotFound,
            Self::Remove { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Runs(name) => Some(format!("stop it first (banger vm stop {name}), or give --force")),
            Self::Stopped(name) => Some(format!("start it: banger vm start {name}")),
            Self::NoWorkspace(name) => Some(format!(
                "copy one: banger vm workspace prepare {name} .; or go in without: banger vm ssh {name}"
            )),
            Self::Remove { .. } | Self::Gone(_) => None,
        }
    }
}

/// The open database and the VM that a person named.
pub fn find(context: &Context, name: &str) -> Result<(Store, VmRow)> {
    let missing = || banger_state::db::StoreError::NotFound(name.chars().take(80).collect());
    let store = Store::open_existing(&context.state)?.ok_or_else(missing)?;
    let row = store.vm(name)?;
    Ok((store, row))
}

/// The VM's record as of now: what it is from the database, what is true of it from its directory.
pub fn document(row: &VmRow) -> Document {
    let handles = Handles::load(&VmDir::at(&row.vm.paths.dir));
    let mut document = Document::new(&row.vm);
    document.set_net(handles.net.as_ref());
    document.set_disk(handles.disk.as_ref());
    document.set_vmm(handles.vmm.as_ref());
    document.set_workspace(handles.workspace.as_ref().or(row.workspace.as_ref()));
    document
}

/// Whether the VM runs.
pub fn runs(vm: &Vm) -> bool {
    is_alive(&VmDir::at(&vm.paths.dir))
}

/// The stages of a start, in order, each with its inverse.
pub fn start_stages(config: &Config, vm: &Vm, vmm_program: &'static str) -> Result<[(Stage, Stage); 3]> {
    let tap = vm.net_mode == NetMode::Tap;
    Ok([
        (Stage::new("banger-netd", "attach").privileged(tap), detach_network(vm)),
        (attach_stage(config)?, Stage::new("banger-disk", "detach")),
        (vmm::start_stage(config, vmm_program), Stage::new(vmm_program, "kill")),
    ])
}

/// What the stage that packs what of the host the guest gets is told: paths on the host are absolute.
fn attach_stage(config: &Config) -> std::result::Result<Stage, ConfigError> {
    let home = plumbing::directory_of("HOME");
    let mut stage = Stage::new("banger-disk", "attach");
    for sync in &config.file_sync {
        let host = sync.host_path(home.as_deref()).ok_or(ConfigError::NoHome)?;
        let sync = FileSync { host: host.to_string_lossy().into_owned(), ..sync.clone() };
        stage = stage.arg("--file-sync").arg(json!(sync).to_string());
    }
    let trust = TrustSpec::default().configured(config.host_ca);
    let stage = trust.into_iter().fold(stage, Stage::arg);
    Ok(stage.with_secret(PROXY_VARIABLE, config.proxy.as_ref().map(Proxy::with_credentials)))
}

/// What takes a VM's network away.
fn detach_network(vm: &Vm) -> Stage {
    let stage = Stage::new("banger-netd", "detach").privileged(vm.net_mode == NetMode::Tap);
    stage.where_linked(&vm.state_id)
}

/// Runs the stages of a start. If one fails, it and those before it are undone in reverse, unless `keep`.
pub fn run_start(context: &Context, mut document: Document, lock: &VmLock, keep: bool) -> Result<Document> {
    let vm = document.vm()?;
    let choice = vmm::choose(&context.config, &vm)?;
    let _progress = Progress::begin(context, &choice.line)?;
    let stages = start_stages(&context.config, &vm, choice.program)?;
    for (done, (stage, _)) in stages.iter().enumerate() {
        let ran = stage.run_record(context, &document, lock).and_then(|mut next| {
            // Before the disks: the guest's resolvers go into its initrd.
            if done == 0 {
                resolver::join(context, &mut next)?;
            }
            Ok(next)
        });
        match ran {
            Ok(next) => document = next,
            Err(failure) if keep => {
                context.say(format!(
                    "{} is left as it stands (--keep); remove it with: banger vm delete --force {}",
                    vm.name, vm.name
                ));
                return Err(failure);
            }
            // An interrupted stage may have been killed half-way, so its own inverse runs as well: all are idempotent.
            Err(failure) => return Err(undo(context, failure, &document, lock, &stages[..=done])),
        }
    }
    Ok(document)
}

/// Runs the inverses of `stages` in reverse; their failures join `failure` as further causes.
fn undo(
    context: &Context,
    failure: Failure,
    document: &Document,
    lock: &VmLock,
    stages: &[(Stage, Stage)],
) -> Failure {
    let mut document = document.clone();
    let mut errors = Vec::new();
    for (_, inverse) in stages.iter().rev() {
        match inverse.clone().steadfast().run_record(context, &document, lock) {
            Ok(next) => document = next,
            Err(error) => errors.push(error.into_fault(inverse.program, "undo").human_line()),
        }
    }
    if let Ok(vm) = document.vm() {
        resolver::refresh(context, &vm);
    }
    if errors.is_empty() {
        return failure;
    }
    let mut fault = context::tell(failure, "vm start");
    errors.iter().for_each(|error| context.say(format!("undoing failed as well: {error}")));
    fault.causes.extend(errors.into_iter().map(|error| format!("undoing failed as well: {error}")));
    Failure::Passed(Box::new(fault))
}

/// The stages of a stop, in order; `force` cuts the power.
pub fn stop_stages(context: &Context, vm: &Vm, document: &Document, force: bool) -> Result<[Stage; 3]> {
    let program = vmm::program_of(&context.config, document)?;
    let end = if force { Stage::new(program, "kill") } else { vmm::stop_stage(&context.config, program) };
    Ok([end, Stage::new("banger-disk", "detach"), detach_network(vm)])
}

/// Takes a VM down and detaches everything; `force` cuts the power.
pub fn run_stop(context: &Context, row: &VmRow, lock: &VmLock, force: bool) -> Result<Document> {
    let mut document = document(row);
    let stages = stop_stages(context, &row.vm, &document, force)?;
    for stage in stages {
        // Waiting for a guest to shut down may be given up; cutting its power and what follows may not.
        let stage = if force { stage.steadfast() } else { stage };
        document = stage.run_record(context, &document, lock)?;
    }
    resolver::refresh(context, &row.vm);
    // banger-netd is privileged and writes nothing here, so that the network is gone is ours to note.
    Handles::of(&document)?.save_less(&VmDir::at(&row.vm.paths.dir))?;
    Ok(document)
}

/// Removes every trace of a VM: process, disks, network, folder, row, locks. Safe when half of it is gone.
pub fn run_delete(context: &Context, store: &mut Store, row: &VmRow, lock: &VmLock) -> Result<()> {
    let dir = PathBuf::from(&row.vm.paths.dir);
    if dir.exists() {
        run_stop(context, row, lock, true)?;
    } else {
        end_without_files(context, row, lock)?;
    }
    if !dir.exists() && row.vm.net_mode == NetMode::Tap {
        detach_network(&row.vm).steadfast().run_record(context, &document(row), lock)?;
        resolver::refresh(context, &row.vm);
    }
    let remove = |source| LifecycleError::Remove { vm: row.vm.name.to_string(), path: dir.clone(), source };
    // If this program is killed from here on, the next command that makes or starts a VM deletes the rest.
    store.set_life(&row.vm.id, Life { creating: true, ..row.life })?;
    remove_directory(&dir).map_err(remove)?;
    store.remove(&row.vm.id)?;
    Ok(lock.remove_files(&context.state, &row.vm.id).map_err(remove)?)
}

/// Ends what still runs of a VM whose directory is gone, whichever VMM it is.
pub fn end_without_files(context: &Context, row: &VmRow, lock: &VmLock) -> Result<()> {
    Stage::new("banger-qemu", "kill").steadfast().run_record(context, &document(row), lock).map(drop)
}

/// Removes the directory of a VM whose programs may not have ended yet: banger-ws outlives a `banger` that was killed, and writes what
/// became of its command. One that is not there is no error.
fn remove_directory(dir: &Path) -> io::Result<()> {
    let until = Instant::now() + WRITERS_END;
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}
