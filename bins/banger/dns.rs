//! Names: keeps the names file, and has the resolver run while a VM is attached.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use banger_lib::contract::names::{NamedVm, Names};
use banger_lib::contract::record::{NetMode, Vm};
use banger_lib::contract::reply::{Check, CheckState};
use banger_lib::contract::{Coded, Document, ErrorCode};
use banger_lib::net::dns::{resolvers, serving};
use banger_lib::state::db::Store;
use banger_lib::state::names::NamesLock;
use banger_lib::sys::link;
use banger_lib::sys::netlink::Netlink;
use banger_lib::types::StateId;
use thiserror::Error;

use crate::context::{Context, Result};
use crate::stage::Stage;

/// How long a resolver may take to end after its last VM.
const ENDING: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
#[error("cannot list this host's links")]
struct LinksError(#[source] std::io::Error);

impl Coded for LinksError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Failed
    }
}

/// Writes down which VMs have a tap now. Whether there is one.
pub fn publish(context: &Context) -> Result<bool> {
    let Some(store) = Store::open_existing(&context.state)? else { return Ok(false) };
    let lock = NamesLock::acquire(&context.state)?;
    let mut netlink = Netlink::open().map_err(LinksError)?;
    let links: HashSet<String> =
        link::list(&mut netlink).map_err(LinksError)?.into_iter().map(|link| link.name).collect();
    let rows = store.vms()?;
    let attached = rows.iter().map(|row| &row.vm).filter(|vm| links.contains(vm.id.tap().as_str()));
    let items: Vec<NamedVm> = attached.map(named).collect();
    let any = !items.is_empty();
    lock.write(&Names::new(store.state_id().clone(), items))?;
    Ok(any)
}

/// What the resolver is to know of a VM. A question about a name in a domain of the asker's own gets out whatever is in it, so who may
/// not reach everything may not have names looked up either.
fn named(vm: &Vm) -> NamedVm {
    NamedVm {
        name: vm.name.clone(),
        addresses: vec![vm.address.into()],
        forward: vm.nat && vm.egress.is_open(),
    }
}

/// After a VM was attached: its name is known, the resolver runs, and the guest is to ask it first. Without a resolver the guest has
/// those of the host, as attach gave them; that is said, and stops nothing.
///
/// # Errors
/// A signal came.
pub fn join(context: &Context, document: &mut Document) -> Result<()> {
    let vm = document.vm()?;
    if vm.net_mode != NetMode::Tap {
        return Ok(());
    }
    match publish(context).and_then(|_| ensure_served(context, &vm.state_id)) {
        Ok(()) => {
            let mut net = document.required_net()?;
            net.dns = resolvers::for_guest(vm.gateway, &net.dns);
            document.set_net(Some(&net));
            Ok(())
        }
        Err(failure) => {
            let fault = failure.into_fault("banger", "dns");
            if fault.code == ErrorCode::Interrupted {
                return Err(banger_lib::cli::Failure::Passed(Box::new(fault)));
            }
            context.say(format!("names of VMs do not resolve: {}", fault.human_line()));
            Ok(())
        }
    }
}

/// Starts the resolver where none runs for the bridge.
fn ensure_served(context: &Context, state: &StateId) -> Result<()> {
    if serving::is_served(state) {
        return Ok(());
    }
    let names = context.state.names();
    let stage = Stage::new("banger-netd", "serve").arg("--background").arg("--names").arg(names);
    stage.privileged(true).run(context, b"", None).map(drop)
}

/// After a VM was detached, or what it may reach was changed: the names are as they are. With the last VM the resolver ends, which is
/// waited for: when no VM runs, nothing does. What fails is said, and stops nothing.
pub fn refresh(context: &Context, vm: &Vm) {
    if vm.net_mode != NetMode::Tap {
        return;
    }
    match publish(context) {
        Ok(true) => {}
        Ok(false) => {
            let until = Instant::now() + ENDING;
            while serving::runs(&vm.state_id) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Err(failure) => {
            let fault = failure.into_fault("banger", "dns");
            context.say(format!("the names of VMs may be out of date: {}", fault.human_line()));
        }
    }
}

/// `banger gc`'s part: the names as they are, and a resolver where VMs are attached and it was killed.
///
/// # Errors
/// The names cannot be written, or the resolver does not start.
pub fn mend(context: &Context) -> Result<()> {
    if !publish(context)? {
        return Ok(());
    }
    let Some(store) = Store::open_existing(&context.state)? else { return Ok(()) };
    ensure_served(context, store.state_id())
}

/// What `banger doctor` says of names; `None` where no VM is attached.
pub fn checkup(context: &Context) -> Option<Check> {
    let store = Store::open_existing(&context.state).ok()??;
    let state = store.state_id();
    let name = "dns".to_owned();
    nix::net::if_::if_nametoindex(state.bridge().as_str()).ok()?;
    Some(if serving::is_served(state) {
        Check { name, state: CheckState::Ok, detail: "VMs have names: NAME.vm".into() }
    } else {
        let detail = "no resolver runs: VMs have no names; banger gc starts it".into();
        Check { name, state: CheckState::Note, detail }
    })
}
