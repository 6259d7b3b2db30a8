//! What a guest may reach and who may reach it, on the command line.

use banger_contract::policy::{Egress, MTU, Publish};
use banger_contract::types::{ParseSizeError, Size};
use clap::Args;

/// Of a new VM.
#[derive(Debug, Clone, Args)]
pub struct Reach {
    /// Masquerade what the guest sends out of its subnet (tap only): the default
    #[arg(long, overrides_with = "no_nat")]
    nat: bool,
    /// Leave the guest without a way out of its subnet (tap only)
    #[arg(long, overrides_with = "nat")]
    no_nat: bool,
    /// What the guest may reach outside: "open", "none", or "allow=" and addresses or networks with or without a port,
    /// as in allow=10.0.0.0/8:443,192.0.2.7 [default: open]
    #[arg(long, value_name = "POLICY")]
    pub egress: Option<Egress>,
    /// Let this VM and others that are given this option reach each other (tap only)
    #[arg(long)]
    pub peer: bool,
    /// Publish a port of the guest on the host; may be given several times
    #[arg(long, short = 'p', value_name = "[HOST_IP:]HOST_PORT:GUEST_PORT[/udp]")]
    pub publish: Vec<Publish>,
    /// Where another firewall of the host, such as Docker's, drops what VMs send, ask it to let them through
    /// [environment: BANGER_OPEN_FIREWALL] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub open_firewall: Option<bool>,
    /// How much the guest may receive and how much it may send in a second, such as 10M, or "none" (Firecracker only) [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub net_rate: Option<Rate>,
    /// The largest packet on the guest's network, bytes, 1280 to 9000; more than 1500 with a tap only [default: 1500]
    #[arg(long, value_name = "BYTES", value_parser = parse_mtu)]
    pub mtu: Option<u16>,
}

impl Reach {
    /// Whether the guest gets out of its subnet, where that was said.
    pub fn nat(&self) -> Option<bool> {
        (self.nat || self.no_nat).then_some(self.nat)
    }
}

/// Bytes a second; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

/// The least that a limit may be: below it a guest does not even boot.
const MIN_RATE: u64 = 64 << 10;

fn parse_mtu(text: &str) -> Result<u16, String> {
    let mtu = text.parse().ok().filter(|mtu| MTU.contains(mtu));
    mtu.ok_or_else(|| format!("it must be a number from {} to {}", MTU.start(), MTU.end()))
}

pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(Rate(None));
    }
    let size: Size = text.parse().map_err(|error: ParseSizeError| error.to_string())?;
    if size.bytes() < MIN_RATE {
        return Err("it must be at least 64K, or none".to_owned());
    }
    Ok(Rate(Some(size.bytes())))
}
