//! `banger-netd`: its verbs.

mod serve;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::thread::{CapabilitySet, capabilities};
use serde_json::Value;
use thiserror::Error;

use crate::attach::Attached;
use crate::caller::Caller;
use crate::dns::{hook, resolvers};
use crate::permit::Permit;
use crate::request::{Names, TapRequest};
use crate::{NetError, attach, check, detach, gc, pool, status, update, user};
use banger_cli::plumbing::{self, Input};
use banger_cli::{Failure, collect};
use banger_contract::dns::{HOOK_SCHEMA, HookReply, HookRequest, HostResolver};
use banger_contract::record::{Net, NetMode};
use banger_contract::reply::Blocked;
use banger_contract::types::{StateId, VmName};
use banger_contract::{Coded, Document, ErrorCode, Fault};
use banger_host::clock::Timeline;

const TOOL: &str = "banger-netd";

/// Attach a VM to the network and detach it again
///
/// A stage of a banger pipeline: reads a record on stdin, writes its section "net", prints the record on stdout.
#[derive(Debug, Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the VM's bridge, tap and rules; or, in user mode, choose its SSH port
    Attach(Input),
    /// Remove what attach made, whatever is left of it
    Detach(Input),
    /// Change what an attached VM may reach: NAT, egress, peers
    Update(Input),
    /// Show a VM's network and what its rules have counted
    Status(Input),
    /// Answer DNS questions about a state directory's VMs, and pass their own on, until the last VM is detached
    Serve(serve::Serve),
    /// Have the host's own resolver ask that of the bridge about NAME.vm
    Hook(Input),
    /// Have it forget that again
    Unhook(Input),
    /// Keep taps ready for VMs
    #[command(subcommand)]
    Pool(Pool),
    /// Compare the record with the host
    Check(Input),
    /// Remove what is tagged with a state directory and belongs to none of the VMs on stdin
    Gc(Input),
    /// Say which version this is and which schemas it speaks
    Version,
}

#[derive(Debug, Subcommand)]
enum Pool {
    /// Have taps wait for the VMs of the record's state directory and owner
    Fill(Fill),
    /// Remove the taps that wait
    Drain(Input),
}

#[derive(Debug, clap::Args)]
struct Fill {
    /// How many are to wait, 1 to 64
    #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(pool::MAX)))]
    count: u8,
    #[command(flatten)]
    input: Input,
}

/// What is wrong with a request about the host's resolver.
#[derive(Debug, Error)]
#[error("the request is not one of {HOOK_SCHEMA}: {0}")]
struct RequestError(String);

