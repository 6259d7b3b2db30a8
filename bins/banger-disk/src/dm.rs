//! `dm`: a VM's root as a device-mapper snapshot. The one verb of `banger-disk` that needs root: it executes nothing, opens two files
//! whose owner and type it checks on the descriptors, and then only issues ioctls. A pure function of its request and the kernel.
//!
//! | object | name |
//! |---|---|
//! | one loop for each image, read-only, of all its VMs | found by the inode behind it |
//! | one loop for each VM's file of changes | goes with the snapshot |
//! | the image, followed by zeros up to the VM's size | `bgo<state>-<vm>-<uid>` |
//! | the snapshot of that: the VM's root | `bgd<state>-<vm>-<uid>` |
//! | the node that the VM's owner opens | `/dev/banger/bgd<state>-<vm>-<uid>` |
//!
//! The uid is the owner's, since the ids in a request are anybody's to write and another user's device of the same name would be in the
//! way. It is left out for root; earlier programs left it out for all, and a VM that has such a node keeps it until it is detached.
//!
//! The nodes are ours and not udev's, which would give its own back to root whenever the device changes. Every UUID holds the
//! state id and the owner, by which `gc` and `remove` know what is whose. Loops are the kernel's to count and to clear.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::cow::{self, CowFault};
use super::dm_error::DmVerbError;
use crate::sys::dm::{Control, DmError, Target};
use crate::sys::lease::Lease;
use crate::sys::loopdev::Loop;
use banger_contract::dm::{DM_SCHEMA, DmReply, DmRequest};
use banger_contract::host_policy::HostPolicy;
use banger_contract::types::{Size, StateId, VmId};
use banger_host::fs::rootlock::RootLock;
use banger_host::host_policy::{self, NotPermitted};
use banger_host::process::caller::Caller;

/// Where the nodes are.
pub const NODES: &str = "/dev/banger";
/// How long others may hold the lock: it serialises what looks for a shared loop and makes one.
const PATIENCE: Duration = Duration::from_secs(20);
/// The unit of copying: 8 sectors, which is ext4's block.
pub(super) const CHUNK_SECTORS: u64 = 8;
pub(super) const SECTOR: u64 = 512;
/// The largest root, bytes.
const MAX_SIZE_BYTES: u64 = 16 << 40;

/// How large the file of changes must be to take a root of `size_bytes` written all over: 16 bytes of bookkeeping for each
/// chunk, and some for headers (Documentation/admin-guide/device-mapper/snapshot.rst).
pub fn cow_size_bytes(size_bytes: u64) -> u64 {
    size_bytes.saturating_add(size_bytes / 128).saturating_add(4 << 20)
}

/// The names of one VM's objects.
struct Names {
    snapshot: String,
    origin: String,
    node: PathBuf,
    snapshot_uuid: String,
    origin_uuid: String,
}

impl Names {
    fn of(state: &StateId, vm: &VmId, owner: u32) -> Self {
        let plain = Self::with(state, vm, owner, "");
        let earlier = std::fs::symlink_metadata(&plain.node).is_ok_and(|metadata| metadata.uid() == owner);
        if owner == 0 || earlier { plain } else { Self::with(state, vm, owner, &format!("-{owner}")) }
    }

    /// Those whose names end in `end`.
    fn with(state: &StateId, vm: &VmId, owner: u32, end: &str) -> Self {
        let snapshot = format!("bgd{state}-{vm}{end}");
        Self {
            node: Path::new(NODES).join(&snapshot),
            snapshot,
            origin: format!("bgo{state}-{vm}{end}"),
            snapshot_uuid: format!("banger-d-{state}-{vm}-{owner}"),
            origin_uuid: format!("banger-o-{state}-{vm}-{owner}"),
        }
    }
}

/// The node of a VM's root.
pub fn node(state: &StateId, vm: &VmId, owner: u32) -> PathBuf {
    Names::of(state, vm, owner).node
}

/// The owner in a UUID of ours; `None`: it is not ours.
fn owner_in(uuid: &str, kind: &str, state: &StateId, vm: &VmId) -> Option<u32> {
    let digits = uuid.strip_prefix(&format!("banger-{kind}-{state}-{vm}-"))?;
    let owner: u32 = digits.parse().ok()?;
    (owner.to_string() == digits).then_some(owner)
}

fn lock() -> Result<RootLock, DmVerbError> {
    Ok(RootLock::acquire("dm.lock", PATIENCE)?)
}

