//! What a VM is made of, on the command line.

use banger_contract::config::{self, Config};
use banger_contract::record::{DiskBackend, Init, NetMode, VmmKind};
use banger_contract::types::{Cidr, ImageName, KernelName, ParseNameError, ParseSizeError, Size, VmName};
use clap::{Args, ValueEnum};

use crate::options::reach::{Rate, Reach, parse_rate};
use crate::subnet;

/// Tap or user networking, as a person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetChoice {
    /// Tap where the caller may make one, else user networking
    Auto,
    /// A tap on a bridge; needs root, or sudo without a password
    Tap,
    /// The VMM's own network; needs nothing
    User,
}

impl NetChoice {
    /// `None`: a tap where the caller may make one.
    fn mode(self) -> Option<NetMode> {
        match self {
            Self::Auto => None,
            Self::Tap => Some(NetMode::Tap),
            Self::User => Some(NetMode::User),
        }
    }
}

/// Which VMM, as a person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VmmChoice {
    /// Firecracker where it and KVM work, else QEMU
    Auto,
    /// Firecracker
    Firecracker,
    /// QEMU, with KVM if that works, else in software
    Qemu,
}

impl From<VmmChoice> for VmmKind {
    fn from(choice: VmmChoice) -> Self {
        match choice {
            VmmChoice::Auto => Self::Auto,
            VmmChoice::Firecracker => Self::Firecracker,
            VmmChoice::Qemu => Self::Qemu,
        }
    }
}

/// How the root is kept apart from its image, as a person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiskChoice {
    /// The best that the host can do
    Auto,
    /// A device-mapper snapshot
    Dm,
    /// A reflinked copy
    Reflink,
    /// The image read-only and overlayfs in the guest
    Overlay,
    /// A full copy
    Copy,
}

impl From<DiskChoice> for DiskBackend {
    fn from(choice: DiskChoice) -> Self {
        match choice {
            DiskChoice::Auto => Self::Auto,
            DiskChoice::Dm => Self::Dm,
            DiskChoice::Reflink => Self::Reflink,
            DiskChoice::Overlay => Self::Overlay,
            DiskChoice::Copy => Self::Copy,
        }
    }
}

/// Which init runs in the guest, as a person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitChoice {
    /// banger's own: sshd and nothing else
    Lean,
    /// The image's /sbin/init (build it with --package systemd-sysv)
    Systemd,
}

impl From<InitChoice> for Init {
    fn from(choice: InitChoice) -> Self {
        match choice {
            InitChoice::Lean => Self::Lean,
            InitChoice::Systemd => Self::Systemd,
        }
    }
}

/// What a VM is made of. What is not given is as the configuration says.
#[derive(Debug, Clone, Args)]
pub struct Spec {
    /// The image to boot; `debian` is built on first use [default: debian]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<ImageName>,
    /// The kernel to boot, by the name that `kernel ls` shows, or "image" for the image's own [default: the image's own]
    #[arg(long, value_name = "KERNEL", value_parser = parse_kernel)]
    pub kernel: Option<KernelChoice>,
    /// Which init runs in the guest [default: the image's, mostly lean]
    #[arg(long, value_enum, value_name = "INIT")]
    pub init: Option<InitChoice>,
    /// Virtual CPUs, 1 to 32 [default: the host's, at most 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub vcpus: Option<u8>,
    /// Memory, such as 512M or 2G [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub memory: Option<u32>,
    /// Size of the root filesystem, such as 20G [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = parse_disk_size)]
    pub disk_size: Option<u64>,
    /// Size of the work disk, which is the guest's /root: 64M or what the image has in it at least [default: the image's]
    #[arg(long, value_name = "SIZE", value_parser = parse_disk_size)]
    pub work_size: Option<u64>,
    /// How much may go through each disk in a second, such as 50M, or "none" [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub disk_rate: Option<Rate>,
    /// Stop the VM after this time, such as 90s, 2h or 1h30m; a bare number is seconds [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub ttl: Option<u64>,
    /// How the guest reaches the network [default: auto]
    #[arg(long, value_enum, value_name = "MODE")]
    pub net: Option<NetChoice>,
    /// The private network, /16 to /30, that this state directory's taps are in [environment: BANGER_SUBNET] [default: a /24 that
    /// is free]
    #[arg(long, value_name = "CIDR", value_parser = subnet::parse)]
    pub subnet: Option<Cidr>,
    #[command(flatten)]
    pub reach: Reach,
    /// How the root is kept apart from its image [default: auto]
    #[arg(long, value_enum, value_name = "BACKEND")]
    pub disk: Option<DiskChoice>,
    /// Which virtual machine monitor [default: auto]
    #[arg(long, value_enum, value_name = "VMM")]
    pub vmm: Option<VmmChoice>,
}

