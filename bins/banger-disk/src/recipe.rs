//! Recipes: ready sets of packages with a script, for `image build --recipe`. [`RECIPES`] is the list of them; what it says is data, and
//! a new one is a new entry.

/// One recipe.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// How it is asked for.
    pub name: &'static str,
    /// What it makes of an image, for people.
    pub about: &'static str,
    /// What is installed. The names must hold in every distribution.
    pub packages: &'static [&'static str],
    /// What runs as root in the system when all packages are installed. It says why it failed in a line that begins with `E: `, and
    /// may leave lines for the image's notes in /tmp/banger-notes.
    pub script: &'static str,
    /// Whether the script takes mise from [`MISE_INSIDE`] where that is there.
    pub wants_mise: bool,
}

/// Where a script finds the mise that it was given: under another name it would take itself for one of its shims. [`MISE_NEEDED`] tells
/// what to do where it does not run.
pub const MISE_INSIDE: &str = "/tmp/banger-given/mise";
/// The variable that is `1` where somebody asked for that very mise.
pub const MISE_NEEDED: &str = "BANGER_MISE_NEEDED";

/// A machine to develop on.
static DEV: Recipe = Recipe {
    name: "dev",
    about: "Build tools (C and C++, pkg-config, Python 3), tmux, mise and small helpers",
    packages: &[
        "build-essential",
        "ca-certificates",
        "curl",
        "file",
        "git",
        "gpg",
        "jq",
        "less",
        "patch",
        "pkg-config",
        "python3",
        "python3-venv",
        "tmux",
        "unzip",
        "xz-utils",
        "zstd",
    ],
    script: include_str!("recipe/dev.sh"),
    wants_mise: true,
};

/// All of them.
pub static RECIPES: [&Recipe; 1] = [&DEV];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_mise_where_it_is_put() {
        for recipe in RECIPES.into_iter().filter(|recipe| recipe.wants_mise) {
            assert!(recipe.script.starts_with("#!/bin/sh\n"), "{}", recipe.name);
            assert!(
                recipe.script.contains(MISE_INSIDE) && recipe.script.contains(MISE_NEEDED),
                "{}",
                recipe.name
            );
        }
    }
}
