//! Names: keeps the names file, has the resolver run while a VM is attached, and, where a person chose that, this host's own resolver
//! ask it ([`crate::host_resolver`]).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use banger_contract::names::{NamedVm, Names};
use banger_contract::record::{NetMode, Vm};
use banger_contract::reply::{Check, CheckState};
use banger_contract::types::StateId;
use banger_contract::{Coded, Document, ErrorCode};
use banger_host::net::link;
use banger_host::net::netlink::Netlink;
use banger_netd::dns::{hook, resolvers, serving};
use banger_netd::realm::Realm;
use banger_state::db::Store;
use banger_state::names::NamesLock;
use thiserror::Error;

use crate::context::{Context, Result};
use crate::host_resolver;
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
    let items = attached(&store)?;
    let any = !items.is_empty();
    lock.write(&Names::new(store.state_id().clone(), items))?;
    Ok(any)
}

/// The VMs that have a tap now.
pub fn attached(store: &Store) -> Result<Vec<NamedVm>> {
    let mut netlink = Netlink::open().map_err(LinksError)?;
    let links: HashSet<String> =
        link::list(&mut netlink).map_err(LinksError)?.into_iter().map(|link| link.name).collect();
    let rows = store.vms()?;
    let attached = rows
        .iter()
        .map(|row| &row.vm)
        .filter(|vm| links.contains(Realm::of(&vm.state_id, vm.owner_uid).vm(&vm.id).tap().as_str()));
    Ok(attached.map(named).collect())
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
    let served = publish(context).and_then(|_| ensure_served(context, &vm.state_id));
    match served {
        Ok(()) => {
            follow_choice(context, &vm.state_id)?;
            let mut net = document.required_net()?;
            net.dns = resolvers::for_guest(vm.gateway, &net.dns);
            document.set_net(Some(&net));
            Ok(())
        }
        Err(failure) if failure.code() == ErrorCode::Interrupted => Err(failure),
        Err(failure) => {
            let fault = failure.into_fault("banger", "dns");
            context.say(format!("names of VMs do not resolve: {}", fault.human_line()));
            Ok(())
        }
    }
}

/// Has this host's resolver ask that of the bridge, where that was chosen. What fails is said, and stops nothing.
///
/// # Errors
/// A signal came.
fn follow_choice(context: &Context, state: &StateId) -> Result<()> {
    match host_resolver::is_enabled(context).and_then(|enabled| match enabled {
        true => host_resolver::ensure_hooked(context, state).map(drop),
        false => Ok(()),
    }) {
        Ok(()) => Ok(()),
        Err(failure) if failure.code() == ErrorCode::Interrupted => Err(failure),
        Err(failure) => {
            let fault = failure.into_fault("banger", "dns");
            context.say(format!("names of VMs do not resolve on this host: {}", fault.human_line()));
            Ok(())
        }
    }
}

/// Starts the resolver where none runs for the bridge.
pub fn ensure_served(context: &Context, state: &StateId) -> Result<()> {
    if serving::is_served(&Realm::of_caller(state)) {
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
            let realm = Realm::of(&vm.state_id, vm.owner_uid);
            let until = Instant::now() + ENDING;
            while serving::runs(&realm) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Err(failure) => {
            let fault = failure.into_fault("banger", "dns");
            context.say(format!("the names of VMs may be out of date: {}", fault.human_line()));
        }
    }
}

/// `banger gc`'s part: the names as they are, and a resolver where VMs are attached and it was killed, or this host has forgotten it.
///
/// # Errors
/// The names cannot be written, the resolver does not start, or this host's does not take it.
pub fn mend(context: &Context) -> Result<()> {
    if !publish(context)? {
        return Ok(());
    }
    let Some(store) = Store::open_existing(&context.state)? else { return Ok(()) };
    ensure_served(context, store.state_id())?;
    if host_resolver::chosen(&store)? {
        host_resolver::ensure_hooked(context, store.state_id())?;
    }
    Ok(())
}

/// Whether something of this host's resolver is left that only banger-netd can remove.
pub fn is_left(state: &StateId) -> bool {
    hook::dnsmasq::is_left(state)
}

/// What `banger doctor` says of names; `None` where no VM is attached and nothing is left of one.
pub fn checkup(context: &Context) -> Option<Check> {
    let store = Store::open_existing(&context.state).ok()??;
    let state = store.state_id();
    let note = |detail: String| Some(Check { name: "dns".into(), state: CheckState::Note, detail });
    if !host_resolver::is_attached(state) {
        let path = hook::dnsmasq::path(state);
        return is_left(state).then(|| note(format!("{} is left; banger gc removes it", path.display())))?;
    }
    if !serving::is_served(&Realm::of_caller(state)) {
        return note("no resolver runs: VMs have no names; banger gc starts it".into());
    }
    let told = match host_resolver::told(&store) {
        Ok(told) => told,
        Err(failure) => return note(failure.into_fault("banger", "doctor").human_line()),
    };
    let detail = match told {
        host_resolver::Told::Unchosen => {
            "VMs have names among themselves: NAME.vm; banger dns enable gives them to this host".into()
        }
        host_resolver::Told::By(resolver) => {
            format!("VMs have names: NAME.vm, on this host by {}", resolver.name())
        }
        host_resolver::Told::Not => {
            return note(
                "this host does not ask for the names of VMs, as it should; banger gc tells it again".into(),
            );
        }
    };
    Some(Check { name: "dns".into(), state: CheckState::Ok, detail })
}
