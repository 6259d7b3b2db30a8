//! This host's own resolver: whether it is to know the names of VMs, and telling it.

use banger_cli::plumbing;
use banger_contract::dns::{HookRequest, HostResolver};
use banger_contract::types::StateId;
use banger_netd::caller::Caller;
use banger_netd::dns::hook;
use banger_netd::dns::site::Site;
use banger_netd::realm::Realm;
use banger_state::db::Store;

use crate::context::{Context, Result};
use crate::stage::Stage;

/// The key under which the choice is remembered.
pub const KEY: &str = "dns";

pub const ENABLED: &str = "enabled";

pub const DISABLED: &str = "disabled";

pub fn stage(verb: &str) -> Stage {
    Stage::new("banger-netd", verb).privileged(true)
}

pub fn run(context: &Context, verb: &str, state: &StateId) -> Result<bool> {
    let request = plumbing::value(&HookRequest::new(state.clone()));
    let reply = stage(verb).run(context, request.to_string().as_bytes(), None)?;
    Ok(reply["changed"] == true)
}

/// Whether the state directory's bridge is there.
pub fn is_attached(state: &StateId) -> bool {
    nix::net::if_::if_nametoindex(Realm::of_caller(state).bridge().as_str()).is_ok()
}

/// Whether the host is to resolve the names of VMs.
pub fn chosen(store: &Store) -> Result<bool> {
    Ok(store.meta(KEY)?.as_deref() == Some(ENABLED))
}

/// The same, before anything is opened.
pub fn is_enabled(context: &Context) -> Result<bool> {
    Store::open_existing(&context.state)?.map_or(Ok(false), |store| chosen(&store))
}

/// The bridge with its VMs; `None` where there is none of ours.
pub fn site(state: &StateId) -> Option<Site> {
    let caller = Caller::new(rustix::process::geteuid().as_raw(), None, false).ok()?;
    Site::find(state, &caller).ok()
}

/// What became of the choice, as far as this host's resolver says.
#[derive(Debug)]
pub enum Told {
    /// It was not chosen.
    Unchosen,
    /// This one knows.
    By(HostResolver),
    /// None knows, and one should.
    Not,
}

/// What became of the choice.
pub fn told(store: &Store) -> Result<Told> {
    if !chosen(store)? {
        return Ok(Told::Unchosen);
    }
    let (Some(resolver), Some(site)) = (hook::choose()?, site(store.state_id())) else {
        return Ok(Told::Not);
    };
    let (told, _) = hook::look(resolver, &site)?;
    Ok(if told { Told::By(resolver) } else { Told::Not })
}

/// Whether this host's resolver knows of the bridge. Everybody may look, so that most calls need no privilege.
fn is_hooked(state: &StateId) -> Result<bool> {
    match (hook::choose()?, site(state)) {
        (Some(resolver), Some(site)) => Ok(hook::look(resolver, &site)?.0),
        _ => Ok(false),
    }
}

/// Tells this host's resolver, unless it knows.
pub fn ensure_hooked(context: &Context, state: &StateId) -> Result<bool> {
    if is_hooked(state)? { Ok(false) } else { run(context, "hook", state) }
}
