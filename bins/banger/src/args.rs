//! The arguments of `banger`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use banger_cli::plumbing;
use banger_contract::config::{self, Config};
use banger_contract::record::{DiskBackend, Init, NetMode, VmmKind};
use banger_contract::types::{Cidr, ImageName, KernelName, ParseNameError, ParseSizeError, Size, VmName};
use banger_ws::cli::ModeChoice;
use banger_ws::cli::command::CommandOptions;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::ConfigArgs;
use crate::{apply, diff, dns, fetch, logs, reset, subnet, workspace};

mod image;
mod kernel;
mod patches;
mod reach;

pub use image::{Image, ImageCommand};
pub use kernel::{Kernel, KernelCommand};
pub use patches::Patches;
pub use reach::{Change, Net, Rate, Reach, Set};

/// Disposable, hardware-isolated Linux VMs around a git checkout
#[derive(Debug, Parser)]
#[command(name = "banger", version, max_term_width = 110)]
pub struct Banger {
    /// Where banger keeps its state [default: $XDG_STATE_HOME/banger, for root /var/lib/banger]
    #[arg(long, global = true, env = "BANGER_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// The configuration file [default: $XDG_CONFIG_HOME/banger/config.toml, for root /etc/banger/config.toml]
    #[arg(long, global = true, env = "BANGER_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print one JSON record instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Print the pipeline of programs that the verb stands for, and do nothing
    #[arg(long, global = true)]
    pub explain: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, run and inspect VMs
    Vm(Box<Vm>),
    /// List VMs (the same as `vm list`)
    Ps,
    /// Build and inspect images
    Image(Image),
    /// Have this host resolve the names of VMs: NAME.vm
    Dns(dns::verbs::Dns),
    /// Import and inspect kernels that are no part of an image
    Kernel(Kernel),
    /// Remove what crashed commands left behind
    Gc,
    /// Say what this host can do and what it lacks
    Doctor(Doctor),
    /// Show and check the configuration
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completion(Completion),
}

impl Command {
    /// The verb's name for error records.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Vm(vm) => match vm.command {
                VmCommand::Run(_) => "vm run",
                VmCommand::Plan(_) => "vm plan",
                VmCommand::Create(_) => "vm create",
                VmCommand::Start(_) => "vm start",
                VmCommand::Stop(_) => "vm stop",
                VmCommand::Delete(_) => "vm delete",
                VmCommand::Show(_) => "vm show",
                VmCommand::List => "vm list",
                VmCommand::Set(_) => "vm set",
                VmCommand::Net(_) => "vm net",
                VmCommand::Logs(_) => "vm logs",
                VmCommand::Stats(_) => "vm stats",
                VmCommand::Ports(_) => "vm ports",
                VmCommand::Health(_) => "vm health",
                VmCommand::Prune(_) => "vm prune",
                VmCommand::Exec(_) => "vm exec",
                VmCommand::Ssh(_) => "vm ssh",
                VmCommand::Diff(_) => "vm diff",
                VmCommand::Apply(_) => "vm apply",
                VmCommand::Reset(_) => "vm reset",
                VmCommand::Fetch(_) => "vm fetch",
                VmCommand::Workspace(_) => "vm workspace",
            },
            Self::Ps => "ps",
            Self::Image(_) => "image",
            Self::Dns(dns) => dns.command.verb(),
            Self::Kernel(_) => "kernel",
            Self::Gc => "gc",
            Self::Doctor(_) => "doctor",
            Self::Config(_) => "config",
            Self::Completion(_) => "completion",
        }
    }
}

#[derive(Debug, Args)]
pub struct Vm {
    #[command(subcommand)]
    pub command: VmCommand,
}

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Boot a VM, copy a checkout into it, run a command there, bring exit code and patch back
    Run(Box<Run>),
    /// Define a VM and print its record: the beginning of a pipeline
    Plan(Plan),
    /// Define a VM without starting it
    Create(Plan),
    /// Start a VM
    Start(Start),
    /// Shut a VM down; its disks stay
    Stop(Stop),
    /// Delete a VM and its disks
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Show one VM
    Show(Show),
    /// List VMs
    #[command(visible_alias = "ps")]
    List,
    /// Change a VM, at once where it runs: what it may reach, its disks, limits and time to live
    Set(Set),
    /// Show a VM's network: policy, addresses, published ports, and what its rules have counted
    Net(Net),
    /// Show what the guest's console or the VMM printed
    Logs(logs::Logs),
    /// Show what running VMs use: processor, memory, disks, network
    Stats(StatsArgs),
    /// List the sockets in a running VM that wait for connections
    Ports(One),
    /// Say whether a VM runs and its agent answers
    Health(One),
    /// Delete VMs that do not run
    Prune(Prune),
    /// Run a command in a running VM's workspace
    Exec(Exec),
    /// Show what changed in a running VM's workspace
    Diff(diff::Diff),
    /// Apply what changed in a running VM's workspace to the checkout, all of it or nothing
    Apply(apply::Apply),
    /// Throw away what changed in a running VM's workspace
    Reset(reset::Reset),
    /// Make the commits of a running VM's workspace a branch of the checkout's repository
    Fetch(fetch::Fetch),
    /// Copy the checkout into a running VM again, or list what changed there
    Workspace(workspace::Verbs),
    /// Log in to a running VM with the system's ssh
    Ssh(Ssh),
}

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
    #[arg(long, value_name = "SIZE", value_parser = reach::parse_rate)]
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
    config::ttl_seconds(text).ok_or_else(|| "write it as 90s, 2h or 1h30m, 10 years at most".to_owned())
}