/// Makes the VM's root, or finds it.
///
/// # Errors
/// [`DmVerbError`]; then nothing is left of what this call made.
pub fn create(request: &DmRequest, caller: &Caller) -> Result<DmReply, DmVerbError> {
    let owner = request.owner_uid;
    if !caller.may_act_for(owner) {
        return Err(DmVerbError::NotOwner { owner, caller: caller.uid().unwrap_or(0) });
    }
    let (Some(base), Some(cow), Some(size)) = (&request.base, &request.cow, request.size_bytes) else {
        return Err(DmVerbError::Incomplete);
    };
    let policy = caller.uid().map(|_| host_policy::read()).transpose()?;
    if let (Some(policy), Some(uid)) = (&policy, caller.uid()) {
        require_permitted(policy, uid, size)?;
    }
    let base_file = open_owned(base, owner, false)?;
    let cow_file = open_owned(cow, owner, true)?;
    let base_size = length(&base_file, base)?;
    if size % SECTOR != 0 || size > MAX_SIZE_BYTES || size < base_size || base_size < SECTOR {
        return Err(DmVerbError::Size { size, base: base_size });
    }
    require_fit(&cow_file, cow, size)?;
    let names = Names::of(&request.state_id, &request.vm_id, owner);
    let _lock = lock()?;
    let control = Control::open()?;
    if let Some(reply) = found(&control, &names, request, &cow_file, size)? {
        return Ok(reply);
    }
    if let Some(policy) = &policy {
        require_room(policy, &control, owner, size)?;
    }
    // What was seen is what the kernel reads: until it has, nobody else opens the file.
    let lease = Lease::take(&cow_file);
    let _lease = lease.map_err(|source| DmVerbError::Lease { path: cow.clone(), source })?;
    require_fit(&cow_file, cow, size)?;
    match make(&control, &names, &base_file, &cow_file, size, owner) {
        Ok(()) => Ok(reply(&control, &names, true)?),
        Err(error) => {
            // The first error is the one to tell; gc finds what even this could not remove.
            drop(unmake(&control, &names));
            Err(error)
        }
    }
}

/// # Errors
/// Root does not let the user have such a root.
fn require_permitted(policy: &HostPolicy, uid: u32, size: u64) -> Result<(), DmVerbError> {
    if !policy.admits(uid) {
        let (what, allowed) = ("a device-mapper root".to_owned(), "other users".to_owned());
        return Err(NotPermitted { uid, what, allowed, key: "uids" }.into());
    }
    if size > policy.dm_size.bytes() {
        let what = format!("a root of {}", Size::from_bytes(size));
        return Err(NotPermitted { uid, what, allowed: policy.dm_size.to_string(), key: "dm.size" }.into());
    }
    Ok(())
}

/// # Errors
/// The user has as many roots as root lets them have, or as large ones.
fn require_room(policy: &HostPolicy, control: &Control, uid: u32, size: u64) -> Result<(), DmVerbError> {
    let (mut held, mut total) = (1, size);
    for name in control.names()?.iter().filter(|name| name.starts_with("bgd")) {
        let theirs = |uuid: &str| uuid.starts_with("banger-d-") && uuid.ends_with(&format!("-{uid}"));
        if control.state(name)?.is_some_and(|state| theirs(&state.uuid)) {
            held += 1;
            total = total.saturating_add(control.sectors(name)?.saturating_mul(SECTOR));
        }
    }
    let (what, allowed, key) = if held > policy.dm_snapshots {
        (format!("{held} device-mapper roots"), policy.dm_snapshots.to_string(), "dm.snapshots")
    } else if total > policy.dm_total_size.bytes() {
        let what = format!("device-mapper roots of {} together", Size::from_bytes(total));
        (what, policy.dm_total_size.to_string(), "dm.total_size")
    } else {
        return Ok(());
    };
    Err(NotPermitted { uid, what, allowed, key }.into())
}

/// # Errors
/// The file of changes is not of a size for a root of `size` bytes, or holds what the kernel is not to be given ([`cow`]).
fn require_fit(file: &File, path: &Path, size: u64) -> Result<(), DmVerbError> {
    let cow_size = length(file, path)?;
    if cow_size < 4 * CHUNK_SECTORS * SECTOR || cow_size > cow_size_bytes(size) {
        return Err(DmVerbError::CowSize { path: path.to_owned(), size: cow_size });
    }
    cow::check(file, cow_size, size).map_err(|fault| match fault {
        CowFault::Io(source) => DmVerbError::Open { path: path.to_owned(), source },
        CowFault::Content(why) => DmVerbError::Unfit { path: path.to_owned(), why },
    })
}

