//! Other firewalls of the host. Each of them hears every packet, and an accept of ours cannot override a drop of theirs; so where one
//! drops what is forwarded, it has to be asked in the place that it offers for that.
//!
//! With the record's consent (`vm.open_firewall`) the bridge is let through there, which stays until the last VM is gone: an empty
//! chain in our own table notes beforehand that it is being done, and another one afterwards that it was, so that what was killed in
//! between is neither forgotten nor taken for done. Without consent nothing is touched, and the command is told.

use crate::sys::iptables;
use crate::sys::nf_tables::{self, Chain, Removed};
use crate::sys::nft;
use banger_contract::reply::Blocked;
use banger_host::process::exec::{Exec, ExecError};

use super::NetError;
use super::realm::Realm;
use super::request::TapRequest;
use super::routing;

/// What the names of the chains begin with that note what is being opened, and what was.
const OPENING: &str = "opening_";
const OPENED: &str = "opened_";

/// A firewall that drops what nobody has let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firewall {
    /// Docker's rules: made with iptables, `DOCKER-USER` being the chain for rules of others.
    Docker(Backend),
    /// ufw: `ufw route` is for what is forwarded.
    Ufw(Backend),
    /// firewalld: a link belongs to a zone, and `trusted` lets everything through.
    Firewalld,
    /// A chain of somebody's. There is no place to ask in.
    Other {
        /// The chain's family, or [`LEGACY`].
        family: String,
        /// Its table.
        table: String,
        /// Its name.
        chain: String,
    },
}

/// Where the rules of an `iptables` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// In nf_tables.
    Nft,
    /// In the kernel's older tables.
    Legacy,
}

/// What stands for the family of a chain of `iptables-legacy`.
const LEGACY: &str = "legacy";

impl Backend {
    fn family(self) -> &'static str {
        match self {
            Self::Nft => "ip",
            Self::Legacy => LEGACY,
        }
    }
}

/// Those that have a place for others' wishes.
const KNOWN: [Firewall; 5] = [
    Firewall::Docker(Backend::Nft),
    Firewall::Docker(Backend::Legacy),
    Firewall::Ufw(Backend::Nft),
    Firewall::Ufw(Backend::Legacy),
    Firewall::Firewalld,
];

impl Firewall {
    /// Its name, for people.
    pub fn name(&self) -> String {
        match self {
            Self::Docker(_) => "Docker".to_owned(),
            Self::Ufw(_) => "ufw".to_owned(),
            Self::Firewalld => "firewalld".to_owned(),
            Self::Other { family, chain, .. } if family == LEGACY => {
                format!("the chain {chain} of iptables-legacy")
            }
            Self::Other { family, table, chain } => format!("the nftables chain {family} {table} {chain}"),
        }
    }

