//! Deciding what a VM is: its image, sizes, name, address and keys. The beginning of every pipeline.

use std::fs::DirBuilder;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use banger_contract::config::Config;
use banger_contract::record::{NetMode, Paths, Vm, VmmKind};
use banger_contract::types::{Cidr, MacAddr, Size, StateId, VmId, VmName};
use banger_contract::{Coded, ErrorCode};
use banger_disk::image::{self, Image, ImageError};
use banger_disk::kernel::{self, Kernel, KernelError};
use banger_disk::seed;
use banger_formats::ext4::Ext4Error;
use banger_host::fs::atomic;
use banger_host::process::exec;
use banger_host::{clock, random};
use banger_netd::request::Policy;
use banger_qemu::QemuError;
use banger_state::db::{Lease, Life, Store, StoreError};
use banger_state::dir::{StateDir, VmDir};
use thiserror::Error;

use crate::context::{Context, Result};
use crate::options::spec::Spec;
use crate::subnet;
use crate::sys::sshkey;

/// Where slirp, QEMU's user network, puts its only guest (QEMU's manual, "User mode networking").
const USER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// Slirp's gateway.
const USER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// Why a VM cannot be planned.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error("Firecracker has no user networking")]
    FirecrackerUser,
    #[error("a {what} of {wanted} is wanted, and that of the image {image} has {least} already")]
    Small { what: &'static str, wanted: Size, image: String, least: Size },
    #[error(
        "a work disk of {wanted} is wanted, and what the image {image} has in /root needs one of {least}"
    )]
    NoRoom { wanted: Size, image: String, least: Size },
    #[error("cannot tell how much the image {image} has in /root")]
    Seed {
        image: String,
        #[source]
        source: Ext4Error,
    },
    #[error("cannot make the directory {path:?}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Coded for PlanError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::FirecrackerUser => ErrorCode::Unsupported,
            Self::Small { .. } | Self::NoRoom { .. } => ErrorCode::Usage,
            Self::Seed { .. } | Self::Directory { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::FirecrackerUser => Some("use --net tap, or --vmm qemu".into()),
            Self::Small { .. } => {
                Some("disks grow and never shrink; they take no more of the host than they hold".into())
            }
            _ => None,
        }
    }
}

/// Inserts a VM into the database and makes its directory and keys. If that fails nothing is left of it.
pub fn plan(context: &Context, store: &mut Store, wanted: &Wanted<'_>) -> Result<Vm> {
    check(context, store, wanted)?;
    let config = &wanted.config;
    seed::heal(&context.state, &config.image)?;
    let image = image::load(&context.state, &config.image)?
        .ok_or_else(|| ImageError::Unknown(config.image.clone()))?;
    let kernel = chosen_kernel(context, config)?;
    let (rootfs_size_bytes, work_size_bytes) = sizes(config, &image)?;
    let net_mode = net_mode(config)?;
    let subnet = match net_mode {
        NetMode::Tap => Some(subnet::choose(store, config.subnet)?),
        NetMode::User => None,
    };
    let choice = Choice { image: &image, kernel, net_mode, subnet, rootfs_size_bytes, work_size_bytes };
    let vm = insert(context, store, wanted, &choice)?;
    if let Err(failure) = make_files(&context.state, &vm) {
        // The row goes too, so that the name is free again; what could not be removed is gc's.
        drop(std::fs::remove_dir_all(&vm.paths.dir));
        store.remove(&vm.id)?;
        return Err(failure);
    }
    Ok(vm)
}

/// Checks of `wanted` what can be told without its image, which may take minutes to make.
pub fn check(context: &Context, store: &mut Store, wanted: &Wanted<'_>) -> Result<()> {
    let (config, reach) = (&wanted.config, &wanted.spec.reach);
    wanted.name.map_or(Ok(()), |name| store.require_free(name))?;
    chosen_kernel(context, config)?;
    let net_mode = net_mode(config)?;
    require_net_rate(wanted, net_mode)?;
    let (nat, egress, publish, mtu) = (config.nat, &config.egress, &reach.publish[..], config.mtu);
    Policy { net_mode, nat, egress, peer: reach.peer, publish, mtu }.check()?;
    if net_mode == NetMode::Tap && config.subnet.is_some() {
        subnet::choose(store, config.subnet)?;
    }
    Ok(())
}