/// MiB from a size such as `512M`; a bare number is MiB.
fn parse_memory(text: &str) -> Result<u32, String> {
    let unit = if text.bytes().all(|b| b.is_ascii_digit()) { "M" } else { "" };
    let size: Size = format!("{text}{unit}").parse().map_err(|_| "write it as 512M or 2G")?;
    config::memory_mib(size).ok_or_else(|| "it must be between 128M and 1024G".to_owned())
}

/// Bytes from a size such as `20G`.
pub fn parse_disk_size(text: &str) -> Result<u64, String> {
    let size: Size = text.parse().map_err(|error: ParseSizeError| error.to_string())?;
    config::disk_size_bytes(size).ok_or_else(|| "it must be between 64M and 16T".to_owned())
}

#[derive(Debug, Args)]
pub struct Run {
    /// The VM's name [default: a generated one]
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,
    /// Delete the VM when the command has ended and the patch is written
    #[arg(long)]
    pub rm: bool,
    #[command(flatten)]
    pub spec: Spec,
    #[command(flatten)]
    pub patches: Patches,
    /// Write the VM's record to FILE
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Copy untracked files as well; ignored ones never travel
    #[arg(long)]
    pub include_untracked: bool,
    /// How much of git travels with the files
    #[arg(long, value_enum, value_name = "MODE", default_value = "full")]
    pub mode: ModeChoice,
    /// Say what would travel, and do nothing: the files on stdout, a summary on stderr
    #[arg(long)]
    pub dry_run: bool,
    /// Where the checkout goes in the guest [default: /root/<its name>]
    #[arg(long, value_name = "PATH")]
    pub guest_path: Option<String>,
    /// Print what every step cost
    #[arg(long)]
    pub timings: bool,
    /// Install what this host lacks first, without asking
    #[arg(long)]
    pub setup: bool,
    #[command(flatten)]
    pub options: CommandOptions,
    /// If a stage fails, leave everything as it stands
    #[arg(long)]
    pub keep: bool,
    /// A directory in the checkout: all of the checkout is copied, and the command runs in that directory
    #[arg(value_name = "REPO", default_value = ".")]
    pub repo: PathBuf,
    /// The command and its arguments
    #[arg(last = true, required_unless_present_any = ["dry_run"], value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// The VM's name
    #[arg(value_name = "NAME")]
    pub name: VmName,
    #[command(flatten)]
    pub spec: Spec,
}

#[derive(Debug, Args)]
pub struct Start {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Print what every step cost
    #[arg(long)]
    pub timings: bool,
    /// If a stage fails, leave everything as it stands
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// End the VM at once, as if its power were cut
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// The VM's name or id
    #[arg(value_name = "VM", required = true)]
    pub vms: Vec<String>,
    /// Stop it at once if it runs
    #[arg(long, short)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Print the VM's record, for a pipeline (the same as --json)
    #[arg(long)]
    pub record: bool,
}

#[derive(Debug, Args)]
pub struct One {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Names or ids [default: all VMs that run]
    #[arg(value_name = "VM")]
    pub vms: Vec<String>,
    /// Look again every two seconds, until interrupted
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// Those that do not run (the default)
    #[arg(long)]
    pub stopped: bool,
    /// Only those that ended because their time was over
    #[arg(long)]
    pub expired: bool,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    #[command(flatten)]
    pub patches: Patches,
    /// Give the command a terminal: this one
    #[arg(long, short, conflicts_with_all = ["patch", "patch_dir", "no_stdin"])]
    pub tty: bool,
    /// Send the checkout again before, as it stands now
    #[arg(long)]
    pub auto_prepare: bool,
    #[command(flatten)]
    pub options: CommandOptions,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Ssh {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// A command for ssh, passed on as it is
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Install what is missing, without asking
    #[arg(long)]
    pub setup: bool,
}

#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Prints the completion script.
pub fn completion(args: &Completion) -> ExitCode {
    let mut command = Banger::command();
    // Not straight to stdout: clap_complete panics when the reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "banger", &mut script);
    plumbing::print_bytes(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Banger::command().debug_assert();
    }

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

    /// Clap hands a global option's value, its variable's included, to whatever below has the same name.
    #[test]
    fn no_verb_has_an_option_with_the_name_of_a_global_one() {
        fn check(command: &clap::Command, globals: &[&str]) {
            for verb in command.get_subcommands() {
                for option in verb.get_arguments() {
                    assert!(!globals.contains(&option.get_id().as_str()), "{} {option}", verb.get_name());
                }
                check(verb, globals);
            }
        }
        let banger = Banger::command();
        let globals: Vec<_> =
            banger.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().as_str()).collect();
        assert!(globals.contains(&"config"), "{globals:?}");
        check(&banger, &globals);
    }
}
