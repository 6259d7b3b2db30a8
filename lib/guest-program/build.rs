//! Makes banger-guest available to the programs that embed it: builds it for a static target, or takes the file that
//! `BANGER_GUEST_PREBUILT` names (Nix builds it as a derivation of its own). Either way `BANGER_GUEST_BIN` is its path.

#![allow(clippy::disallowed_methods, reason = "a build script is a command line of its own")]

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

/// A ready-made banger-guest: a static executable for the target's architecture.
const PREBUILT: &str = "BANGER_GUEST_PREBUILT";

/// What banger-guest is made of: an ordinary rebuild must not build it again.
const INPUTS: [&str; 5] =
    ["build.rs", "../../Cargo.toml", "../../Cargo.lock", "../../bins/banger-guest", "../protocol"];

/// The profile in Cargo.toml.
const PROFILE: &str = "guest";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    for input in INPUTS {
        println!("cargo::rerun-if-changed={input}");
    }
    match guest() {
        Ok(path) => {
            println!("cargo::rustc-env=BANGER_GUEST_BIN={}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("cargo::error={error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The path of the executable to embed.
fn guest() -> Result<PathBuf> {
    if let Some(path) = env::var_os(PREBUILT).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        println!("cargo::rerun-if-changed={}", path.display());
        ensure!(path.is_file(), "{PREBUILT}={path:?} is not a file");
        return Ok(path);
    }
    let target = static_target()?;
    let target_dir = PathBuf::from(variable("OUT_DIR")?).join("guest");
    build(&target, &target_dir)?;
    Ok(target_dir.join(target).join(PROFILE).join("banger-guest"))
}

/// musl where its standard library is installed (a third of the size), else gnu, which links statically with nothing but
/// libc.a.
fn static_target() -> Result<String> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let printed =
        command(&variable("RUSTC")?).args(["--print", "sysroot"]).output().context("cannot run rustc")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&printed.stdout).trim());
    let candidates = ["musl", "gnu"].map(|libc| format!("{arch}-unknown-linux-{libc}"));
    let installed = |target: &&String| sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
    let [musl, gnu] = &candidates;
    candidates.iter().find(installed).cloned().with_context(|| {
        format!(
            "banger-guest needs Rust's standard library for {musl} or {gnu}, and {} has neither: rustup target add {musl}",
            sysroot.display(),
        )
    })
}

/// Runs cargo for banger-guest alone. The outer cargo has just brought Cargo.lock up to date, so `--locked` holds, and with it
/// a build without network.
fn build(target: &str, target_dir: &Path) -> Result<()> {
    let mut cargo = command(&variable("CARGO")?);
    for (key, _) in env::vars_os().filter(|(key, _)| is_foreign(key)) {
        cargo.env_remove(key);
    }
    cargo
        .args(["build", "--quiet", "--locked", "--package=banger-guest", "--profile", PROFILE])
        .args(["--manifest-path", &format!("{}/Cargo.toml", variable("CARGO_MANIFEST_DIR")?)])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(target_dir)
        // With a value here cargo ignores the flags of every configuration file, too.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    if cargo.status().context("cannot run cargo for banger-guest")?.success() {
        return Ok(());
    }
    bail!(
        "cannot build banger-guest for {target} (cargo's messages are above); it links statically: install libc.a \
         (Debian: libc6-dev, Fedora: glibc-static), or run: rustup target add {}",
        target.replace("gnu", "musl")
    )
}

/// Whether a variable is about the outer build: its flags, its profile, its directories, clippy standing in for rustc.
fn is_foreign(key: &OsStr) -> bool {
    let key = key.to_string_lossy();
    let prefixes = ["CARGO_BUILD_", "CARGO_TARGET_", "CARGO_PROFILE_", "CARGO_UNSTABLE_"];
    let names =
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "CLIPPY_CONF_DIR"];
    let linker = key.starts_with("CARGO_TARGET_") && key.ends_with("_LINKER");
    (prefixes.iter().any(|prefix| key.starts_with(prefix)) || names.contains(&&*key)) && !linker
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| name.to_owned())
}

fn command(program: &str) -> Command {
    Command::new(program)
}
