//! The names of a VM's chains, and whose a chain is.

use banger_contract::types::VmId;

use crate::sys::nft::Element;

/// The VM that an element of a map of published ports is of, for people.
pub fn vm_of(element: &Element<'_>) -> String {
    let id = element.target.and_then(vm_of_chain).map_or("(unknown)".to_owned(), |vm| vm.to_string());
    match element.comment {
        Some(name) => format!("VM {name} ({id})"),
        None => format!("VM {id}"),
    }
}

/// The VM whose published ports have a chain, or are held by a process, of that name.
pub fn vm_of_chain(name: &str) -> Option<VmId> {
    name.strip_prefix("bgp")?.parse().ok()
}

/// The chain of a VM's published ports, and the process that holds them.
pub fn published_chain(vm: &VmId) -> String {
    format!("bgp{vm}")
}

/// The chain of what bounds a VM's connections.
pub fn limits_chain(vm: &VmId) -> String {
    format!("bgl{vm}")
}
