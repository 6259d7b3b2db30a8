//! systemd-networkd by its interface on the system bus (org.freedesktop.network1(5)).

use serde::Deserialize;

use super::bus::{BusError, Object};

const MANAGER: Object = Object {
    service: "org.freedesktop.network1",
    path: "/org/freedesktop/network1",
    interface: "org.freedesktop.network1.Manager",
};

/// What it says of a link, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    administrative_state: String,
    network_file: Option<String>,
}

/// The file by which it manages the link with the number `link` (systemd.network(5)); `None` where it leaves the link alone, or does
/// not run.
///
/// # Errors
/// It, or the bus, does not answer. Before systemd 249 it cannot be asked.
pub fn manages(link: u32) -> Result<Option<String>, BusError> {
    const MEMBER: &str = "DescribeLink";
    if !MANAGER.runs()? {
        return Ok(None);
    }
    let reply = MANAGER.call(MEMBER, &["i", &link.to_string()])?;
    let text = reply.get(0).and_then(|text| text.as_str()).unwrap_or_default();
    let described: Description = serde_json::from_str(text).map_err(|_| MANAGER.odd(MEMBER))?;
    // networkctl(1): of the other states it has seen the link and nothing more, or the link is gone.
    let taken = ["configuring", "configured", "failed"].contains(&described.administrative_state.as_str());
    Ok(taken.then(|| described.network_file.unwrap_or_else(|| "a file of its own".to_owned())))
}