/// Opens a file by what it is, not by its name: no symbolic link anywhere, regular, its owner's alone. Looked at before it is opened
/// for good, since opening a device or a FIFO does something.
fn open_owned(path: &Path, owner: u32, write: bool) -> Result<File, DmVerbError> {
    let error = |source| DmVerbError::Open { path: path.to_owned(), source };
    if !path.is_absolute() {
        return Err(DmVerbError::Unfit { path: path.to_owned(), why: "its path is not absolute" });
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle: OwnedFd = rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|errno| match errno {
        Errno::LOOP => DmVerbError::Unfit { path: path.to_owned(), why: "a symbolic link is on its way" },
        errno => error(errno.into()),
    })?;
    let stat = rustix::fs::fstat(&handle).map_err(|errno| error(errno.into()))?;
    let unfit = |why| Err(DmVerbError::Unfit { path: path.to_owned(), why });
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return unfit("it is not a regular file");
    }
    if stat.st_uid != owner {
        return unfit("it belongs to another user");
    }
    if write && stat.st_nlink != 1 {
        return unfit("it has several names");
    }
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let same = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let file = rustix::fs::open(same, access | OFlags::CLOEXEC, Mode::empty());
    Ok(File::from(file.map_err(|errno| error(errno.into()))?))
}

fn length(file: &File, path: &Path) -> Result<u64, DmVerbError> {
    let metadata = file.metadata();
    Ok(metadata.map_err(|source| DmVerbError::Open { path: path.to_owned(), source })?.len())
}

/// The root as it is, where it is the one that is asked for.
fn found(
    control: &Control,
    names: &Names,
    request: &DmRequest,
    cow: &File,
    size: u64,
) -> Result<Option<DmReply>, DmVerbError> {
    let Some(state) = control.state(&names.snapshot)? else {
        // A half that a killed call left: made anew.
        unmake(control, names)?;
        return Ok(None);
    };
    let mine = owner_in(&state.uuid, "d", &request.state_id, &request.vm_id) == Some(request.owner_uid);
    if !mine {
        return Err(DmVerbError::Foreign(names.snapshot.clone()));
    }
    if !state.live {
        unmake(control, names)?;
        return Ok(None);
    }
    let table = control.targets(&names.snapshot, true)?;
    let parameters = table.first().map(|(_, parameters)| parameters.clone()).unwrap_or_default();
    let over = parameters.split(' ').nth(1).map(Loop::backing_of).transpose();
    let over = over.map_err(|source| DmVerbError::Loop { path: names.node.clone(), source })?.flatten();
    let wanted = cow.metadata().map(|m| (m.dev(), m.ino())).ok();
    let sectors = control.sectors(&names.snapshot)?;
    if over != wanted || sectors != size / SECTOR {
        return Err(DmVerbError::Differs(names.snapshot.clone()));
    }
    let changed = hand_over(names, state.number, request.owner_uid)?;
    Ok(Some(reply(control, names, changed)?))
}

fn make(
    control: &Control,
    names: &Names,
    base: &File,
    cow: &File,
    size: u64,
    owner: u32,
) -> Result<(), DmVerbError> {
    let failed = |source| DmVerbError::Loop { path: names.node.clone(), source };
    let base_loop = Loop::shared(base).map_err(failed)?;
    let cow_loop = Loop::over(cow, false).map_err(failed)?;
    let (base_sectors, sectors) = (base_loop.size_bytes().map_err(failed)? / SECTOR, size / SECTOR);
    let mut origin = vec![Target {
        start: 0,
        sectors: base_sectors,
        kind: "linear",
        parameters: format!("{} 0", base_loop.number()),
    }];
    if sectors > base_sectors {
        let rest = sectors - base_sectors;
        origin.push(Target { start: base_sectors, sectors: rest, kind: "zero", parameters: String::new() });
    }
    control.create(&names.origin, &names.origin_uuid)?;
    control.load(&names.origin, &origin, true)?;
    let below = control.state(&names.origin)?.ok_or(DmVerbError::Vanished(names.origin.clone()))?;
    let below = format!("{}:{}", libc::major(below.number), libc::minor(below.number));
    let parameters = format!("{below} {} P {CHUNK_SECTORS}", cow_loop.number());
    control.create(&names.snapshot, &names.snapshot_uuid)?;
    control.load(&names.snapshot, &[Target { start: 0, sectors, kind: "snapshot", parameters }], false)?;
    let made = control.state(&names.snapshot)?.ok_or(DmVerbError::Vanished(names.snapshot.clone()))?;
    hand_over(names, made.number, owner).map(drop)
}

