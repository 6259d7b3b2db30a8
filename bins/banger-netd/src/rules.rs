//! The rules: two nftables tables per state directory, one `inet` and one `bridge`, of the same name.
//!
//! Their fixed part is `skeleton.nft`. A VM adds a chain of its tap's name to each, and an element that leads to it: by
//! the tap in the bridge table, where a chain lets through only frames with the guest's own addresses, and by the
//! guest's address in the inet table, where a chain says what it may reach ([`super::policy`]). A chain `bgp` and the VM's id
//! holds its published ports. Attach and detach are one transaction each and touch no other VM's chains, so concurrent VMs never
//! lose each other's rules.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use banger_contract::types::VmId;

use crate::chains::{limits_chain, published_chain, vm_of};
use crate::policy::{self, COUNTED, GUESTS, LIMITED, MAPS, PUBLISH, PUBLISHED, SETS, TOO_MANY};
use crate::request::TapRequest;
use crate::sys::nf_tables::{self, Removal, Removed};
use crate::sys::nft::{self, Element, NftError, Rule, Table};
use crate::{NetError, dns};

const SKELETON: &str = include_str!("skeleton.nft");

const FAMILIES: [&str; 2] = ["inet", "bridge"];

fn skeleton(request: &TapRequest) -> String {
    SKELETON
        .replace("%table%", &request.names.table)
        .replace("%bridge%", request.names.bridge.as_str())
        .replace("%subnet%", &request.subnet.to_string())
        .replace("%mark%", &dns::MARK.to_string())
}

/// The chain that this kernel may be unable to fill, and the expression that it then lacks.
const RESOLVER: (&str, &str) = ("resolver", "socket mark");

/// Applies a script without what the kernel lacks of what it may lack.
fn apply_whole(table: &str, script: &str) -> Result<(), NftError> {
    let resolver = format!("add rule inet {table} {} ", RESOLVER.0);
    let of_resolver = |line: &str| line.starts_with(&resolver);
    let of_count = |line: &str| line.contains(&format!(" {COUNTED} "));
    let mut script = script.to_owned();
    loop {
        let without = |left_out: &dyn Fn(&str) -> bool| -> String {
            script.split_inclusive('\n').filter(|line| !left_out(line)).collect()
        };
        let rest = match nft::apply(table, &script) {
            Err(error) if error.is_about(RESOLVER.1) => without(&of_resolver),
            Err(error) if error.is_about(COUNTED) => without(&of_count),
            other => return other,
        };
        if rest == script {
            return nft::apply(table, &script);
        }
        script = rest;
    }
}

/// Whether a chain holds what it should, by its rules' labels.
fn is_as_wanted(chain: &str, held: Option<&Vec<Option<String>>>, wanted: &Vec<Option<String>>) -> bool {
    let counted = |label: &&Option<String>| label.as_deref() != Some(TOO_MANY);
    held.is_some_and(|held| {
        held == wanted
            || chain == RESOLVER.0 && held.is_empty()
            || held.iter().eq(wanted.iter().filter(counted))
    })
}

/// What of a network was there before its rules are applied.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// Not even the bridge: no VM can have been attached, and a crash may have left anything.
    Nothing,
    /// The bridge, and other VMs.
    Bridge,
    /// The VM itself, with these rules: they are replaced.
    Tap(&'a Tables),
}

