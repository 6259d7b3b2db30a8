//! `banger dns`.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use banger_cli::plumbing;
use banger_contract::dns::{DNS_SCHEMA, DnsReply, HostResolver, ResolvedName};
use banger_contract::error::escape_controls;
use banger_contract::names::NamedVm;
use banger_netd::dns::hook::{self, HookError};
use banger_netd::dns::serving;
use banger_netd::realm::Realm;
use banger_state::db::Store;
use clap::{Args, Subcommand};

use crate::context::{self, Context, Result};
use crate::sys::getent;
use crate::{host_resolver, resolver, subnet, table};

/// How many names are tried.
const MAX_TRIED: usize = 16;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(6);

#[derive(Debug, Args)]
pub struct Dns {
    #[command(subcommand)]
    pub command: DnsCommand,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum DnsCommand {
    /// Have this host's resolver ask for NAME.vm, now and whenever a VM with a tap runs
    Enable,
    /// Have it forget that
    Disable,
    /// Say what was chosen, and what this host really answers
    Status,
}

impl DnsCommand {
    pub fn verb(self) -> &'static str {
        match self {
            Self::Enable => "dns enable",
            Self::Disable => "dns disable",
            Self::Status => "dns status",
        }
    }
}

pub fn dispatch(context: &Context, command: &DnsCommand) -> Result<ExitCode> {
    if context.explain {
        return Ok(context::print(&explained(*command)));
    }
    match command {
        DnsCommand::Enable => enable(context),
        DnsCommand::Disable => disable(context),
        DnsCommand::Status => status(context, Store::open_existing(&context.state)?.as_ref()),
    }
}

fn explained(command: DnsCommand) -> String {
    let stage = match command {
        DnsCommand::Enable => host_resolver::stage("hook"),
        DnsCommand::Disable => host_resolver::stage("unhook"),
        DnsCommand::Status => return "banger dns status runs no other program of banger's\n".to_owned(),
    };
    format!("echo '{{\"schema\":\"banger.hook/1\",\"state_id\":\"…\"}}' | {}\n", stage.shown())
}

fn enable(context: &Context) -> Result<ExitCode> {
    let mut store = Store::open(&context.state)?;
    let Some(resolver) = hook::choose()? else {
        let advice = hook::by_hand::advice(gateway(&mut store)?);
        return Err(HookError::NoResolver { advice }.into());
    };
    let state = store.state_id().clone();
    let attached = resolver::publish(context)?;
    if attached {
        resolver::ensure_served(context, &state)?;
        host_resolver::ensure_hooked(context, &state)?;
    }
    // Only now: what cannot be done is not to be tried with every VM.
    store.set_meta(host_resolver::KEY, host_resolver::ENABLED)?;
    if context.json {
        return status(context, Some(&store));
    }
    let when = if attached { "NAME.vm" } else { "NAME.vm, as soon as one with a tap runs" };
    context.say(format!("this host resolves the names of VMs by {}: {when}", resolver.name()));
    Ok(ExitCode::SUCCESS)
}

fn disable(context: &Context) -> Result<ExitCode> {
    let mut store = Store::open(&context.state)?;
    // First: what is left where this is killed goes with the last VM, and nothing brings it back.
    store.set_meta(host_resolver::KEY, host_resolver::DISABLED)?;
    let state = store.state_id().clone();
    // Whatever it looks like: half of it may be there.
    if resolver::is_left(&state) || host_resolver::is_attached(&state) {
        host_resolver::run(context, "unhook", &state)?;
    }
    if context.json {
        return status(context, Some(&store));
    }
    context.say("this host does not resolve the names of VMs");
    Ok(ExitCode::SUCCESS)
}

/// Where the resolver answers, or will.
fn gateway(store: &mut Store) -> Result<Ipv4Addr> {
    let subnet = subnet::choose(store, None)?;
    Ok(subnet.nth(1).unwrap_or(subnet.address()))
}

fn status(context: &Context, store: Option<&Store>) -> Result<ExitCode> {
    let state = store.map(Store::state_id);
    let (resolver, site) = (hook::choose()?, state.and_then(host_resolver::site));
    let (hooked, others) = match (resolver, &site) {
        (Some(resolver), Some(site)) => hook::look(resolver, site)?,
        _ => (false, Vec::new()),
    };
    let address = site.as_ref().map(|site| site.address);
    let reply = DnsReply {
        schema: DNS_SCHEMA.to_owned(),
        state_id: state.cloned(),
        enabled: store.map_or(Ok(false), host_resolver::chosen)?,
        resolver,
        bridge: site.as_ref().map(|site| site.realm.bridge()),
        address,
        served: state.is_some_and(|state| serving::is_served(&Realm::of_caller(state))),
        hooked,
        claimed_by: others.into_iter().map(|claim| claim.by).collect(),
        names: tried(store.map_or(Ok(Vec::new()), resolver::attached)?),
        advice: address.filter(|_| resolver.is_none()).map(hook::by_hand::advice),
    };
    if context.json {
        return Ok(context::emit(&plumbing::value(&reply)));
    }
    Ok(context::print(&shown(&reply)))
}

/// Asks this host for each name, all at once: a resolver that does not answer takes its time.
fn tried(vms: Vec<NamedVm>) -> Vec<ResolvedName> {
    std::thread::scope(|scope| {
        let asked = vms.into_iter().take(MAX_TRIED).map(|vm| scope.spawn(|| try_one(vm)));
        let threads: Vec<_> = asked.collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    })
}

fn try_one(vm: NamedVm) -> ResolvedName {
    // The dot at the end: whatever the host appends to names is another's.
    let answers = getent::addresses(&format!("{}.{}.", vm.name, hook::DOMAIN), PATIENCE).unwrap_or_default();
    let resolves = answers.iter().any(|answer| vm.addresses.contains(answer));
    ResolvedName { name: vm.name, addresses: vm.addresses, answers, resolves }
}

fn shown(reply: &DnsReply) -> String {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let list = |addresses: &[IpAddr]| match addresses {
        [] => "-".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    let bridge = match (&reply.bridge, reply.address) {
        (Some(bridge), Some(address)) => format!("{bridge} {address}"),
        _ => "- (no VM with a tap runs)".to_owned(),
    };
    let mut facts = vec![
        ("enabled", yes(reply.enabled)),
        ("resolver", reply.resolver.map_or("none that can be told", HostResolver::name).to_owned()),
        ("bridge", bridge),
        ("served", yes(reply.served)),
        ("hooked", yes(reply.hooked)),
    ];
    facts.extend(reply.claimed_by.iter().map(|by| ("claimed by", escape_controls(by))));
    let rows = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    let mut text = table::table(&["DNS", ""], rows);
    if !reply.names.is_empty() {
        let rows = reply.names.iter().map(|name| {
            let is = if name.resolves { "ok" } else { "wrong" };
            vec![format!("{}.vm", name.name), list(&name.addresses), list(&name.answers), is.to_owned()]
        });
        text.push('\n');
        text.push_str(&table::table(&["NAME", "ADDRESS", "THIS HOST SAYS", ""], rows));
    }
    if let Some(advice) = &reply.advice {
        text.push_str(&format!("\nTo have this host resolve them:\n{advice}\n"));
    }
    text
}