impl Coded for RequestError {
    fn code(&self) -> ErrorCode {
        ErrorCode::BadInput
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    plumbing::seal_if_root();
    let args: Arguments = match plumbing::parse(TOOL) {
        Ok(args) => args,
        Err(status) => return status,
    };
    match args.verb {
        Verb::Attach(input) => plumbing::record_verb(TOOL, "attach", &input, run_attach),
        Verb::Detach(input) => plumbing::record_verb(TOOL, "detach", &input, run_detach),
        Verb::Update(input) => plumbing::record_verb(TOOL, "update", &input, run_update),
        Verb::Status(input) => plumbing::value_verb(TOOL, "status", || run_status(&input)),
        Verb::Serve(args) => serve::serve(TOOL, &args, caller()),
        Verb::Hook(input) => plumbing::value_verb(TOOL, "hook", || run_hook(&input)),
        Verb::Unhook(input) => plumbing::value_verb(TOOL, "unhook", || run_unhook(&input)),
        Verb::Pool(Pool::Fill(Fill { count, input })) => {
            plumbing::record_verb(TOOL, "pool fill", &input, |document, timeline| {
                let (vm, caller) = (document.vm()?, caller()?);
                Ok(pool::fill(&TapRequest::new(&vm, &caller)?, count, &caller, timeline)?)
            })
        }
        Verb::Pool(Pool::Drain(input)) => {
            plumbing::record_verb(TOOL, "pool drain", &input, |document, timeline| {
                let (vm, caller) = (document.vm()?, caller()?);
                Ok(pool::drain(&Names::new(&vm, &caller)?, &caller, timeline)?)
            })
        }
        Verb::Check(input) => plumbing::record_verb(TOOL, "check", &input, run_check),
        Verb::Gc(input) => plumbing::value_verb(TOOL, "gc", || run_gc(&input)),
        Verb::Version => {
            plumbing::value_verb(TOOL, "version", || Ok(plumbing::value(&plumbing::version(TOOL))))
        }
    }
}

/// Who called, by the process's credentials and sudo's variable.
fn caller() -> Result<Caller, NetError> {
    let sudo_uid = std::env::var_os("SUDO_UID").map(|uid| uid.to_string_lossy().into_owned());
    let has_net_admin =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
    Caller::new(rustix::process::geteuid().as_raw(), sudo_uid.as_deref(), has_net_admin)
}

fn run_attach(document: &mut Document, timeline: &mut Timeline) -> Result<bool, Failure> {
    let (vm, previous, caller) = (document.vm()?, document.net()?, caller()?);
    let (net, changed) = match vm.net_mode {
        NetMode::User => {
            let attached = timeline.step("port", || user::attach(&vm, &caller, previous))?;
            if attached.is_deaf {
                plumbing::warn(TOOL, &deaf(&vm.name));
            }
            (attached.net, attached.changed)
        }
        NetMode::Tap => {
            let request = TapRequest::new(&vm, &caller)?;
            let files = [resolvers::RESOLV_CONF, resolvers::RESOLVED_UPSTREAM].map(Path::new);
            // Whatever it may reach now: that can change while it runs, and what it may not reach refuses at once.
            let resolvers = resolvers::upstream(&files);
            warned(&vm.name, attach::attach(&request, &caller, previous, resolvers, timeline)?)
        }
    };
    document.set_net(Some(&net));
    Ok(changed)
}

/// What is said where the host may resolve names that the guest cannot.
fn deaf(vm: &VmName) -> String {
    format!(
        "VM {vm} will resolve no names: no resolver in {} has an IPv4 address and answers, and user networking reaches no others; \
         name one there, or give the VM a tap (--net tap)",
        resolvers::RESOLV_CONF
    )
}

/// The section and whether anything changed, once people know who stands in the way.
fn warned(vm: &VmName, attached: Attached) -> (Net, bool) {
    for Blocked { firewall, fix } in attached.blocked {
        let text = format!(
            "{firewall} drops what VM {vm} sends and what is sent to it; to let its bridge through: {fix}"
        );
        plumbing::warn(TOOL, &text);
    }
    (attached.net, attached.changed)
}

fn run_detach(document: &mut Document, timeline: &mut Timeline) -> Result<bool, Failure> {
    let (vm, previous, caller) = (document.vm()?, document.net()?, caller()?);
    let names = Names::new(&vm, &caller)?;
    let changed = match vm.net_mode {
        NetMode::User => previous.is_some(),
        NetMode::Tap => {
            let changed = detach::detach(&names, &caller, timeline)?;
            // The VM is detached either way, and gc tries again.
            if let Err(error) = hook::release(&vm.state_id, &caller) {
                let fault = Fault::new(&error, TOOL, "detach");
                plumbing::warn(TOOL, &format!("the host's resolver keeps the names: {}", fault.human_line()));
            }
            changed
        }
    };
    document.set_net(None);
    Ok(changed)
}

fn run_update(document: &mut Document, timeline: &mut Timeline) -> Result<bool, Failure> {
    let (vm, previous, caller) = (document.vm()?, document.required_net()?, caller()?);
    let (net, changed) = match vm.net_mode {
        NetMode::User => {
            let attached = user::attach(&vm, &caller, Some(previous))?;
            (attached.net, attached.changed)
        }
        NetMode::Tap => {
            let request = TapRequest::new(&vm, &caller)?;
            warned(&vm.name, update::update(&request, &caller, &previous, timeline)?)
        }
    };
    document.set_net(Some(&net));
    Ok(changed)
}

fn run_status(input: &Input) -> Result<Value, Failure> {
    let document = input.document()?;
    let reply = status::status(&document.vm()?, document.net()?, &caller()?)?;
    Ok(plumbing::value(&reply))
}

fn run_check(document: &mut Document, _: &mut Timeline) -> Result<bool, Failure> {
    check::check(&document.vm()?, document.net()?, &caller()?)?;
    Ok(false)
}

fn hook_request(input: &Input) -> Result<StateId, Failure> {
    let request: HookRequest =
        serde_json::from_slice(&input.bytes()?).map_err(|error| RequestError(error.to_string()))?;
    if request.schema != HOOK_SCHEMA {
        return Err(RequestError(format!("its schema is {:?}", request.schema)).into());
    }
    Ok(request.state_id)
}

fn run_hook(input: &Input) -> Result<Value, Failure> {
    let state = hook_request(input)?;
    let caller = caller()?;
    Permit::of(&caller)?;
    let hooked = hook::hook(&state, &caller)?;
    for other in hooked.shared_with {
        let text =
            format!("{other} has names that end in .vm as well: of a name in both, either may be found");
        plumbing::warn(TOOL, &text);
    }
    Ok(hook_reply(state, Some(hooked.resolver), hooked.changed))
}

fn run_unhook(input: &Input) -> Result<Value, Failure> {
    let state = hook_request(input)?;
    let forgotten = hook::unhook(&state, &caller()?)?;
    Ok(hook_reply(state, None, !forgotten.is_empty()))
}

fn hook_reply(state_id: StateId, resolver: Option<HostResolver>, changed: bool) -> Value {
    plumbing::value(&HookReply { schema: HOOK_SCHEMA.to_owned(), state_id, resolver, changed })
}

fn run_gc(input: &Input) -> Result<Value, Failure> {
    let (state_id, keep) = collect::listed(input)?;
    let caller = caller()?;
    let gc::Collected { mut removed, errors } = gc::collect(&state_id, &keep, &caller)?;
    let mut errors: Vec<Fault> = errors.iter().map(|error| Fault::new(error, TOOL, "gc")).collect();
    match hook::release(&state_id, &caller) {
        Ok(forgotten) => removed.extend(forgotten),
        Err(error) => errors.push(Fault::new(&error, TOOL, "gc")),
    }
    collect::account(TOOL, removed, errors)
}