/// The kernel that is not part of the image, where one is wanted.
fn chosen_kernel(context: &Context, config: &Config) -> Result<Option<Kernel>> {
    let Some(name) = &config.kernel else { return Ok(None) };
    Ok(Some(kernel::load(&context.state, name)?.ok_or_else(|| KernelError::Unknown(name.clone()))?))
}

/// What a command wants.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// A new identifier: chosen by the caller, who may hold locks of that name before anybody can see the VM.
    pub id: VmId,
    /// The name; `None`: a generated one.
    pub name: Option<&'a VmName>,
    pub spec: &'a Spec,
    /// The configuration with `spec` over it.
    pub config: Config,
    pub life: Life,
}

impl<'a> Wanted<'a> {
    /// A VM that no running command answers for.
    pub fn lasting(context: &Context, name: &'a VmName, spec: &'a Spec) -> Self {
        let life = Life { creating: false, ephemeral: false };
        let (id, config) = (VmId::from_bytes(random::bytes()), spec.over(&context.config));
        Self { id, name: Some(name), spec, config, life }
    }
}

/// What was decided before the database is asked.
struct Choice<'a> {
    image: &'a Image,
    /// `None`: the image's own.
    kernel: Option<Kernel>,
    net_mode: NetMode,
    subnet: Option<Cidr>,
    rootfs_size_bytes: u64,
    work_size_bytes: u64,
}

/// How large root and work disk are to be: not smaller than what the image has in them.
fn sizes(config: &Config, image: &Image) -> Result<(u64, u64)> {
    let root = config.disk_size_bytes.unwrap_or_else(|| image.default_rootfs_size_bytes());
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let least = length(&image.rootfs);
    let small = |wanted: u64, least: u64| {
        let (wanted, least) = (Size::from_bytes(wanted), Size::from_bytes(least));
        (wanted, image.name().to_string(), least)
    };
    if config.disk_size_bytes.is_some() && root < least {
        let (wanted, image, least) = small(root, least);
        return Err(PlanError::Small { what: "root filesystem", wanted, image, least }.into());
    }
    let work = config.work_size_bytes.unwrap_or_else(|| image.default_work_size_bytes());
    if work < length(&image.work_seed) {
        let least = seed::least_work_bytes(image)
            .map_err(|source| PlanError::Seed { image: image.name().to_string(), source })?;
        if work < least {
            let (wanted, image, least) = small(work, least);
            return Err(PlanError::NoRoom { wanted, image, least }.into());
        }
    }
    Ok((root, work))
}

fn insert(context: &Context, store: &mut Store, wanted: &Wanted<'_>, choice: &Choice<'_>) -> Result<Vm> {
    let state_id = store.state_id().clone();
    let mut attempts = 0;
    loop {
        let chosen = wanted.name.cloned().unwrap_or_else(generated_name);
        let made = store.insert(&chosen, choice.subnet, wanted.life, |lease| {
            describe(&context.state, state_id.clone(), chosen.clone(), wanted, choice, lease)
        });
        match made {
            // A generated name that is taken is nobody's mistake.
            Err(StoreError::NameTaken { .. }) if wanted.name.is_none() && attempts < 20 => attempts += 1,
            result => return Ok(result?),
        }
    }
}

fn describe(
    state: &StateDir,
    state_id: StateId,
    name: VmName,
    wanted: &Wanted<'_>,
    choice: &Choice<'_>,
    lease: Lease,
) -> Vm {
    let (id, spec, config) = (wanted.id.clone(), wanted.spec, &wanted.config);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let address = lease.address.unwrap_or(USER_ADDRESS);
    let own = &choice.image;
    let [kernel, kernel_elf, initrd] = match &choice.kernel {
        Some(kernel) => [&kernel.kernel, &kernel.kernel_elf, &kernel.initrd],
        None => [&own.kernel, &own.kernel_elf, &own.initrd],
    };
    let gateway = choice.subnet.and_then(|subnet| subnet.nth(1)).unwrap_or(USER_GATEWAY);
    Vm {
        state_id,
        owner_uid: rustix::process::getuid().as_raw(),
        created_at: clock::now_rfc3339(),
        image: config.image.clone(),
        kernel: config.kernel.clone(),
        env: own.manifest.run.as_ref().map(|run| run.env.clone()).unwrap_or_default(),
        init: config.init.unwrap_or_else(|| choice.image.init()),
        hostname: name.clone(),
        name,
        vcpus: config.vcpus.unwrap_or_else(default_vcpus),
        memory_mib: config.memory_mib,
        rootfs_size_bytes: choice.rootfs_size_bytes,
        work_size_bytes: choice.work_size_bytes,
        ttl_s: config.ttl_s,
        address,
        prefix_len: choice.subnet.map_or(24, |subnet| subnet.prefix_len()),
        gateway,
        mac: MacAddr::for_guest(address),
        cid: lease.cid,
        net_mode: choice.net_mode,
        nat: config.nat,
        egress: config.egress.clone(),
        peer: spec.reach.peer,
        publish: spec.reach.publish.clone(),
        open_firewall: config.open_firewall,
        disk_rate_bytes_s: spec.disk_rate.and_then(|rate| rate.0),
        net_rate_bytes_s: spec.reach.net_rate.and_then(|rate| rate.0),
        mtu: config.mtu,
        disk_backend: config.disk_backend,
        max_changes_bytes: config.max_changes_bytes,
        vmm_kind: config.vmm_kind,
        paths: Paths {
            dir: text(&state.vm(&id)),
            rootfs: text(&own.rootfs),
            kernel: text(kernel),
            kernel_elf: text(kernel_elf),
            initrd: text(initrd),
            work_seed: text(&choice.image.work_seed),
            upper_seed: text(&choice.image.upper_seed),
        },
        id,
    }
}