impl Spec {
    /// What is wanted: the configuration, and what was given over it.
    pub fn over(&self, config: &Config) -> Config {
        let config = config.clone();
        Config {
            image: self.image.clone().unwrap_or(config.image),
            kernel: self.kernel.clone().map_or(config.kernel, |choice| choice.0),
            init: self.init.map(Into::into).or(config.init),
            vcpus: self.vcpus.or(config.vcpus),
            memory_mib: self.memory.unwrap_or(config.memory_mib),
            disk_size_bytes: self.disk_size.or(config.disk_size_bytes),
            work_size_bytes: self.work_size.or(config.work_size_bytes),
            ttl_s: self.ttl.or(config.ttl_s),
            nat: self.reach.nat().unwrap_or(config.nat),
            egress: self.reach.egress.clone().unwrap_or(config.egress),
            open_firewall: self.reach.open_firewall.unwrap_or(config.open_firewall),
            disk_backend: self.disk.map_or(config.disk_backend, Into::into),
            vmm_kind: self.vmm.map_or(config.vmm_kind, Into::into),
            net_mode: self.net.map_or(config.net_mode, NetChoice::mode),
            subnet: self.subnet.or(config.subnet),
            mtu: self.reach.mtu.or(config.mtu),
            ..config
        }
    }
}

/// A new VM by its name.
#[derive(Debug, Args)]
pub struct NamedSpec {
    /// The VM's name
    #[arg(value_name = "NAME")]
    pub name: VmName,
    #[command(flatten)]
    pub spec: Spec,
}

/// The kernel to boot; `None`: the image's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelChoice(pub Option<KernelName>);

fn parse_kernel(text: &str) -> Result<KernelChoice, ParseNameError> {
    if text == KernelName::OWN {
        Ok(KernelChoice(None))
    } else {
        text.parse().map(|name| KernelChoice(Some(name)))
    }
}

/// Seconds from a time such as `1h30m`; a bare number is seconds.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    config::ttl_seconds(text)
        .ok_or_else(|| "write it as 90s, 2h or 1h30m: whole seconds, 10 years at most".to_owned())
}

/// MiB from a size such as `512M`; a bare number is MiB.
pub fn parse_memory(text: &str) -> Result<u32, String> {
    let size = Size::parse_in(text, 1 << 20).map_err(|_| "write it as 512M or 2G")?;
    config::memory_mib(size).ok_or_else(|| "it must be between 128M and 1024G".to_owned())
}

/// Bytes from a size such as `20G`.
pub fn parse_disk_size(text: &str) -> Result<u64, String> {
    let size: Size = text.parse().map_err(|error: ParseSizeError| error.to_string())?;
    config::disk_size_bytes(size).ok_or_else(|| "it must be between 64M and 16T".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1h 30m", 5400)] {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for bad in ["", "0", "-1h", "2x", "h", "99999999999h", "18446744073709551615"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_in_binary_units() {
        assert_eq!(parse_memory("512"), Ok(512));
        assert_eq!(parse_memory("512M"), Ok(512));
        assert_eq!(parse_memory("2G"), Ok(2048));
        assert_eq!(parse_memory("2GiB"), Ok(2048));
        for bad in ["", "1", "G", "64M", "x", "-1", "999999999G", "18446744073709551615"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }
}
