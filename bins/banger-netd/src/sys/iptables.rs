//! The rules of `iptables-legacy`, which are the kernel's older tables and not nf_tables: `nft` does not see them, and packets meet both.

use banger_host::process::exec::{Exec, ExecError};

/// The program; an `iptables` of most distributions writes to nf_tables.
pub const LEGACY: &str = "iptables-legacy";

/// The tables that were ever used in this network namespace. A look at one that was not would make it.
const USED: &str = "/proc/thread-self/net/ip_tables_names";

/// The lines of the table `filter` as `iptables-legacy -S` prints them; none where it was never used, or where there is no program to
/// ask.
///
/// # Errors
/// The program fails.
pub fn legacy_rules() -> Result<Vec<String>, ExecError> {
    let used = std::fs::read_to_string(USED).unwrap_or_default();
    if !used.lines().any(|table| table == "filter") {
        return Ok(Vec::new());
    }
    match Exec::new(LEGACY).args(["-w", "5", "-S"]).run() {
        Ok(text) => Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()),
        Err(ExecError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