/// The host's processors, at most 2: a VM is for one checkout, and its host has other things to do.
fn default_vcpus() -> u8 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(2) as u8)
}

/// Makes what a VM has before its first start, where it is missing: its directory with the guest's host key, and the key with which this
/// state directory logs in.
pub fn make_files(state: &StateDir, vm: &Vm) -> Result<()> {
    let path = PathBuf::from(&vm.paths.dir);
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PlanError::Directory { path, source }.into());
        }
        _ => {}
    }
    let dir = VmDir::at(&vm.paths.dir);
    let host_key = sshkey::ensure(&dir.host_key(), vm.name.as_str())?;
    let line = format!("{} {host_key}\n", host_key_alias(&vm.id));
    atomic::write(&dir.known_hosts(), line.as_bytes(), 0o600)?;
    sshkey::ensure(&state.client_key(), "banger")?;
    Ok(())
}

/// The name under which the guest's key stands in its known_hosts: addresses and ports are used again, identifiers never.
pub fn host_key_alias(id: &VmId) -> String {
    format!("banger-{id}")
}

/// Tap or user networking: a tap, unless one is named, where this process may make one with what is installed.
fn net_mode(config: &Config) -> Result<NetMode> {
    let possible = || if may_make_taps() { NetMode::Tap } else { NetMode::User };
    let mode = config.net_mode.unwrap_or_else(possible);
    if mode == NetMode::User && config.vmm_kind == VmmKind::Firecracker {
        return Err(PlanError::FirecrackerUser.into());
    }
    Ok(mode)
}

/// # Errors
/// A limit for the network is wanted, and the VMM is one that has none, whatever the host.
fn require_net_rate(wanted: &Wanted<'_>, net_mode: NetMode) -> Result<()> {
    let limited = wanted.spec.reach.net_rate.is_some_and(|rate| rate.0.is_some());
    // Firecracker has no user networking.
    let is_qemu = wanted.config.vmm_kind == VmmKind::Qemu || net_mode == NetMode::User;
    if limited && is_qemu { Err(QemuError::NetRate.into()) } else { Ok(()) }
}

fn may_make_taps() -> bool {
    let installed = |program: &str| exec::find_program(program.as_ref()).is_some();
    rustix::process::geteuid().is_root()
        && installed("nft")
        && std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// A name such as `calm-otter-3f2a`.
fn generated_name() -> VmName {
    const FIRST: [&str; 16] = [
        "amber", "brisk", "calm", "clear", "dusty", "early", "fleet", "green", "keen", "lucid", "mild",
        "neat", "quick", "rapid", "still", "warm",
    ];
    const SECOND: [&str; 16] = [
        "birch", "comet", "crane", "delta", "ember", "falcon", "heron", "lark", "maple", "otter", "pine",
        "reef", "robin", "swift", "tern", "wren",
    ];
    let [a, b, c, d] = random::bytes::<4>();
    let name = format!("{}-{}-{c:02x}{d:02x}", FIRST[usize::from(a) % 16], SECOND[usize::from(b) % 16]);
    name.parse().expect("words and digits joined by hyphens are a VM name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_names() {
        (0..200).for_each(|_| drop(generated_name()));
    }
}
