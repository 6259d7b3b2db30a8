//! DESIGN's direction of dependency: `types ← contract ← sys, state ← net, disk, vmm, workspace ← cli ← bins`, and what only
//! some layers may touch.

use crate::rust::{NamedPath, paths};

/// The modules of the library and what each may use besides itself. `state` stands on `sys`, never the reverse.
const LAYERS: [(&str, &[&str]); 9] = [
    ("types", &[]),
    ("contract", &["types"]),
    ("sys", &["types", "contract"]),
    ("state", &["types", "contract", "sys"]),
    ("net", &["types", "contract", "sys", "state"]),
    ("disk", &["types", "contract", "sys", "state"]),
    ("vmm", &["types", "contract", "sys", "state"]),
    ("workspace", &["types", "contract", "sys", "state"]),
    ("cli", &["types", "contract", "sys", "state", "net", "disk", "vmm", "workspace"]),
];

/// The functions of `std::env` that read or change what belongs to the caller; `current_exe`, `temp_dir` and `consts` do not.
const ENVIRONMENT: [&str; 8] =
    ["args", "args_os", "var", "var_os", "vars", "vars_os", "set_var", "remove_var"];

/// What `source`, the file `file` of the project, does that it must not: one line each.
pub fn violations(file: &str, source: &str) -> Vec<String> {
    let all = paths(source);
    let mut said = Vec::new();
    let mut say = |path: &NamedPath, what: String| said.push(format!("{file}:{}: {what}", path.line));
    let layer = layer_of(file);
    for path in &all {
        if let Some((own, may_use)) = layer
            && let Some(used) = used_module(file, path)
            && used != own
            && !may_use.contains(&used.as_str())
        {
            say(path, format!("`{own}` must not use `{used}` ({})", path.segments.join("::")));
        }
        if !is_edge(file)
            && let Some(what) = edge_only(path)
        {
            say(path, format!("{what} belongs to cli and bins/banger"));
        }
        if path.names("unsafe") && !is_sys(file) {
            say(path, "`unsafe` belongs to sys".to_owned());
        }
        if path.has("Command", "new") && !starts_programs(file) {
            say(path, "programs are started by sys/exec.rs".to_owned());
        }
    }
    said
}