/// Applies the skeleton, the VM's part and what else there is to do `besides`, in one transaction, and drops what the tables held where not even the bridge was there.
///
/// `nft` does not end before the kernel has let go of what it removed, which takes longer than all else that it does. So tables that
/// mostly are not there are not dropped unless they are, and a skeleton that is whole is not written anew.
///
/// # Errors
/// `nft` refuses; [`NetError::AddressTaken`] or [`NetError::PortTaken`] where another VM has the address or a port.
pub fn apply(request: &TapRequest, before: Before<'_>, besides: &str) -> Result<(), NetError> {
    let table = &request.names.table;
    let mut script = besides.to_owned() + &policy::script(request);
    if matches!(before, Before::Bridge) && skeleton_is_whole(request)? {
        match apply_whole(table, &script) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_existing() => return Err(whose(request).unwrap_or_else(|| error.into())),
            // A set or a map may be missing.
            Err(_) => {}
        }
    }
    script.insert_str(0, &skeleton(request));
    match before {
        Before::Nothing => {
            return match apply_whole(table, &(creation(table) + &script)) {
                Err(error) if error.is_existing() => Ok(apply_whole(table, &(removal(table) + &script))?),
                other => Ok(other?),
            };
        }
        Before::Bridge => {}
        Before::Tap(held) => {
            script = held.removal_of(table, &request.names.key, Some(request.address)) + &script;
        }
    }
    match apply_whole(table, &script) {
        // Elements are the only thing here that can be there with another value, and a tap's is always its own chain.
        Err(error) if error.is_existing() => Err(whose(request).unwrap_or_else(|| error.into())),
        other => Ok(other?),
    }
}

/// Applies the skeleton alone; `anew` as [`Before::Nothing`].
///
/// # Errors
/// `nft` refuses.
pub fn apply_shared(request: &TapRequest, anew: bool) -> Result<(), NetError> {
    let table = &request.names.table;
    if !anew && skeleton_is_whole(request)? {
        return Ok(());
    }
    let dropped = if anew { removal(table) } else { String::new() };
    Ok(apply_whole(table, &(dropped + &skeleton(request)))?)
}

/// Whether the chains that all VMs share are as [`apply`] makes them.
fn skeleton_is_whole(request: &TapRequest) -> Result<bool, NetError> {
    let table = &request.names.table;
    let unreadable = || NetError::io("read the rules that all VMs share");
    let chains = nf_tables::chains().map_err(unreadable())?;
    let mut held: BTreeMap<(String, String), Vec<Option<String>>> = chains
        .into_iter()
        .filter(|chain| chain.table == *table)
        .map(|chain| ((chain.family, chain.name), Vec::new()))
        .collect();
    for family in FAMILIES {
        for (chain, comment) in nf_tables::rules(family, table).map_err(unreadable())? {
            held.entry((family.to_owned(), chain)).or_default().push(comment);
        }
    }
    Ok(labels(&skeleton(request))
        .iter()
        .all(|(chain, wanted)| is_as_wanted(&chain.1, held.get(chain), wanted)))
}

/// Unlike adding, creating a table that exists is an error.
fn creation(table: &str) -> String {
    FAMILIES.iter().map(|family| format!("create table {family} {table}\n")).collect()
}

/// Which of the VM's keys leads to another VM: its address or a published port.
pub fn whose(request: &TapRequest) -> Option<NetError> {
    let names = &request.names;
    let tables = Tables::read(&names.table).ok()?;
    let address = request.address.to_string();
    let taken = |e: &Element<'_>| e.key == [address.as_str()] && e.target != Some(names.tap.as_str());
    if tables.inet.elements(GUESTS).iter().any(taken) {
        return Some(NetError::AddressTaken(request.address));
    }
    let mut published = request.publish.iter();
    published.find_map(|publish| {
        let (map, key) = policy::published_key(publish);
        let holder = tables.inet.elements(map).into_iter().find(|e| e.key() == key)?;
        let taken = holder.target != Some(names.published.as_str());
        taken.then(|| NetError::port_taken(publish, Some(vm_of(&holder))))
    })
}

/// As [`crate::sys::nf_tables::remove_tables`], in front of what comes instead.
fn removal(table: &str) -> String {
    FAMILIES
        .iter()
        .map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n"))
        .collect()
}

/// Both tables of a state directory as the kernel holds them; absent ones are empty.
#[derive(Debug, Default)]
pub struct Tables {
    present: Vec<&'static str>,
    inet: Table,
    bridge: Table,
}

