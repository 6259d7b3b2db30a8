//! Everything that `banger-netd` could change or leave behind: links, rules, and the settings of the network namespace.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::{ip, sh};

/// A host's network at one moment, as lines under the name of what they tell about.
#[derive(PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

/// Links with all their properties, addresses, routes and the ruleset. As text, since nft's JSON has handles, which tell how often
/// a chain was rewritten and not what it holds.
pub fn snapshot() -> Snapshot {
    let mut lines = BTreeMap::new();
    let mut links: Value = serde_json::from_slice(&ip(&["-d", "-j", "address"])).expect("ip prints JSON");
    drop_states(&mut links);
    for link in links.as_array().expect("a list") {
        lines.insert(format!("link {}", link["ifname"]), format!("{link:#}"));
    }
    let rules = sh("nft list ruleset");
    assert!(rules.status.success());
    lines.insert("rules".to_owned(), text(rules.stdout));
    let routes = text(ip(&["-4", "route", "show", "table", "all"]));
    lines.insert("routes".to_owned(), routes.replace(" linkdown", ""));
    Snapshot(lines)
}

/// [`snapshot`], and every setting in /proc/sys/net, which takes longer.
pub fn snapshot_with_settings() -> Snapshot {
    let mut all = snapshot();
    read_settings(Path::new("/proc/sys/net"), &mut all.0);
    assert!(all.0.len() > 300, "only {} settings", all.0.len());
    all
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Leaves out what changes by itself: timers run, a link gets and loses its carrier with the program at its other end, and the
/// kernel then gives it an IPv6 address.
fn drop_states(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                !(key.ends_with("_timer") || key.ends_with("_life_time") || key.contains("state"))
            });
            map.values_mut().for_each(drop_states);
        }
        Value::Array(list) => {
            list.retain(|item| *item != "NO-CARRIER" && *item != "LOWER_UP" && item["family"] != "inet6");
            list.iter_mut().for_each(drop_states);
        }
        _ => {}
    }
}

fn read_settings(dir: &Path, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).expect("/proc/sys/net can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_settings(&path, into);
        // Not a setting but a count that the kernel keeps; some others can only be written.
        } else if !path.ends_with("nf_conntrack_count")
            && let Ok(bytes) = std::fs::read(&path)
        {
            into.insert(path.to_string_lossy().into_owned(), text(bytes));
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .filter(|(key, _)| !key.starts_with('/'))
            .try_for_each(|(key, text)| writeln!(f, "{key}: {text}"))
    }
}

impl Snapshot {
    /// What differs from `other`, for people.
    fn differences(&self, other: &Self) -> String {
        let mut out = String::new();
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for key in keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)) {
            let shown = |side: &Self| side.0.get(key).cloned().unwrap_or_else(|| "(absent)".into());
            writeln!(out, "{key}: was {}\n  is {}", shown(self), shown(other)).expect("to a string");
        }
        out
    }

    /// Asserts that nothing has changed since this was taken by [`snapshot`].
    #[track_caller]
    pub fn assert_still(&self, when: &str) {
        let now =
            if self.0.keys().any(|key| key.starts_with('/')) { snapshot_with_settings() } else { snapshot() };
        assert!(*self == now, "{when}: {}", self.differences(&now));
    }

    /// Whether there is a link of that name.
    pub fn has_link(&self, name: &str) -> bool {
        self.0.contains_key(&format!("link \"{name}\""))
    }

    /// The settings whose values differ from `other`'s, and the new values.
    pub fn changed_settings(&self, other: &Self) -> Vec<(String, String)> {
        let settings = other.0.iter().filter(|(key, _)| key.starts_with('/'));
        settings
            .filter(|(key, value)| self.0.get(*key).is_some_and(|old| old != *value))
            .map(|(key, value)| (key.clone(), value.trim().to_owned()))
            .collect()
    }

    /// The part that speaks of the state directory `state`.
    pub fn of_state(&self, state: &str) -> Self {
        let about = |key: &str, value: &str| {
            key.starts_with("link ") && (key.contains(state) || value.contains(&format!("banger:{state}:")))
        };
        let links = self.0.iter().filter(|(key, value)| about(key, value));
        let mut lines: BTreeMap<_, _> = links.map(|(k, v)| (k.clone(), v.clone())).collect();
        for family in ["inet", "bridge"] {
            let table = sh(&format!("nft list table {family} banger_{state}"));
            lines.insert(format!("{family} table"), text(table.stdout));
        }
        Self(lines)
    }

    /// Whether what [`Snapshot::of_state`] gave still holds.
    pub fn state_is_still(&self, state: &str) -> bool {
        *self == snapshot().of_state(state)
    }

    /// [`Snapshot::assert_still`] for what [`Snapshot::of_state`] gave.
    #[track_caller]
    pub fn assert_state_still(&self, state: &str, when: &str) {
        let now = snapshot().of_state(state);
        assert!(*self == now, "{when}: {}", self.differences(&now));
    }
}
