//! What a person can do where the host has no resolver that can be told.

use std::net::Ipv4Addr;
use std::path::Path;

/// What to add and where, so that this host asks `address` about names that end in `.vm`: for the resolver that is installed.
pub fn advice(address: Ipv4Addr) -> String {
    let has = |path: &str| Path::new(path).exists();
    if has("/etc/dnsmasq.d") {
        return format!(
            "add the line server=/vm/{address} to /etc/dnsmasq.d/banger.conf, and restart dnsmasq: systemctl restart dnsmasq"
        );
    }
    if has("/etc/unbound/unbound.conf.d") {
        return format!(
            "add these lines to /etc/unbound/unbound.conf.d/banger.conf, and run unbound-control reload:\n\
             server:\n    domain-insecure: \"vm.\"\n    private-domain: \"vm.\"\n\
             forward-zone:\n    name: \"vm.\"\n    forward-addr: {address}"
        );
    }
    if has("/run/systemd/resolve/stub-resolv.conf") {
        return "have this host's programs ask systemd-resolved, which runs: \
                ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; then run banger dns enable again"
            .to_owned();
    }
    format!(
        "install systemd-resolved and run banger dns enable again; or have the resolver that this host asks pass names that end in .vm on to \
         {address}; or add a line such as {} NAME.vm to /etc/hosts for each VM",
        Ipv4Addr::from(address.to_bits() + 1)
    )
}