impl Tables {
    /// Reads the tables with the name `table`.
    ///
    /// # Errors
    /// `nft` is missing or refuses.
    pub fn read(table: &str) -> Result<Self, NftError> {
        let mut tables = Self::default();
        // Side by side: most of what an `nft` costs is its start.
        let both = std::thread::scope(|scope| {
            let list = |family| scope.spawn(move || nft::list(family, table));
            FAMILIES.map(list).map(|thread| thread.join().expect("it does not panic"))
        });
        for (family, found) in FAMILIES.into_iter().zip(both) {
            if let Some(found) = found? {
                *tables.table_mut(family) = found;
                tables.present.push(family);
            }
        }
        Ok(tables)
    }

    fn table_mut(&mut self, family: &str) -> &mut Table {
        if family == "inet" { &mut self.inet } else { &mut self.bridge }
    }

    fn table(&self, family: &str) -> &Table {
        if family == "inet" { &self.inet } else { &self.bridge }
    }

    /// Whether there is any.
    pub fn exist(&self) -> bool {
        !self.present.is_empty()
    }

    /// The VMs that have a chain in one of them.
    pub fn guests(&self) -> Vec<VmId> {
        let chains = FAMILIES.iter().flat_map(|family| self.table(family).chains());
        let id =
            |name: &str| ["bgt", "bgp", "bgl"].iter().find_map(|kind| name.strip_prefix(kind))?.parse().ok();
        let mut ids: Vec<VmId> = chains.filter_map(id).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The rules of the VM's chains in the table of `family`; none where there are none.
    pub fn rules(&self, family: &str, chain: &str) -> Vec<Rule<'_>> {
        self.table(family).rules(chain).unwrap_or_default()
    }

