//! The host's names as its programs see them, by getent(1): whatever nsswitch.conf(5) says, and within a time.

use std::net::IpAddr;
use std::time::Duration;

use banger_host::process::exec::{Exec, ExecError};

/// The status for a name that nobody knows (getent(1)).
const UNKNOWN: i32 = 2;

/// The IPv4 addresses of `name`, each once; none where nobody knows it.
///
/// # Errors
/// getent is not there, or finds no end within `patience`.
pub fn addresses(name: &str, patience: Duration) -> Result<Vec<IpAddr>, ExecError> {
    let output = Exec::new("getent").arg("ahostsv4").arg(name).deadline(patience).output()?;
    if output.status.code() == Some(UNKNOWN) {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found: Vec<IpAddr> = Vec::new();
    for address in text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}
