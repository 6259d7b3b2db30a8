//! The rules: two nftables tables per state directory, one `inet` and one `bridge`, of the same name.
//!
//! Their fixed part is `skeleton.nft`. A VM adds a chain of its tap's name to each, and an element that leads to it: by
//! the tap in the bridge table, where a chain lets through only frames with the guest's own addresses, and by the
//! guest's address in the inet table, where a chain says whether it may go out. Attach and detach are one transaction
//! each and touch no other VM's chains, so concurrent VMs never lose each other's rules.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::NetError;
use super::request::{Names, TapRequest};
use crate::sys::nft::{self, NftError, Table};
use crate::types::VmId;

const SKELETON: &str = include_str!("skeleton.nft");

/// The map in each table that leads to the VMs' chains.
const MAP: &str = "guests";

const FAMILIES: [&str; 2] = ["inet", "bridge"];

fn skeleton(request: &TapRequest) -> String {
    SKELETON
        .replace("%table%", &request.names.table)
        .replace("%bridge%", request.names.bridge.as_str())
        .replace("%subnet%", &request.subnet.to_string())
}

/// The VM's own part. Chains are flushed first: what a crash left of the same VM is replaced.
fn guest(request: &TapRequest) -> String {
    let TapRequest { names: Names { table, tap, .. }, address, mac, .. } = request;
    let verdict = if request.nat { "accept" } else { "jump refuse" };
    format!(
        "add chain inet {table} {tap}
flush chain inet {table} {tap}
add rule inet {table} {tap} {verdict}
add element inet {table} {MAP} {{ {address} : jump {tap} }}
add chain bridge {table} {tap}
flush chain bridge {table} {tap}
add rule bridge {table} {tap} ether saddr != {mac} drop
add rule bridge {table} {tap} ether type ip ip saddr {address} accept
add rule bridge {table} {tap} ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 \
arp saddr ether {mac} arp saddr ip {address} accept
add rule bridge {table} {tap} ether type ip6 accept
add rule bridge {table} {tap} drop
add element bridge {table} {MAP} {{ \"{tap}\" : jump {tap} }}
"
    )
}

/// Applies the skeleton and the VM's part, in one transaction. `anew` drops what the tables held: where the bridge was not there
/// no VM can have been attached, and a crash may have left anything. It mostly left nothing, and then there is nothing to
/// drop: `nft` does not end before the kernel has let go of what it removed, which takes longer than all else that it does.
///
/// # Errors
/// `nft` refuses; [`NetError::AddressTaken`] where another VM has the address.
pub fn apply(request: &TapRequest, anew: bool) -> Result<(), NetError> {
    let table = &request.names.table;
    let script = skeleton(request) + &guest(request);
    if anew {
        return match nft::apply(table, &(creation(table) + &script)) {
            Err(error) if error.is_existing() => Ok(nft::apply(table, &(removal(table) + &script))?),
            other => Ok(other?),
        };
    }
    nft::apply(table, &script).map_err(|error| {
        // Elements are the only thing here that can be there with another value, and a tap's is always its own chain.
        if error.is_existing() { NetError::AddressTaken(request.address) } else { error.into() }
    })
}

/// Unlike adding, creating a table that exists is an error.
fn creation(table: &str) -> String {
    FAMILIES.iter().map(|family| format!("create table {family} {table}\n")).collect()
}

/// Removes both tables, whether they exist or not.
///
/// # Errors
/// `nft` refuses.
pub fn remove_tables(table: &str) -> Result<(), NftError> {
    nft::apply(table, &removal(table))
}

/// Adding a table that exists is no error and deleting one that does not is, so: both.
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
        for family in FAMILIES {
            if let Some(found) = nft::list(family, table)? {
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
        let mut ids: Vec<VmId> =
            chains.filter_map(|(name, _)| name.strip_prefix("bgt")?.parse().ok()).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Removes the chains of `vm` and what leads to them, in one transaction; `false` where there are none.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn remove_guest(&self, table: &str, vm: &VmId) -> Result<bool, NftError> {
        let chain = vm.tap();
        let mut script = String::new();
        for family in FAMILIES {
            let held = self.table(family);
            for (key, _) in held.jumps(MAP).iter().filter(|(_, target)| *target == chain.as_str()) {
                let key = if family == "bridge" { format!("\"{key}\"") } else { (*key).to_owned() };
                writeln!(script, "delete element {family} {table} {MAP} {{ {key} }}").expect("to a string");
            }
            if held.chains().iter().any(|(name, _)| *name == chain.as_str()) {
                writeln!(script, "flush chain {family} {table} {chain}").expect("to a string");
                writeln!(script, "delete chain {family} {table} {chain}").expect("to a string");
            }
        }
        if script.is_empty() {
            return Ok(false);
        }
        nft::apply(table, &script).map(|()| true)
    }

    /// What of the VM's own part is there with other values: the property. Missing parts are not meant.
    pub fn conflict(&self, request: &TapRequest) -> Option<&'static str> {
        let tap = request.names.tap.as_str();
        let there = |family| self.table(family).chains().iter().any(|(name, n)| *name == tap && *n > 0);
        let says = |family, text: &str| self.table(family).chain_mentions(tap, text);
        if there("bridge") && !says("bridge", &request.mac.to_string()) {
            return Some("vm.mac");
        }
        if there("bridge") && !says("bridge", &request.address.to_string()) {
            return Some("vm.address");
        }
        if there("inet") && says("inet", "accept") != request.nat {
            return Some("vm.nat");
        }
        None
    }

    /// What is missing or not as [`apply`] makes it, in words.
    pub fn differences(&self, request: &TapRequest) -> Vec<String> {
        let mut found = Vec::new();
        let table = &request.names.table;
        for ((family, chain), count) in expected_counts(&(skeleton(request) + &guest(request))) {
            let held = self.table(&family).chains().into_iter().find(|(name, _)| *name == chain);
            if held.map(|(_, n)| n) != Some(count) {
                found.push(format!("the chain {family} {table} {chain} is missing or changed"));
            }
        }
        let tap = request.names.tap.as_str();
        for (family, key) in [("inet", request.address.to_string()), ("bridge", tap.to_owned())] {
            if !self.table(family).jumps(MAP).contains(&(&key, tap)) {
                found.push(format!("the map {family} {table} {MAP} does not lead from {key} to {tap}"));
            }
        }
        if let Some(field) = self.conflict(request) {
            found.push(format!("the chain {tap} was made for another {field}"));
        }
        found
    }
}

/// How many rules a script adds to each chain: `add rule <family> <table> <chain> …`.
fn expected_counts(script: &str) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for line in script.lines().filter_map(|line| line.strip_prefix("add rule ")) {
        let mut words = line.split(' ');
        if let (Some(family), Some(chain)) = (words.next(), words.nth(1)) {
            *counts.entry((family.to_owned(), chain.to_owned())).or_default() += 1;
        }
    }
    counts
}