/// Makes the node, its owner's alone; whether it was not there.
fn hand_over(names: &Names, number: u64, owner: u32) -> Result<bool, DmVerbError> {
    let error = |source: io::Error| DmVerbError::Node { path: names.node.clone(), source };
    let dir = nodes().map_err(error)?;
    let name = names.snapshot.as_str();
    if let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        if block && stat.st_rdev == number && stat.st_uid == owner {
            return Ok(false);
        }
        rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(|e| error(e.into()))?;
    }
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(&dir, name, FileType::BlockDevice, mode, number).map_err(|e| error(e.into()))?;
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(0));
    rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| error(e.into()))?;
    Ok(true)
}

/// The directory of the nodes, root's alone, made where it is not there.
fn nodes() -> io::Result<OwnedFd> {
    match DirBuilder::new().mode(0o755).create(NODES) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(NODES, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(dir.as_fd())?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err(io::Error::other("it is not root's alone"));
    }
    Ok(dir)
}

/// Removes the node and both devices; whether anything was there.
fn unmake(control: &Control, names: &Names) -> Result<bool, DmVerbError> {
    // What is in use fails here, before anything is gone.
    let snapshot = control.remove(&names.snapshot)?;
    let origin = control.remove(&names.origin)?;
    let node = match std::fs::remove_file(&names.node) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(DmVerbError::Node { path: names.node.clone(), source }),
    };
    Ok(snapshot || origin || node)
}

/// Removes the VM's root; the file of changes stays. Removing nothing succeeds.
///
/// # Errors
/// [`DmVerbError`]: somebody has it open, or it is another user's.
pub fn remove(request: &DmRequest, caller: &Caller) -> Result<DmReply, DmVerbError> {
    let (state, vm) = (&request.state_id, &request.vm_id);
    let names = Names::of(state, vm, request.owner_uid);
    let _lock = lock()?;
    let control = Control::open()?;
    for (name, kind) in [(&names.snapshot, "d"), (&names.origin, "o")] {
        let Some(there) = control.state(name)? else { continue };
        let owner = owner_in(&there.uuid, kind, state, vm).ok_or(DmVerbError::Foreign(name.clone()))?;
        if !caller.may_act_for(owner) {
            return Err(DmVerbError::NotOwner { owner, caller: caller.uid().unwrap_or(0) });
        }
    }
    if !owns_node(&names, caller) {
        return Err(DmVerbError::Foreign(names.node.to_string_lossy().into_owned()));
    }
    let changed = unmake(&control, &names)?;
    Ok(DmReply { changed, ..nothing() })
}

/// Whether the node is the caller's to remove, or is not there.
fn owns_node(names: &Names, caller: &Caller) -> bool {
    std::fs::symlink_metadata(&names.node).map_or(true, |metadata| caller.may_act_for(metadata.uid()))
}

fn nothing() -> DmReply {
    DmReply {
        schema: DM_SCHEMA.to_owned(),
        device: None,
        changed: false,
        used_bytes: None,
        size_bytes: None,
        broken: false,
    }
}

fn reply(control: &Control, names: &Names, changed: bool) -> Result<DmReply, DmVerbError> {
    let targets = control.targets(&names.snapshot, false)?;
    let (_, status) = targets.first().cloned().unwrap_or_default();
    // "used/all metadata", or a word such as "Invalid" or "Overflow".
    let share = status.split(' ').next().and_then(|share| share.split_once('/'));
    let bytes = |text: &str| text.parse::<u64>().ok().map(|sectors| sectors * SECTOR);
    Ok(DmReply {
        device: Some(names.node.clone()),
        changed,
        used_bytes: share.and_then(|(used, _)| bytes(used)),
        size_bytes: share.and_then(|(_, size)| bytes(size)),
        broken: share.is_none(),
        ..nothing()
    })
}