    /// What our notes call it; none where it offers no place.
    fn mark(&self) -> Option<&'static str> {
        match self {
            Self::Docker(Backend::Nft) => Some("docker"),
            Self::Docker(Backend::Legacy) => Some("docker_legacy"),
            Self::Ufw(Backend::Nft) => Some("ufw"),
            Self::Ufw(Backend::Legacy) => Some("ufw_legacy"),
            Self::Firewalld => Some("firewalld"),
            Self::Other { .. } => None,
        }
    }

    /// The chain in which the bridge is named where it is let through.
    fn place(&self) -> (&str, &str, &str) {
        match self {
            Self::Docker(backend) => (backend.family(), "filter", "DOCKER-USER"),
            Self::Ufw(backend) => (backend.family(), "filter", "ufw-user-forward"),
            Self::Firewalld => ("inet", "firewalld", "filter_FORWARD_ZONES"),
            Self::Other { family, table, chain } => (family, table, chain),
        }
    }

    /// The commands that let the bridge through; with a tag they are ours to take back.
    fn opening(&self, bridge: &str, tag: Option<&str>) -> Vec<Vec<String>> {
        let comment = |option: &[&str]| match tag {
            Some(tag) => [option, &[tag]].concat().join(" "),
            None => String::new(),
        };
        let lines = match self {
            Self::Docker(backend) => {
                let comment = comment(&["-m comment --comment"]);
                let program = match backend {
                    Backend::Nft => "iptables",
                    Backend::Legacy => iptables::LEGACY,
                };
                ["-i", "-o"]
                    .map(|way| format!("{program} -w -I DOCKER-USER {way} {bridge} {comment} -j ACCEPT"))
                    .to_vec()
            }
            Self::Ufw(_) => {
                let comment = comment(&["comment"]);
                [
                    format!("route allow in on {bridge}"),
                    format!("route allow out on {bridge}"),
                    format!("allow in on {bridge} to any port 53"),
                ]
                .map(|rule| format!("ufw {rule} {comment}"))
                .to_vec()
            }
            Self::Firewalld => vec![format!("firewall-cmd --zone=trusted --change-interface={bridge}")],
            Self::Other { family, chain, .. } if family == LEGACY => ["-i", "-o"]
                .map(|way| format!("{} -w -I {chain} {way} {bridge} -j ACCEPT", iptables::LEGACY))
                .to_vec(),
            Self::Other { family, table, chain } => ["iifname", "oifname"]
                .map(|way| format!("nft insert rule {family} {table} {chain} {way} {bridge} accept"))
                .to_vec(),
        };
        lines.iter().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    /// The commands that take [`Self::opening`] back.
    fn closing(&self, bridge: &str, tag: &str) -> Vec<Vec<String>> {
        let mut commands = match self {
            Self::Firewalld => {
                vec![vec![
                    "firewall-cmd".into(),
                    "--zone=trusted".into(),
                    format!("--remove-interface={bridge}"),
                ]]
            }
            Self::Ufw(_) => self.opening(bridge, None),
            Self::Docker(_) | Self::Other { .. } => self.opening(bridge, Some(tag)),
        };
        for command in &mut commands {
            match self {
                Self::Docker(_) => command[2] = "-D".to_owned(),
                Self::Ufw(_) if command[1] == "route" => command.insert(2, "delete".to_owned()),
                Self::Ufw(_) => command.insert(1, "delete".to_owned()),
                Self::Firewalld | Self::Other { .. } => {}
            }
        }
        commands
    }

    /// Whether the bridge is let through already, by whomever.
    fn is_open(&self, bridge: &str) -> Result<bool, NetError> {
        let (family, table, chain) = self.place();
        if family == LEGACY {
            let (to, link) = (format!("-A {chain} "), format!(" {bridge} "));
            return Ok(legacy()?.iter().any(|rule| rule.starts_with(&to) && rule.contains(&link)));
        }
        let rules = nft::list_chain(family, table, chain)?;
        Ok(rules
            .is_some_and(|table| table.rules(chain).unwrap_or_default().iter().any(|r| r.mentions(bridge))))
    }

    /// Takes back what was opened, as far as it is there: a kill or the host's owner may have left part of it, and a firewall that has
    /// ended has nothing to take back.
    fn close(&self, bridge: &str, tag: &str) -> Result<(), NetError> {
        let mut first = Ok(());
        for words in self.closing(bridge, tag) {
            if let Err(error) = run(self, &words)
                && self.is_left(&words, bridge)?
            {
                first = first.and(Err(error));
            }
        }
        first
    }

    /// Whether what `closing` was to take back is still there.
    fn is_left(&self, closing: &[String], bridge: &str) -> Result<bool, NetError> {
        if matches!(self, Self::Docker(_)) {
            // The bridge may be in rules of the owner's, too, and nft does not show the comments of iptables.
            let mut look = closing.to_vec();
            look[2] = "-C".to_owned();
            match Exec::new(&look[0]).args(&look[1..]).output().map(|output| output.status.code()) {
                Ok(Some(0)) => return Ok(true),
                Ok(Some(1)) => return Ok(false),
                _ => {}
            }
        }
        self.is_open(bridge)
    }
}

/// The firewalls among `chains` that drop what is forwarded.
fn among(chains: &[Chain]) -> Vec<Firewall> {
    let has = |family: &str, table: &str, name: &str| {
        chains.iter().any(|c| (c.family.as_str(), c.table.as_str(), c.name.as_str()) == (family, table, name))
    };
    let mut found: Vec<Firewall> = Vec::new();
    if has("inet", "firewalld", "filter_FORWARD") {
        found.push(Firewall::Firewalld);
    }
    let ours = |chain: &&Chain| chain.table.starts_with("banger_");
    let forward = |chain: &&Chain| chain.forward && ["ip", "inet", LEGACY].contains(&chain.family.as_str());
    for chain in chains.iter().filter(forward).filter(|chain| chain.drops && !ours(chain)) {
        let backend = [Backend::Nft, Backend::Legacy].into_iter().find(|backend| {
            (chain.family.as_str(), chain.table.as_str(), chain.name.as_str())
                == (backend.family(), "filter", "FORWARD")
        });
        let of_iptables = backend.into_iter().flat_map(|b| [Firewall::Docker(b), Firewall::Ufw(b)]);
        let before = found.len();
        found.extend(of_iptables.filter(|firewall| {
            let (family, table, chain) = firewall.place();
            has(family, table, chain)
        }));
        if found.len() == before {
            let Chain { family, table, name, .. } = chain.clone();
            found.push(Firewall::Other { family, table, chain: name });
        }
    }
    found
}

