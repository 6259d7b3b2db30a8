//! Tier `docs`: man pages, schemas and the README against the code.
//!
//! With `BANGER_UPDATE=1` in the environment the generated parts are rewritten instead of compared.

#![allow(clippy::disallowed_methods, reason = "what is for the programs is not for tests")]

use std::path::{Path, PathBuf};

use banger_test_support as support;

mod contract;
mod pages;
mod readme;

/// Every host program, with where it is.
const PROGRAMS: [(&str, &str); 6] = [
    ("banger", env!("CARGO_BIN_EXE_banger")),
    ("banger-netd", env!("CARGO_BIN_EXE_banger-netd")),
    ("banger-disk", env!("CARGO_BIN_EXE_banger-disk")),
    ("banger-fc", env!("CARGO_BIN_EXE_banger-fc")),
    ("banger-qemu", env!("CARGO_BIN_EXE_banger-qemu")),
    ("banger-ws", env!("CARGO_BIN_EXE_banger-ws")),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Asserts that the file holds `wanted`, or makes it so where the run is to update.
fn assert_file(path: &Path, wanted: &str) {
    let update = std::env::var_os("BANGER_UPDATE").is_some();
    let current = std::fs::read_to_string(path).unwrap_or_default();
    if current == wanted {
        return;
    }
    assert!(
        update,
        "{} differs from what the code generates; see BANGER_UPDATE=1 cargo nextest run --test docs\n{}",
        path.display(),
        first_difference(&current, wanted)
    );
    std::fs::write(path, wanted).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// The first line in which the two differ.
fn first_difference(current: &str, wanted: &str) -> String {
    let (mut left, mut right) = (current.lines(), wanted.lines());
    for line in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => {
                return format!(
                    "line {line}:\n  there:  {}\n  wanted: {}",
                    a.unwrap_or("-"),
                    b.unwrap_or("-")
                );
            }
        }
    }
    "only the ends of lines differ".to_owned()
}

/// `page` with the lines between `.\" BEGIN GENERATED name` and its END replaced; `None` without these lines.
fn with_block(page: &str, name: &str, block: &str) -> Option<String> {
    let (begin, end) = (format!(".\\\" BEGIN GENERATED {name}\n"), format!(".\\\" END GENERATED {name}\n"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{block}{end}{after}"))
}

#[test]
fn a_block_is_replaced_and_drift_is_told() {
    let page = "a\n.\\\" BEGIN GENERATED X\nold\n.\\\" END GENERATED X\nb\n";
    let new = with_block(page, "X", "new\n").unwrap();
    assert_eq!(new, "a\n.\\\" BEGIN GENERATED X\nnew\n.\\\" END GENERATED X\nb\n");
    assert_eq!(with_block(page, "Y", ""), None);
    assert!(first_difference(page, &new).contains("line 3:\n  there:  old\n  wanted: new"));
}
