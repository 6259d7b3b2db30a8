//! Published ports: whether they are free, and who has them where they are not.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use banger_contract::policy::{Protocol, Publish};
use banger_host::net::listen::{self, Process};

use crate::NetError;
use crate::chains::{vm_of, vm_of_chain};
use crate::hold::{self, Port};
use crate::policy::PUBLISHED;
use crate::request::{TapRequest, overlaps};
use crate::sys::nft::{self, Element};

/// Takes the ports. What would be refused to a server is refused here, by the kernel itself.
///
/// # Errors
/// [`NetError::PortTaken`] where a process has one of the ports; an address that is not this host's, or a port that this user
/// may not have.
pub fn take(publish: &[Publish]) -> Result<Vec<Port>, NetError> {
    hold::take_all(publish).map_err(|(one, error)| match error.kind() {
        ErrorKind::AddrInUse => {
            let tcp = one.protocol == Protocol::Tcp;
            NetError::port_taken(one, listen::holder(tcp, one.host_ip, one.host_port).map(shown))
        }
        ErrorKind::AddrNotAvailable => {
            let ip = one.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
            NetError::Invalid { field: "vm.publish", reason: format!("{ip} is not an address of this host") }
        }
        _ => NetError::PortRefused { port: one.to_string(), source: error },
    })
}

/// A process for people; a VMM is named by its VM.
fn shown(process: Process) -> String {
    let Process { pid, name, arguments } = process;
    let of_qemu =
        || arguments.iter().find_map(|word| word.strip_prefix("guest=banger-")?.get(..12)?.parse().ok());
    match vm_of_chain(&name).or_else(of_qemu) {
        Some(id) => format!("VM {id} (process {pid})"),
        None => format!("{name} (process {pid})"),
    }
}

/// # Errors
/// [`NetError::PortTaken`] where another VM has published one of the ports, whichever state directory it is of.
pub fn require_unpublished(request: &TapRequest) -> Result<(), NetError> {
    let maps = nft::inet_maps()?;
    for name in PUBLISHED {
        for (table, elements) in
            maps.named(name).into_iter().filter(|(table, _)| table.starts_with("banger_"))
        {
            let own = |e: &Element<'_>| {
                table == request.names.table && e.target == Some(request.names.published.as_str())
            };
            for element in elements.iter().filter(|e| !own(e)) {
                let Some(held) = read(element) else { continue };
                if let Some(wanted) = request.publish.iter().find(|wanted| overlaps(wanted, &held)) {
                    return Err(NetError::port_taken(wanted, Some(vm_of(element))));
                }
            }
        }
    }
    Ok(())
}

/// The host's side of a published port in one of the maps.
fn read(element: &Element<'_>) -> Option<Publish> {
    let (host_ip, protocol, port) = match element.key.as_slice() {
        [ip, protocol, port] => (Some(ip.parse().ok()?), protocol, port),
        [protocol, port] => (None, protocol, port),
        _ => return None,
    };
    let protocol = match protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(Publish { host_ip, host_port: port.parse().ok()?, guest_port: 0, protocol })
}
