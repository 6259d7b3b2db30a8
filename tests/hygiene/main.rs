//! Tier `hygiene`: which crates use which, and the state of the tree. Each rule has a test that feeds it what it must catch.

#![allow(clippy::disallowed_methods, reason = "what is for the programs is not for tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use banger_test_support as support;

mod crates;
mod licences;
mod tree;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the project: those that git tracks or would, else (a source archive) all that are not built.
fn files() -> Vec<PathBuf> {
    let list = support::command("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let listed = match list {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8(output.stdout).expect("file names are UTF-8");
            text.split_terminator('\0').map(PathBuf::from).collect()
        }
        _ => walk(Path::new("")),
    };
    let present: Vec<PathBuf> = listed.into_iter().filter(|f| root().join(f).is_file()).collect();
    assert!(present.len() > 40, "the project's files are not to be found: {present:?}");
    present
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(dir)).expect("the project can be read");
    let visit = |entry: std::fs::DirEntry| {
        let path = dir.join(entry.file_name());
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        match path.to_str() {
            Some("target" | ".git") => Vec::new(),
            _ if is_dir => walk(&path),
            _ => vec![path],
        }
    };
    entries.flatten().flat_map(visit).collect()
}

/// The text files with their content.
fn texts() -> Vec<(String, String)> {
    let read = |file: PathBuf| {
        let bytes = std::fs::read(root().join(&file)).expect("a project file can be read");
        Some((file.to_str().expect("file names are UTF-8").to_owned(), String::from_utf8(bytes).ok()?))
    };
    files().into_iter().filter_map(read).collect()
}

/// What cargo knows of the packages that are built on Linux.
fn metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = support::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn crates_keep_to_their_layers() {
    let metadata = metadata();
    assert_none(&crates::unknown(&metadata));
    assert_none(&crates::violations(&crates::Graph::of(&metadata)));
}

/// Where clippy allows the caller's world (clippy.toml) it would allow this, too.
#[test]
fn programs_are_started_in_one_place() {
    const PLACES: [&str; 7] = [
        "lib/host/src/process/exec.rs",
        "lib/guest-program/build.rs",
        "bins/banger-guest/src/sshd.rs",
        "bins/banger-guest/src/command.rs",
        "bins/banger-guest/src/login.rs",
        "bins/banger-guest/src/serve.rs",
        "bins/banger-guest/src/resync/git.rs",
    ];
    let starts = |(file, text): &(String, String)| {
        let source = file.ends_with(".rs") && (file.starts_with("lib/") || file.starts_with("bins/"));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        (source && code.contains("Command::new(") && !PLACES.contains(&file.as_str()))
            .then(|| format!("{file} starts a program; banger_host::process::exec does"))
    };
    assert_none(&texts().iter().filter_map(starts).collect::<Vec<_>>());
}

/// A file that no `mod` names is never compiled: its tests pass without being there.
#[test]
fn every_source_file_is_part_of_a_program() {
    let all = texts();
    let source = |file: &str| all.iter().find(|(other, _)| other == file).map(|(_, text)| text.as_str());
    let orphan = |(file, _): &(String, String)| {
        let stem = file.strip_suffix(".rs")?;
        let (directory, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        if matches!(name, "main" | "lib" | "build") {
            return None;
        }
        let (directory, name) = if name == "mod" { directory.rsplit_once('/')? } else { (directory, name) };
        let parents = ["lib.rs", "main.rs", "mod.rs"].map(|root| format!("{directory}/{root}"));
        let named = [format!("mod {name};"), format!("\"{name}.rs\"]")];
        let mut parents = parents.into_iter().chain([format!("{directory}.rs")]);
        let tells =
            |parent: String| source(&parent).is_some_and(|text| named.iter().any(|n| text.contains(n)));
        let sibling = || {
            let here = |other: &str| other.starts_with(directory) && other.contains(".rs");
            all.iter().any(|(other, text)| here(other) && text.contains(&format!("\"{name}.rs\"]")))
        };
        (!parents.any(tells) && !sibling()).then(|| format!("{file} is part of no program"))
    };
    assert_none(&all.iter().filter_map(orphan).collect::<Vec<_>>());
}

#[test]
fn the_tree_is_tidy() {
    let violations: Vec<String> =
        texts().iter().flat_map(|(file, text)| tree::violations(file, text, root())).collect();
    assert_none(&violations);
}

#[test]
fn the_top_level_is_the_designs() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "flake.nix",
        "flake.lock",
        "bins",
        "lib",
        "tests",
        "man",
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "clippy.toml",
        "rustfmt.toml",
        "deny.toml",
    ];
    let stray = |file: &PathBuf| {
        let top = file.iter().next()?.to_str()?;
        (!known.contains(&top) && !top.starts_with('.'))
            .then(|| format!("{top} has no place at the top level"))
    };
    assert_none(&files().iter().filter_map(stray).collect::<Vec<_>>());
}

#[test]
fn licences_are_allowed() {
    let deny = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there");
    let allowed = licences::allowed(&deny);
    assert!(allowed.len() > 2, "deny.toml's list is not to be read: {allowed:?}");
    assert_none(&licences::violations(&metadata(), &allowed));
}

#[test]
fn packages_come_from_the_registry_or_from_here() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let strange = |package: &Value| {
        let source = package["source"].as_str().unwrap_or("path");
        let known = source == "path" || source == "registry+https://github.com/rust-lang/crates.io-index";
        (!known).then(|| format!("{} comes from {source}", package["name"]))
    };
    assert_none(&packages.iter().filter_map(strange).collect::<Vec<_>>());
}

/// The host programs: the `[[bin]]`s of the root package.
fn programs() -> Vec<String> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let banger = packages.iter().find(|p| p["name"] == "banger").expect("banger is a package");
    let targets = banger["targets"].as_array().expect("a package has targets");
    let bins = targets.iter().filter(|t| t["kind"][0] == "bin");
    bins.filter_map(|t| t["name"].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_program_has_a_man_page() {
    let programs = programs();
    assert!(programs.len() >= 6, "{programs:?}");
    let missing = |program: &String| {
        let page = format!("man/{program}.1");
        (!root().join(&page).is_file()).then(|| format!("{page} is missing"))
    };
    assert_none(&programs.iter().filter_map(missing).collect::<Vec<_>>());
}

#[test]
fn scripts_are_executable() {
    let dull = |file: &PathBuf| {
        let path = root().join(file);
        let script = tree::is_script(&std::fs::read(&path).ok()?);
        let executable = path.metadata().ok()?.permissions().mode() & 0o111 != 0;
        (script && !executable).then(|| format!("{} begins with #! and is not executable", file.display()))
    };
    let scripts: Vec<PathBuf> =
        files().into_iter().filter(|f| f.extension() != Some("rs".as_ref())).collect();
    assert_none(&scripts.iter().filter_map(dull).collect::<Vec<_>>());
}
