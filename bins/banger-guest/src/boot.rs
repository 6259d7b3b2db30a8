//! From the kernel's hand-over to the image's init.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use sha2::{Digest, Sha256};

use crate::clock::{Steps, now_us};
use crate::disks::Disk;
use crate::error::{BootFailure, Context, Error};
use crate::modules::Modules;
use crate::{disks, files, halt, init, java, mounts, network, sys, systemd, trust};
use banger_protocol::guest::{CONFIG_PATH, DIGEST_PATH, FILES_PATH, GuestConfig};

/// Boots the VM. Does not return unless the boot fails.
pub fn run() -> Result<Infallible, BootFailure> {
    let mut steps = Steps::default();
    steps.add("kernel", 0);
    let (config, tar) = step(&mut steps, "initramfs", initramfs)?;
    let disks = step(&mut steps, "disks", || mount_disks(&config, &tar))?;
    drop(tar);
    step(&mut steps, "network", || network::configure(&config))?;
    match config.init.as_str() {
        "systemd" => systemd::run(disks, steps),
        _ => init::run(disks, steps),
    }
}

/// Runs one step and records what it cost.
fn step<T>(
    steps: &mut Steps,
    name: &'static str,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, BootFailure> {
    let start_us = now_us();
    let result = work().map_err(|error| BootFailure { step: name, error });
    steps.add(name, start_us);
    result
}

/// Everything before the disks: the kernel's filesystems, what the VM is told about itself, modules, entropy, time.
fn initramfs() -> Result<(GuestConfig, Vec<u8>), Error> {
    mounts::kernel_filesystems()?;
    halt::read_mode();
    let mut modules = Modules::read()?;
    modules.load_virtio();
    let (config, tar) = read_config()?;
    modules.load("ext4");
    if config.upper_uuid.is_some() {
        modules.load("overlay");
    }
    stir_entropy(&config.entropy_seed)?;
    set_clock(config.time_unix_s)?;
    Ok((config, tar))
}

/// The VM's segment of the initrd, once its digest is right: half an initrd must not boot half a VM.
fn read_config() -> Result<(GuestConfig, Vec<u8>), Error> {
    let read = |path: &str| fs::read(format!("/{path}")).context(|| format!("the initrd has no /{path}"));
    let (json, tar, digest) = (read(CONFIG_PATH)?, read(FILES_PATH)?, read(DIGEST_PATH)?);
    let hash = Sha256::new().chain_update(&json).chain_update(&tar).finalize();
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    if digest.trim_ascii() != hash.as_bytes() {
        return Err(Error::new("the VM's segment of the initrd is damaged: its digest does not match"));
    }
    let config: GuestConfig =
        serde_json::from_slice(&json).context(|| format!("cannot read /{CONFIG_PATH}"))?;
    if !matches!(config.init.as_str(), "lean" | "systemd") {
        return Err(Error::new(format!("unknown init {:?}; expected lean or systemd", config.init)));
    }
    Ok((config, tar))
}

/// The kernel's random numbers are good from the start: an emulated machine gathers entropy slowly.
fn stir_entropy(seed: &str) -> Result<(), Error> {
    let what = || "cannot seed the random number generator".to_owned();
    let byte = |at: usize| seed.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..seed.len()).step_by(2).map(byte).collect();
    let bytes = bytes.ok_or_else(|| Error::new("the entropy seed is not hexadecimal"))?;
    let random = File::options().write(true).open("/dev/random").context(what)?;
    sys::add_entropy(&random, &bytes).context(what)
}

/// A guest without a clock of its own, or with a wrong one, is at least not in the past of its host.
fn set_clock(unix_s: u64) -> Result<(), Error> {
    if SystemTime::now() >= SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s) {
        return Ok(());
    }
    let time = TimeSpec::from(Duration::from_secs(unix_s));
    clock_settime(ClockId::CLOCK_REALTIME, time).context(|| "cannot set the clock".to_owned())
}

/// Puts the root together, makes it the root and lays the VM's files into it.
fn mount_disks(config: &GuestConfig, tar: &[u8]) -> Result<Vec<Disk>, Error> {
    let disks = disks::mount_all(config)?;
    mounts::leave_helper()?;
    mounts::switch_root()?;
    for disk in &disks {
        // A disk that cannot grow is smaller than wished, and works.
        if let Err(error) = disk.grow() {
            halt::say(&error.to_string());
        }
    }
    files::write_identity(config)?;
    files::write_environment(&config.env)?;
    files::lay(tar)?;
    trust_host(config)?;
    Ok(disks)
}

/// Has the guest trust the host's authorities. One that cannot works, but for what these stand for.
fn trust_host(config: &GuestConfig) -> Result<(), Error> {
    let variables = trust::install(Path::new("/"), &config.host_ca).unwrap_or_else(|error| {
        halt::say(&format!("the host's authorities are not all trusted: {error}"));
        BTreeMap::new()
    });
    java::install(Path::new("/"), &config.host_ca, &halt::say);
    files::write_defaults(&variables)
}