    /// The elements of a set or map in the inet table.
    pub fn elements(&self, name: &str) -> Vec<Element<'_>> {
        self.inet.elements(name)
    }

    /// The script that removes what [`remove_guest`] does, in front of what comes instead. `address` is the VM's, which the map of guests
    /// may not tell any more.
    fn removal_of(&self, table: &str, vm: &VmId, address: Option<Ipv4Addr>) -> String {
        let chains = chains_of(vm);
        let is_own = |name: &str| chains.iter().any(|chain| chain == name);
        let mut script = String::new();
        let mut delete = |family: &str, set: &str, key: String| {
            writeln!(script, "delete element {family} {table} {set} {{ {key} }}").expect("to a string");
        };
        let leads = |element: &&Element<'_>| element.target.is_some_and(is_own);
        let guests = self.inet.elements(GUESTS);
        let mut addresses: Vec<String> = guests.iter().filter(leads).map(Element::key).collect();
        addresses.iter().for_each(|key| delete("inet", GUESTS, key.clone()));
        let unclaimed = |key: &String| !guests.iter().any(|e| e.key() == *key);
        addresses.extend(address.map(|a| a.to_string()).filter(unclaimed));
        for set in SETS {
            let elements = self.inet.elements(set);
            let own = elements.iter().filter(|e| e.key.first().is_some_and(|key| addresses.contains(key)));
            own.for_each(|e| delete("inet", set, e.key()));
        }
        for map in MAPS {
            self.inet.elements(map).iter().filter(leads).for_each(|e| delete("inet", map, e.key()));
        }
        let taps = self.bridge.elements(GUESTS);
        taps.iter().filter(leads).for_each(|e| delete("bridge", GUESTS, format!("\"{}\"", e.key())));
        for family in FAMILIES {
            for chain in self.table(family).chains().filter(|chain| is_own(chain)) {
                writeln!(script, "flush chain {family} {table} {chain}").expect("to a string");
                writeln!(script, "delete chain {family} {table} {chain}").expect("to a string");
            }
        }
        script
    }

    /// What of the VM's own part is there with other values: the property. Missing parts are not meant.
    pub fn conflict(&self, request: &TapRequest) -> Option<&'static str> {
        let names = &request.names;
        let frames = self.rules("bridge", names.tap.as_str());
        let says = |text: String| frames.is_empty() || frames.iter().any(|rule| rule.mentions(&text));
        if !says(request.mac.to_string()) {
            return Some("vm.mac");
        }
        if !says(request.address.to_string()) {
            return Some("vm.address");
        }
        let wanted = labels(&policy::script(request));
        let differs = |chain: &str, part: &dyn Fn(&str) -> bool| {
            let held = self.rules("inet", chain);
            let held: Vec<&str> = held.iter().filter_map(|rule| rule.comment).filter(|l| part(l)).collect();
            let key = ("inet".to_owned(), chain.to_owned());
            let wanted: Vec<&str> = wanted
                .get(&key)
                .into_iter()
                .flatten()
                .filter_map(Option::as_deref)
                .filter(|l| part(l))
                .collect();
            self.inet.chains().any(|name| name == chain) && held != wanted
        };
        let tap = names.tap.as_str();
        if self.rules("inet", tap).is_empty() {
            return None;
        }
        if differs(tap, &|label| label == policy::PEER) {
            return Some("vm.peer");
        }
        if differs(tap, &|label| label == policy::REFUSED_NAT) {
            return Some("vm.nat");
        }
        if differs(tap, &|label| label != policy::PEER) {
            return Some("vm.egress");
        }
        // An empty chain to which ports lead is damage.
        let leads =
            |map: &&str| self.inet.elements(map).iter().any(|e| e.target == Some(names.published.as_str()));
        let flushed = self.rules("inet", &names.published).is_empty() && PUBLISHED.iter().any(leads);
        (!flushed && differs(&names.published, &|label| label.starts_with(PUBLISH))).then_some("vm.publish")
    }

    /// The family and name of the chains that `script` fills and that are missing or hold other rules.
    fn changed_chains(&self, script: &str) -> Vec<(String, String)> {
        let labels_of = |rules: &Vec<Rule<'_>>| rules.iter().map(|r| r.comment.map(str::to_owned)).collect();
        let changed = labels(script).into_iter().filter(|((family, chain), wanted)| {
            let held: Option<Vec<_>> = self.table(family).rules(chain).as_ref().map(labels_of);
            !is_as_wanted(chain, held.as_ref(), wanted)
        });
        changed.map(|(chain, _)| chain).collect()
    }

    /// What is missing or not as [`apply`] makes it, in words.
    pub fn differences(&self, request: &TapRequest) -> Vec<String> {
        let names = &request.names;
        let table = &names.table;
        let changed = self.changed_chains(&(skeleton(request) + &policy::script(request)));
        let mut found: Vec<String> = changed
            .iter()
            .map(|(family, chain)| format!("the chain {family} {table} {chain} is missing or changed"))
            .collect();
        let mut lead = |held: &Table, map: &str, key: String, chain: &str| {
            if !held.elements(map).iter().any(|e| e.key() == key && e.target == Some(chain)) {
                found.push(format!("the map {table} {map} does not lead from {key} to {chain}"));
            }
        };
        let (tap, published) = (names.tap.as_str(), names.published.as_str());
        lead(&self.inet, GUESTS, request.address.to_string(), tap);
        lead(&self.inet, LIMITED, request.address.to_string(), &names.limits);
        lead(&self.bridge, GUESTS, tap.to_owned(), tap);
        for publish in &request.publish {
            let (map, key) = policy::published_key(publish);
            lead(&self.inet, map, key, published);
        }
        for (set, wanted) in policy::memberships(request) {
            let held = self.inet.elements(set);
            let held = held.iter().filter(|e| e.key.first() == Some(&request.address.to_string()));
            let mut held: Vec<String> = held.map(Element::key).collect();
            held.sort();
            if held != wanted {
                found.push(format!("the set {table} {set} has changed"));
            }
        }
        if let Some(field) = self.conflict(request) {
            found.push(format!("the chain {tap} was made for another {field}"));
        }
        found
    }
}