/// The firewalls of this host that drop what is forwarded unless they are asked.
///
/// # Errors
/// The caller may not see the host's rules.
pub fn present() -> Result<Vec<Firewall>, NetError> {
    let mut chains = chains()?;
    chains.extend(legacy()?.iter().filter_map(|line| legacy_chain(line)));
    Ok(among(&chains))
}

fn legacy() -> Result<Vec<String>, NetError> {
    let firewall = || iptables::LEGACY.to_owned();
    iptables::legacy_rules().map_err(|source| NetError::Firewall { firewall: firewall(), source })
}

/// The chain that a line of `iptables-legacy -S` declares: `-P FORWARD DROP`, `-N DOCKER-USER`.
fn legacy_chain(line: &str) -> Option<Chain> {
    let words: Vec<&str> = line.split(' ').collect();
    let (name, drops) = match words[..] {
        ["-P", name, policy] => (name, policy == "DROP"),
        ["-N", name] => (name, false),
        _ => return None,
    };
    let (family, table) = (LEGACY.to_owned(), "filter".to_owned());
    Some(Chain { family, table, name: name.to_owned(), forward: name == "FORWARD", drops })
}

fn chains() -> Result<Vec<Chain>, NetError> {
    nf_tables::chains().map_err(NetError::io("list the chains of nf_tables"))
}

/// Those that keep the VMs of `realm` from being reached and from reaching anything, and what to do about it.
///
/// # Errors
/// The host's rules cannot be read.
pub fn blocking(realm: &Realm) -> Result<Vec<Blocked>, NetError> {
    let bridge = realm.bridge();
    let mut blocked = Vec::new();
    for firewall in present()? {
        if !firewall.is_open(bridge.as_str())? {
            blocked.push(told(&firewall, bridge.as_str()));
        }
    }
    Ok(blocked)
}

fn told(firewall: &Firewall, bridge: &str) -> Blocked {
    let commands = firewall.opening(bridge, None);
    let commands: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
    Blocked { firewall: firewall.name(), fix: commands.join(" && ") }
}

/// Has every firewall that offers a place for it let the bridge through, if the record consents. Gives those that still do not.
///
/// # Errors
/// A firewall cannot be asked.
pub(super) fn answer(request: &TapRequest) -> Result<Vec<Blocked>, NetError> {
    if !request.is_forwarded() {
        return Ok(Vec::new());
    }
    let (realm, table) = (&request.names.realm, &request.names.table);
    let (bridge, tag) = (request.names.bridge.as_str(), tag(realm));
    let mut blocked = Vec::new();
    for firewall in present()? {
        let half = firewall.mark().map(|mark| format!("{OPENING}{mark}"));
        let half_open = half.is_some_and(|note| notes(realm).is_ok_and(|notes| notes.contains(&note)));
        if !half_open && firewall.is_open(bridge)? {
            continue;
        }
        match firewall.mark().filter(|_| request.open_firewall) {
            None => blocked.push(told(&firewall, bridge)),
            Some(mark) => {
                nft::apply(table, &format!("add chain inet {table} {OPENING}{mark}\n"))?;
                if half_open {
                    firewall.close(bridge, &tag)?;
                }
                for words in firewall.opening(bridge, Some(&tag)) {
                    run(&firewall, &words)?;
                }
                let done = [("add", OPENED), ("delete", OPENING)]
                    .map(|(verb, note)| format!("{verb} chain inet {table} {note}{mark}\n"));
                nft::apply(table, &done.concat())?;
            }
        }
    }
    Ok(blocked)
}

/// What the tables of `realm` note of other firewalls.
fn notes(realm: &Realm) -> Result<Vec<String>, NetError> {
    let table = realm.nft_table();
    let is_note = |name: &str| [OPENING, OPENED].iter().any(|note| name.starts_with(note));
    let ours = chains()?.into_iter().filter(|chain| chain.table == table && is_note(&chain.name));
    Ok(ours.map(|chain| chain.name).collect())
}

/// Whether there is a table of `realm` with anything in it.
pub(super) fn has_tables(realm: &Realm) -> Result<bool, NetError> {
    let table = realm.nft_table();
    Ok(chains()?.iter().any(|chain| chain.table == table))
}