/// What there is of the VM's root.
///
/// # Errors
/// [`DmVerbError`].
pub fn status(request: &DmRequest, caller: &Caller) -> Result<DmReply, DmVerbError> {
    let names = Names::of(&request.state_id, &request.vm_id, request.owner_uid);
    let control = Control::open()?;
    let Some(state) = control.state(&names.snapshot)? else { return Ok(nothing()) };
    let owner = owner_in(&state.uuid, "d", &request.state_id, &request.vm_id);
    let owner = owner.ok_or(DmVerbError::Foreign(names.snapshot.clone()))?;
    if !caller.may_act_for(owner) {
        return Err(DmVerbError::NotOwner { owner, caller: caller.uid().unwrap_or(0) });
    }
    reply(&control, &names, false)
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct Collected {
    /// The names of the devices that are gone.
    pub removed: Vec<String>,
    /// What could not be removed.
    pub errors: Vec<DmVerbError>,
}

/// Removes the roots of `state` that belong to none of the VMs in `keep` and to somebody for whom the caller may act.
///
/// # Errors
/// No privilege, or no device-mapper. What cannot be removed is in [`Collected::errors`].
pub fn gc(state: &StateId, keep: &BTreeSet<VmId>, caller: &Caller) -> Result<Collected, DmVerbError> {
    let _lock = lock()?;
    let control = Control::open()?;
    let mut names = control.names()?;
    // A node without a device, where removing was cut off before it.
    let left = std::fs::read_dir(NODES).into_iter().flatten().flatten();
    names.extend(left.filter_map(|entry| entry.file_name().into_string().ok()));
    let roots: BTreeSet<(VmId, String)> = names.iter().filter_map(|name| parts_of(name, state)).collect();
    let mut collected = Collected::default();
    for (vm, end) in roots.iter().filter(|(vm, _)| !keep.contains(vm)) {
        match collect(&control, state, (vm, end), caller) {
            Ok(Some(name)) => collected.removed.push(name),
            Ok(None) => {}
            Err(error) => collected.errors.push(error),
        }
    }
    Ok(collected)
}

/// The VM in the name of a device of `state`, and what is behind it.
fn parts_of(name: &str, state: &StateId) -> Option<(VmId, String)> {
    let rest = name.strip_prefix("bgd").or_else(|| name.strip_prefix("bgo"))?;
    let rest = rest.strip_prefix(state.as_str())?.strip_prefix('-')?;
    let at = rest.find('-').unwrap_or(rest.len());
    Some((rest[..at].parse().ok()?, rest[at..].to_owned()))
}

fn collect(
    control: &Control,
    state: &StateId,
    (vm, end): (&VmId, &str),
    caller: &Caller,
) -> Result<Option<String>, DmVerbError> {
    let names = Names::with(state, vm, 0, end);
    for (name, kind) in [(&names.snapshot, "d"), (&names.origin, "o")] {
        let there = control.state(name)?;
        let ours =
            |uuid: &str| owner_in(uuid, kind, state, vm).is_some_and(|owner| caller.may_act_for(owner));
        if there.is_some_and(|there| !ours(&there.uuid)) {
            return Ok(None);
        }
    }
    if !owns_node(&names, caller) {
        return Ok(None);
    }
    Ok(unmake(control, &names)?.then_some(names.snapshot))
}

impl From<DmError> for DmVerbError {
    fn from(error: DmError) -> Self {
        if error.action == "open" { Self::NoDeviceMapper(error) } else { Self::Dm(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are() {
        let (state, vm): (StateId, VmId) = ("0a1b2c3d".parse().unwrap(), "0123456789ab".parse().unwrap());
        let names = Names::of(&state, &vm, 1000);
        for name in [&names.snapshot, &names.origin] {
            assert_eq!(parts_of(name, &state), Some((vm.clone(), "-1000".to_owned())));
        }
        assert_eq!(parts_of(&names.snapshot, &"ffffffff".parse().unwrap()), None);
        let roots = Names::of(&state, &vm, 0);
        assert_eq!(roots.snapshot, "bgd0a1b2c3d-0123456789ab");
        assert_eq!(parts_of(&roots.snapshot, &state), Some((vm.clone(), String::new())));
        assert_eq!(owner_in(&names.snapshot_uuid, "d", &state, &vm), Some(1000));
        for uuid in ["", "LVM-x", "banger-d-0a1b2c3d-0123456789ab-", "banger-d-0a1b2c3d-0123456789ab-+1"] {
            assert_eq!(owner_in(uuid, "d", &state, &vm), None, "{uuid}");
        }
    }
}