/// The layer of a file of the library; `None` for lib.rs and for the programs.
fn layer_of(file: &str) -> Option<(&'static str, &'static [&'static str])> {
    let inside = file.strip_prefix("lib/src/")?;
    let module = inside.split(['/', '.']).next()?;
    LAYERS.into_iter().find(|(name, _)| *name == module)
}

/// The library's top module that `path` leads to.
fn used_module(file: &str, path: &NamedPath) -> Option<String> {
    let segments = &path.segments;
    match segments.first()?.as_str() {
        "crate" | "banger_lib" => segments.get(1).cloned(),
        "super" => {
            let ups = segments.iter().take_while(|s| *s == "super").count();
            let depth = module_depth(file) + path.inline_modules;
            // Above the top module stands the crate: what follows is a top module again.
            (ups >= depth).then(|| segments.get(ups).cloned()).flatten()
        }
        _ => None,
    }
}

/// How deep below the crate the module of `file` is: 1 for `lib/src/net/mod.rs`, 2 for `lib/src/net/attach.rs`.
fn module_depth(file: &str) -> usize {
    let inside = file.trim_start_matches("lib/src/");
    let inside = inside.strip_suffix("/mod.rs").or(inside.strip_suffix(".rs")).unwrap_or(inside);
    inside.split('/').count()
}

/// What of the caller's world `path` touches.
fn edge_only(path: &NamedPath) -> Option<String> {
    let pairs = [("io", "stdin"), ("io", "stdout"), ("process", "exit")];
    let environment = ENVIRONMENT.iter().map(|name| ("env", *name));
    let found = pairs.into_iter().chain(environment).find(|(module, name)| path.has(module, name));
    let exit_code = path.names("ExitCode").then(|| "`ExitCode`".to_owned());
    found.map(|(module, name)| format!("`{module}::{name}`")).or(exit_code)
}

/// Files that may touch stdin, stdout, exit codes and the environment: the programs themselves, that in the guest included.
fn is_edge(file: &str) -> bool {
    file.starts_with("lib/src/cli/") || file.starts_with("bins/")
}

fn is_sys(file: &str) -> bool {
    file.starts_with("lib/src/sys/") || file.starts_with("bins/banger-guest/src/sys")
}

/// In the guest there are sshd, which outlives every deadline, the user's command, and git.
fn starts_programs(file: &str) -> bool {
    matches!(
        file,
        "lib/src/sys/exec.rs"
            | "bins/banger-guest/src/sshd.rs"
            | "bins/banger-guest/src/command.rs"
            | "bins/banger-guest/src/login.rs"
            | "bins/banger-guest/src/serve.rs"
            | "bins/banger-guest/src/resync/git.rs"
    )
}

/// Which rule a snippet in `file` breaks.
#[cfg(test)]
fn caught(file: &str, source: &str) -> String {
    violations(file, source).join("\n")
}

#[test]
fn a_domain_that_uses_another_is_caught() {
    assert!(caught("lib/src/net/attach.rs", "use crate::disk::Image;").contains("`net` must not use `disk`"));
    assert!(caught("lib/src/net/attach.rs", "use crate::{contract::Coded, vmm};").contains("`vmm`"));
    assert!(
        caught("lib/src/net/attach.rs", "fn f() { super::super::workspace::g() }").contains("`workspace`")
    );
    assert!(caught("lib/src/net/mod.rs", "mod t { use super::super::disk; }").contains("`disk`"));
    assert!(caught("lib/src/net/mod.rs", "use super::cli::Failure;").contains("`cli`"));
    assert_eq!(caught("lib/src/net/mod.rs", "mod tests { use super::disk::x; }"), "", "that is net::disk");
    assert_eq!(caught("lib/src/net/attach.rs", "use super::disk; use crate::{state::dir, sys::exec};"), "");
}

#[test]
fn a_lower_layer_that_uses_a_higher_one_is_caught() {
    assert!(caught("lib/src/types/name.rs", "use crate::contract::Coded;").contains("`types`"));
    assert!(caught("lib/src/contract/record.rs", "type A = crate::sys::exec::Exec;").contains("`contract`"));
    assert!(caught("lib/src/sys/nft.rs", "use crate::state::dir::StateDir;").contains("`sys`"));
    assert!(caught("lib/src/state/dir.rs", "use crate::net;").contains("`state`"));
    assert!(caught("lib/src/vmm/qemu.rs", "use crate::cli::Failure;").contains("`vmm`"));
    assert_eq!(caught("lib/src/cli/netd.rs", "use crate::net; // use crate::bins"), "");
    assert_eq!(caught("lib/src/types/name.rs", "//! [`crate::cli`]\nconst A: &str = \"crate::cli\";"), "");
}

#[test]
fn the_callers_world_below_cli_is_caught() {
    assert!(
        caught("lib/src/net/a.rs", "use std::io::{self, Read}; fn f() { io::stdin(); }")
            .contains("`io::stdin`")
    );
    assert!(caught("lib/src/net/a.rs", "use std::{io::stdout, fs};").contains("`io::stdout`"));
    assert!(caught("lib/src/sys/a.rs", "fn f() { std::env::var_os(\"HOME\"); }").contains("`env::var_os`"));
    assert!(caught("lib/src/vmm/a.rs", "fn f() -> ExitCode {}").contains("`ExitCode`"));
    assert_eq!(caught("lib/src/cli/a.rs", "fn f() -> ExitCode { std::env::args(); }"), "");
    assert_eq!(caught("lib/src/net/a.rs", "const V: &str = env!(\"CARGO_PKG_VERSION\");"), "");
}

#[test]
fn unsafe_and_command_outside_sys_are_caught() {
    assert!(caught("lib/src/net/a.rs", "fn f() { unsafe { g() } }").contains("`unsafe`"));
    assert!(caught("bins/banger-guest/src/main.rs", "unsafe fn f() {}").contains("`unsafe`"));
    assert_eq!(caught("lib/src/sys/a.rs", "fn f() { unsafe { g() } }"), "");
    assert_eq!(caught("bins/banger-guest/src/sys/mount.rs", "unsafe fn f() {}"), "");
    assert!(caught("lib/src/sys/nft.rs", "fn f() { Command::new(\"nft\"); }").contains("sys/exec.rs"));
    assert!(
        caught("bins/banger/main.rs", "fn f() { std::process::Command::new(x); }").contains("sys/exec.rs")
    );
    assert!(caught("bins/banger-guest/src/main.rs", "fn f() { Command::new(x); }").contains("sys/exec.rs"));
    assert_eq!(caught("lib/src/sys/exec.rs", "fn f() { Command::new(x); }"), "");
}