/// Removes the chains of `vm` and what leads to them, in one transaction; `None` where there are none.
///
/// # Errors
/// The kernel refuses, or shows no rules.
pub fn remove_guest(table: &str, vm: &VmId) -> Result<Option<Removed>, NetError> {
    let chains = chains_of(vm);
    let own = |name: &str| chains.iter().any(|chain| chain == name);
    let removals = (|| {
        let mut removals = Vec::new();
        let mut addresses: Vec<Vec<u8>> = Vec::new();
        for family in FAMILIES {
            for element in nf_tables::elements(family, table, GUESTS)? {
                if element.target.as_deref().is_some_and(own) {
                    addresses.push(element.key.clone());
                    removals.push(Removal::Element(family, GUESTS, element.key));
                }
            }
        }
        for map in MAPS {
            let elements = nf_tables::elements("inet", table, map)?.into_iter();
            let leads = elements.filter(|e| e.target.as_deref().is_some_and(own));
            removals.extend(leads.map(|e| Removal::Element("inet", map, e.key)));
        }
        for set in SETS {
            let elements = nf_tables::elements("inet", table, set)?.into_iter();
            // The address is the key's first part.
            let of_vm = elements.filter(|e| e.key.get(..4).is_some_and(|a| addresses.iter().any(|b| b == a)));
            removals.extend(of_vm.map(|e| Removal::Element("inet", set, e.key)));
        }
        let chains = nf_tables::chains()?.into_iter().filter(|c| c.table == table && own(&c.name));
        removals.extend(chains.filter_map(|chain| {
            let family = FAMILIES.into_iter().find(|family| *family == chain.family)?;
            Some(Removal::Chain(family, chain.name))
        }));
        Ok(removals)
    })();
    let removals = removals.map_err(NetError::io("read the VM's rules"))?;
    nf_tables::remove(table, &removals).map_err(NetError::io("remove the VM's rules"))
}

/// All chains of a VM, in whichever table.
fn chains_of(vm: &VmId) -> [String; 3] {
    [vm.tap().to_string(), published_chain(vm), limits_chain(vm)]
}

/// The addresses that lead to the VM's chains.
///
/// # Errors
/// The kernel shows no rules.
pub fn addresses_of(table: &str, vm: &VmId) -> Result<Vec<Ipv4Addr>, NetError> {
    let elements =
        nf_tables::elements("inet", table, GUESTS).map_err(NetError::io("read the VM's address"))?;
    let tap = vm.tap();
    let own = elements.into_iter().filter(|e| e.target.as_deref() == Some(tap.as_str()));
    Ok(own.filter_map(|e| Some(<[u8; 4]>::try_from(e.key).ok()?.into())).collect())
}

/// The rules that a script adds to each chain, by their comments: `add rule <family> <table> <chain> … comment "<label>"`.
fn labels(script: &str) -> BTreeMap<(String, String), Vec<Option<String>>> {
    let mut labels: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in script.lines() {
        let mut words = line.split(' ');
        let (add, what) = (words.next(), words.next());
        let (Some(family), Some(chain)) = (words.next(), words.nth(1)) else { continue };
        let key = (family.to_owned(), chain.to_owned());
        match (add, what) {
            (Some("add"), Some("rule")) => {
                let label = line.split_once(" comment \"").and_then(|(_, rest)| rest.strip_suffix('"'));
                labels.entry(key).or_default().push(label.map(str::to_owned));
            }
            // A chain without rules is one to be there, too.
            (Some("flush"), Some("chain")) => drop(labels.entry(key).or_default()),
            _ => {}
        }
    }
    labels
}