/// Removes both tables of `realm`, and before them what was opened for it in other firewalls, and forwarding where it was switched on for
/// bridges of banger's and this is the last.
///
/// # Errors
/// A firewall cannot be asked; then the tables stay, which say so. Or the kernel refuses.
pub(super) fn remove_tables(realm: &Realm) -> Result<Removed, NetError> {
    let (bridge, tag, notes) = (realm.bridge(), tag(realm), notes(realm)?);
    let noted = |firewall: &&Firewall| {
        let mark = firewall.mark().unwrap_or_default();
        [OPENING, OPENED].iter().any(|note| notes.contains(&format!("{note}{mark}")))
    };
    for firewall in KNOWN.iter().filter(noted) {
        firewall.close(bridge.as_str(), &tag)?;
    }
    let own = realm.nft_table();
    let tables: Vec<&str> = [own.as_str()].into_iter().chain(routing::switch_off_after(realm)?).collect();
    let removed = nf_tables::remove_tables(&tables);
    removed.map_err(NetError::io("remove the nftables tables"))
}

/// The comment of rules that are ours to remove.
fn tag(realm: &Realm) -> String {
    format!("banger:{}", realm.key())
}

fn run(firewall: &Firewall, words: &[String]) -> Result<(), NetError> {
    let done = Exec::new(&words[0]).args(&words[1..]).run();
    let firewall = firewall.name();
    done.map(drop).map_err(|source: ExecError| NetError::Firewall { firewall, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &str, table: &str, name: &str, forward: bool, drops: bool) -> Chain {
        Chain { family: family.into(), table: table.into(), name: name.into(), forward, drops }
    }

    #[test]
    fn firewalls_are_told_by_their_chains() {
        let forward = |drops| chain("ip", "filter", "FORWARD", true, drops);
        let docker = chain("ip", "filter", "DOCKER-USER", false, false);
        let ufw = chain("ip", "filter", "ufw-user-forward", false, false);
        assert_eq!(among(&[]), []);
        assert_eq!(among(&[forward(false), docker.clone(), ufw.clone()]), []);
        let (in_docker, in_ufw) = (Firewall::Docker(Backend::Nft), Firewall::Ufw(Backend::Nft));
        for (chain, firewall) in [(&docker, &in_docker), (&ufw, &in_ufw)] {
            assert_eq!(among(&[forward(true), chain.clone()]), std::slice::from_ref(firewall));
        }
        assert_eq!(among(&[forward(true), docker.clone(), ufw]), [in_docker, in_ufw]);
        let legacy = |lines: &[&str]| lines.iter().filter_map(|l| legacy_chain(l)).collect::<Vec<_>>();
        let mut old =
            legacy(&["-P INPUT DROP", "-P FORWARD DROP", "-N DOCKER-USER", "-A FORWARD -j DOCKER-USER"]);
        assert_eq!(among(&old), [Firewall::Docker(Backend::Legacy)]);
        // Docker in nf_tables, and a policy of somebody's in the older tables.
        old.remove(2);
        old.extend([forward(true), docker]);
        let found = among(&old);
        assert_eq!(
            found.iter().map(Firewall::name).collect::<Vec<_>>(),
            ["the chain FORWARD of iptables-legacy", "Docker"]
        );
        assert_eq!(
            found[0].opening("bgr0", None)[1].join(" "),
            "iptables-legacy -w -I FORWARD -o bgr0 -j ACCEPT"
        );
        assert_eq!(among(&legacy(&["-P FORWARD ACCEPT", "-N DOCKER-USER"])), []);
        assert_eq!(
            among(&[chain("inet", "firewalld", "filter_FORWARD", true, false)]),
            [Firewall::Firewalld]
        );
        assert!(matches!(among(&[forward(true)])[..], [Firewall::Other { .. }]));
        assert_eq!(among(&[chain("inet", "banger_0a1b2c3d", "forward", true, true)]), []);
        assert_eq!(among(&[chain("ip6", "filter", "FORWARD", true, true)]), []);
    }

    #[test]
    fn what_is_opened_is_closed_word_for_word() {
        let words = |commands: Vec<Vec<String>>| commands.iter().map(|c| c.join(" ")).collect::<Vec<_>>();
        let closing = words(Firewall::Docker(Backend::Nft).closing("bgr0", "t"));
        assert_eq!(closing[1], "iptables -w -D DOCKER-USER -o bgr0 -m comment --comment t -j ACCEPT");
        assert_eq!(
            words(Firewall::Docker(Backend::Nft).opening("bgr0", None))[0],
            "iptables -w -I DOCKER-USER -i bgr0 -j ACCEPT"
        );
        let closing = words(Firewall::Ufw(Backend::Nft).closing("bgr0", "t"));
        assert_eq!(closing[0], "ufw route delete allow in on bgr0");
        assert_eq!(closing[2], "ufw delete allow in on bgr0 to any port 53");
        assert_eq!(
            words(Firewall::Ufw(Backend::Nft).opening("bgr0", Some("t")))[0],
            "ufw route allow in on bgr0 comment t"
        );
    }
}
