//! The crates of the workspace: which may use which, and what the program that runs as root is linked with. What a module may touch of the
//! host is the compiler's and clippy's business (`unsafe_code` in Cargo.toml, clippy.toml).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The crates by layer, lowest first. A crate uses those of lower layers and never its neighbours: stages meet in the record.
const LAYERS: [&[&str]; 7] = [
    &["banger-protocol"],
    &["banger-contract", "banger-guest", "banger-guest-program"],
    &["banger-host"],
    &["banger-formats", "banger-state", "banger-cli"],
    &["banger-vmm"],
    &["banger-netd", "banger-disk", "banger-fc", "banger-qemu", "banger-ws"],
    &["banger-dispatcher"],
];

/// What banger-netd, which runs as root on behalf of others, is not to be made of: databases, archives, TLS, HTTP, SSH.
const FORBIDDEN: [&str; 14] = [
    "bzip2",
    "flate2",
    "liblzma",
    "libssh2-sys",
    "openssl-sys",
    "rusqlite",
    "rustls",
    "ssh-key",
    "ssh2",
    "tar",
    "ureq",
    "x509-cert",
    "zstd",
    "banger-state",
];

/// Which packages each package is made of, by name; tests and build scripts have no part in it.
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// The graph in `metadata` (`cargo metadata`).
    pub fn of(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
        let names: BTreeMap<String, String> =
            list(&metadata["packages"]).iter().map(|p| (p["id"].to_string(), name(p))).collect();
        let is_linked = |dep: &&Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let uses = graph.entry(names[&node["id"].to_string()].clone()).or_default();
            uses.extend(
                list(&node["deps"])
                    .iter()
                    .filter(is_linked)
                    .map(|dep| names[&dep["pkg"].to_string()].clone()),
            );
        }
        Self(graph)
    }

    fn uses(&self, package: &str) -> impl Iterator<Item = &String> {
        self.0.get(package).into_iter().flatten()
    }

    /// Everything that `package` is made of.
    fn all<'a>(&'a self, package: &'a str) -> BTreeSet<&'a str> {
        let (mut all, mut left) = (BTreeSet::new(), vec![package]);
        while let Some(next) = left.pop() {
            left.extend(self.uses(next).map(String::as_str).filter(|used| all.insert(*used)));
        }
        all
    }
}

fn layer(package: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&package))
}

/// Which crates use what they must not: one line each.
pub fn violations(graph: &Graph) -> Vec<String> {
    let ours = LAYERS.iter().flat_map(|layer| layer.iter());
    let upward = ours.flat_map(|package| {
        let above = |used: &&String| layer(used) >= layer(package) && layer(used).is_some();
        graph.uses(package).filter(above).map(move |used| format!("{package} must not use {used}"))
    });
    let netd = graph.all("banger-netd");
    let forbidden = FORBIDDEN.iter().filter(|name| netd.contains(**name));
    upward
        .chain(forbidden.map(|name| format!("banger-netd, which runs as root, must do without {name}")))
        .collect()
}

/// Packages of the workspace that stand in no layer.
pub fn unknown(metadata: &Value) -> Vec<String> {
    let members = metadata["workspace_members"].as_array().expect("cargo metadata lists members");
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let ours = packages.iter().filter(|package| members.contains(&package["id"]));
    let names = ours.filter_map(|package| package["name"].as_str());
    names
        .filter(|name| layer(name).is_none() && !matches!(*name, "banger" | "banger-test-support"))
        .map(|name| format!("{name} stands in no layer"))
        .collect()
}

#[test]
fn what_a_crate_must_not_use_is_caught() {
    let graph = |pairs: &[(&str, &str)]| {
        let mut graph = Graph(BTreeMap::new());
        for (package, used) in pairs {
            graph.0.entry((*package).to_owned()).or_default().insert((*used).to_owned());
        }
        violations(&graph)
    };
    assert_eq!(graph(&[("banger-netd", "banger-disk")]), ["banger-netd must not use banger-disk"]);
    assert_eq!(graph(&[("banger-contract", "banger-host")]), ["banger-contract must not use banger-host"]);
    assert_eq!(graph(&[("banger-ws", "banger-state"), ("banger-dispatcher", "banger-ws")]), [""; 0]);
    let deep = graph(&[("banger-netd", "a"), ("a", "b"), ("b", "rusqlite")]);
    assert_eq!(deep, ["banger-netd, which runs as root, must do without rusqlite"]);
}
