//! `banger-fc` and `banger-qemu`: their verbs, which are the same.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use thiserror::Error;

use crate::monitor::{Machine, Monitor};
use crate::shutdown::Deadlines;
use crate::stop::Manner;
use crate::talk::{MAX_LINE, Order, TtlRequest};
use crate::{gc, inside, start, status, stop, supervisor, update};
use banger_cli::plumbing::{self, Input};
use banger_cli::{Failure, collect};
use banger_contract::error::escape_controls;
use banger_contract::record::{Accel, VmmKind};
use banger_contract::types::LinkName;
use banger_contract::{Coded, Document, ErrorCode, Fault};
use banger_host::clock::Timeline;
use banger_host::process;
use banger_host::process::exec::Exec;
use banger_state::db;
use banger_state::dir::{StateDir, VmDir};
use banger_state::handles::Handles;
use banger_state::lock::is_alive;
use banger_state::lock::{LOCK_FD_VARIABLE, state_of, vm_lock};

// What both programs do.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "clap would take it for the program's description")]
pub struct Verbs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the VM of the record and wait until its guest is ready
    Start(Start),
    /// Stop the VM: ask its guest, press its power button, end its VMM
    Stop(Stop),
    /// End the VM at once
    Kill(Input),
    /// Bring the record's section "vmm" up to date
    Status(Input),
    /// Make the running VM what its record says: limits, larger disks
    Update(Update),
    /// Say what the running VM uses: processor, memory, disks, network, and what its guest says of itself
    Stats(Input),
    /// Say which sockets of the guest's wait for connections
    Ports(Input),
    /// Compare the record with what is there; fail where they differ
    Check(Input),
    /// End VMs that are not in the list on stdin, and remove stale sockets
    Gc(Gc),
    /// Print the versions of this program, its schemas and its VMM
    Version,
    #[command(hide = true)]
    Supervise,
}

#[derive(Debug, Args)]
struct Start {
    #[command(flatten)]
    input: Input,
    /// Give up when the guest is not ready after SECONDS [default: 30 with KVM, 120 in software]
    #[arg(long, value_name = "SECONDS", env = "BANGER_READY_TIMEOUT", hide_env_values = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    ready_timeout: Option<u64>,
    /// How guest code is executed
    #[arg(long, value_name = "HOW", default_value = "auto")]
    accel: AccelChoice,
    /// The deadlines when the VM's time to live is over
    #[command(flatten)]
    deadlines: DeadlineArgs,
}

/// How long a shutdown may take.
#[derive(Debug, Clone, Copy, Args)]
struct DeadlineArgs {
    /// How long the guest may take to shut down when it was asked [default: 10 with KVM, 30 in software]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    deadline: Option<u64>,
    /// How long it may take when its power button was pressed after that [default: as --deadline]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    button_deadline: Option<u64>,
    /// How long the VMM may take to end on SIGTERM after that, before SIGKILL [default: 2]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    term_deadline: Option<u64>,
}

impl DeadlineArgs {
    fn for_accel(&self, accel: Accel) -> Deadlines {
        let usual = Deadlines::default_for(accel);
        let agent = self.deadline.map_or(usual.agent, Duration::from_secs);
        Deadlines {
            agent,
            button: self.button_deadline.map_or(agent, Duration::from_secs),
            term: self.term_deadline.map_or(usual.term, Duration::from_secs),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AccelChoice {
    /// With KVM where it works, else in software
    Auto,
    /// With KVM, even where it seems not to work
    Kvm,
    /// In software (QEMU only)
    Tcg,
}

#[derive(Debug, Args)]
struct Stop {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    deadlines: DeadlineArgs,
}

#[derive(Debug, Args)]
struct Update {
    #[command(flatten)]
    input: Input,
    /// Stop the VM so many seconds from now; "never": do not stop it
    #[arg(long, value_name = "SECONDS", value_parser = parse_ttl)]
    ttl: Option<TtlChoice>,
}

/// How long the VM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TtlChoice(Option<u64>);

fn parse_ttl(text: &str) -> Result<TtlChoice, String> {
    if text == "never" {
        return Ok(TtlChoice(None));
    }
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds
        .map(|seconds| TtlChoice(Some(seconds)))
        .ok_or_else(|| "it is a number of seconds, or never".to_owned())
}

#[derive(Debug, Args)]
struct Gc {
    #[command(flatten)]
    input: Input,
    /// The state directory
    #[arg(long, value_name = "DIR", env = "BANGER_STATE_DIR", hide_env_values = true)]
    state_dir: PathBuf,
}

/// A VMM by its program, which is Firecracker's alone: a path, or `None` for the one in PATH.
pub type MonitorOf = fn(program: Option<String>) -> Box<dyn Monitor>;

/// Runs the verb of the program `tool`, whose VMM is that of `monitor_of`.
pub fn run(tool: &'static str, verbs: Verbs, monitor_of: MonitorOf, program: Option<String>) -> ExitCode {
    let monitor = monitor_of(program.clone());
    match verbs.verb {
        Verb::Start(args) => plumbing::record_verb(tool, "start", &args.input, |document, timeline| {
            run_start(&*monitor, &args, program, tool, document, timeline)
        }),
        Verb::Stop(args) => plumbing::record_verb(tool, "stop", &args.input, |document, timeline| {
            run_stop(tool, "stop", Some(&args.deadlines), document, timeline)
        }),
        Verb::Kill(input) => plumbing::record_verb(tool, "kill", &input, |document, timeline| {
            run_stop(tool, "kill", None, document, timeline)
        }),
        Verb::Status(input) => {
            plumbing::record_verb(tool, "status", &input, |document, _| run_status(document))
        }
        Verb::Update(args) => plumbing::record_verb(tool, "update", &args.input, |document, _| {
            run_update(&*monitor, &args, tool, document)
        }),
        Verb::Stats(input) => plumbing::value_verb(tool, "stats", || run_stats(&*monitor, &input)),
        Verb::Ports(input) => plumbing::value_verb(tool, "ports", || run_ports(&input)),
        Verb::Check(input) => {
            plumbing::record_verb(tool, "check", &input, |document, _| run_check(&*monitor, document))
        }
        Verb::Gc(args) => plumbing::value_verb(tool, "gc", || run_gc(tool, &args)),
        Verb::Version => plumbing::value_verb(tool, "version", || Ok(version(&*monitor, tool))),
        Verb::Supervise => supervise(tool, monitor_of),
    }
}

/// Why a VMM's verb fails at the edge.
#[derive(Debug, Error)]
enum EdgeError {
    #[error("this VMM does not execute guest code that way on this host: {0}")]
    Accel(String),
    #[error("VM {vm} differs from its record: {difference}")]
    Check { vm: String, difference: &'static str },
}

impl Coded for EdgeError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Accel(_) => ErrorCode::Unsupported,
            Self::Check { .. } => ErrorCode::Conflict,
        }
    }
}

fn accel(monitor: &dyn Monitor, choice: AccelChoice) -> Result<Accel, Failure> {
    match (choice, monitor.kind()) {
        (AccelChoice::Auto, _) => Ok(monitor.accel().map_err(Failure::Own)?.0),
        (AccelChoice::Kvm, _) => Ok(Accel::Kvm),
        (AccelChoice::Tcg, VmmKind::Firecracker) => {
            Err(EdgeError::Accel("Firecracker needs KVM; use banger-qemu".into()).into())
        }
        (AccelChoice::Tcg, _) => Ok(Accel::Tcg),
    }
}

fn run_start(
    monitor: &dyn Monitor,
    args: &Start,
    firecracker_bin: Option<String>,
    tool: &str,
    document: &mut Document,
    timeline: &mut Timeline,
) -> Result<bool, Failure> {
    let vm = document.vm()?;
    let (net, disk) = (document.required_net()?, document.required_disk()?);
    let lock = vm_lock(&vm, &format!("{tool} start"))?;
    let mut machine = Machine { vm, net, disk, accel: Accel::Tcg };
    if let Some(vmm) = start::running(&machine, monitor.kind())? {
        document.set_vmm(Some(&vmm));
        return Ok(false);
    }
    machine.accel = accel(monitor, args.accel)?;
    let ready_limit_s = args.ready_timeout.unwrap_or_else(|| start::default_ready_limit_s(machine.accel));
    let deadlines = args.deadlines.for_accel(machine.accel);
    let order = Order { kind: monitor.kind(), machine, ready_limit_s, deadlines, firecracker_bin };
    let vmm = start::start(monitor, order, supervisor_program(), &lock, timeline).map_err(Failure::Own)?;
    document.set_vmm(Some(&vmm));
    Ok(true)
}

/// This very program as the supervisor, with nothing of the caller's environment that a VMM does not need: what escapes from a
/// guest finds no tokens there.
fn supervisor_program() -> Exec {
    let kept = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"];
    let names = std::env::vars_os().map(|(name, _)| name);
    let dropped = names.filter(|name| !kept.iter().any(|kept| name == kept));
    let exec = Exec::new("/proc/self/exe").arg("supervise").env_remove(LOCK_FD_VARIABLE);
    dropped.fold(exec, Exec::env_remove)
}

fn run_stop(
    tool: &str,
    verb: &str,
    deadlines: Option<&DeadlineArgs>,
    document: &mut Document,
    timeline: &mut Timeline,
) -> Result<bool, Failure> {
    let vm = document.vm()?;
    let recorded = document.vmm()?;
    let dir = VmDir::at(&vm.paths.dir);
    let accel = recorded.as_ref().map_or(Accel::Tcg, |vmm| vmm.accel);
    let manner = deadlines.map_or(Manner::Kill, |given| Manner::Ask(given.for_accel(accel)));
    let changed = if dir.path().exists() || stop::runs_without_files(&dir) {
        let lock = vm_lock(&vm, &format!("{tool} {verb}"))?;
        timeline.step(verb, || stop::stop(&dir, vm.name.as_str(), manner, &lock))?
    } else {
        state_of(&vm)?;
        false
    };
    document.set_vmm(None);
    Ok(changed)
}

fn run_status(document: &mut Document) -> Result<bool, Failure> {
    let vm = document.vm()?;
    state_of(&vm)?;
    let recorded = document.vmm()?;
    document.set_vmm(status::observe(&VmDir::at(&vm.paths.dir), recorded).as_ref());
    Ok(false)
}

fn run_update(
    monitor: &dyn Monitor,
    args: &Update,
    tool: &str,
    document: &mut Document,
) -> Result<bool, Failure> {
    let vm = document.vm()?;
    let disk = document.required_disk()?;
    let lock = vm_lock(&vm, &format!("{tool} update"))?;
    let dir = VmDir::at(&vm.paths.dir);
    let stopped = || update::UpdateError::Stopped(vm.name.to_string());
    let vmm = document.vmm()?.filter(|vmm| vmm.kind == monitor.kind()).ok_or_else(stopped)?;
    let ttl = args.ttl.map(|TtlChoice(ttl_s)| TtlRequest { ttl_s });
    let (now, changed) = update::update(monitor, &vm, &disk, vmm, ttl, &lock)?;
    let mut handles = Handles::load(&dir);
    handles.vmm = Some(now.clone());
    handles.save(&dir)?;
    document.set_vmm(Some(&now));
    Ok(changed)
}

fn run_stats(monitor: &dyn Monitor, input: &Input) -> Result<Value, Failure> {
    let document = input.document()?;
    let vm = document.vm()?;
    state_of(&vm)?;
    let tap = document.net()?.and_then(|net| net.tap);
    let tap = tap.as_ref().map(LinkName::as_str);
    Ok(plumbing::value(&inside::stats(monitor, &vm, tap)?))
}

fn run_ports(input: &Input) -> Result<Value, Failure> {
    let vm = input.document()?.vm()?;
    state_of(&vm)?;
    Ok(plumbing::value(&inside::ports(&vm)?))
}

fn run_check(monitor: &dyn Monitor, document: &mut Document) -> Result<bool, Failure> {
    let vm = document.vm()?;
    state_of(&vm)?;
    let alive = is_alive(&VmDir::at(&vm.paths.dir));
    let differs = |difference| EdgeError::Check { vm: vm.name.to_string(), difference };
    match document.vmm()? {
        Some(vmm) if vmm.kind != monitor.kind() => Err(differs("it is another VMM's"))?,
        Some(_) if !alive => Err(differs("it does not run"))?,
        None if alive => Err(differs("it runs"))?,
        _ => Ok(false),
    }
}

fn run_gc(tool: &'static str, args: &Gc) -> Result<Value, Failure> {
    let (state_id, keep) = collect::listed(&args.input)?;
    let state = StateDir::at(&args.state_dir);
    let is_recorded = db::recorded(&state)?;
    let gc::Swept { removed, errors } = gc::sweep(&state, &state_id, &keep, &is_recorded)?;
    let errors = errors.iter().map(|error| Fault::new(error, tool, "gc")).collect();
    collect::account(tool, removed, errors)
}

fn version(monitor: &dyn Monitor, tool: &str) -> Value {
    let mut version = plumbing::version(tool);
    version.vmm = monitor.version().ok().map(|text| escape_controls(&text));
    plumbing::value(&version)
}

/// The supervisor: its order comes through the socket that is its stdin.
fn supervise(tool: &'static str, monitor_of: MonitorOf) -> ExitCode {
    let Ok(stdin) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let Ok(null) = std::fs::File::open("/dev/null") else { return ExitCode::FAILURE };
    if rustix::stdio::dup2_stdin(&null).is_err() {
        return ExitCode::FAILURE;
    }
    drop(null);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let parent = UnixStream::from(stdin);
    let mut line = Vec::new();
    let read = BufReader::new((&parent).take(MAX_LINE as u64)).read_until(b'\n', &mut line);
    let order: Option<Order> = read.ok().and_then(|_| serde_json::from_slice(&line).ok());
    let Some(order) = order.filter(|_| parent.set_nonblocking(true).is_ok()) else {
        return ExitCode::FAILURE;
    };
    drop(line);
    process::set_name(start::SUPERVISOR.trim_end_matches('-'));
    let monitor = monitor_of(order.firecracker_bin.clone());
    supervisor::run(order, monitor, parent, tool);
    ExitCode::SUCCESS
}
