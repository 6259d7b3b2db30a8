//! Patches that git made, mutilated: whatever the scanner lets through, `git apply` writes only to the files that the scanner has
//! named, and never outside the checkout or into its git directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use banger_lib::workspace::patch::{MAX_PATCH_BYTES, Scanned, Scanner};

use crate::support;
use crate::support::changes::{self, Dice, File, random_tree, script, tree};

/// Mutilated patches per checkout.
const MUTANTS: usize = 60;

/// What a hostile guest would like to write to.
const WISHES: [&str; 14] = [
    "../outside",
    ".git/config",
    ".git/hooks/pre-commit",
    ".GIT/config",
    "a/../../outside",
    "/etc/banger-was-here",
    "link/x",
    "d/e/f/g",
    "git~1/config",
    "./a",
    "a//b",
    "a",
    "\"a\\056\\056/x\"",
    "\"\\056git/config\"",
];
/// Lines that git apply knows, and more.
const LINES: [&str; 18] = [
    "rename from a",
    "rename to .git/config",
    "copy from a",
    "copy to ../outside",
    "similarity index 100%",
    "deleted file mode 100644",
    "new file mode 120000",
    "new file mode 100644",
    "old mode 100644",
    "new mode 100755",
    "index 0000000..1111111 120000",
    "--- a/../outside",
    "+++ b/../outside",
    "--- /dev/null",
    "@@ -0,0 +1 @@",
    "+x",
    "GIT binary patch",
    "diff --git a/../outside b/../outside",
];

/// A checkout in a directory with other things beside it, and a patch that git made of changes to it.
struct World {
    temp: tempfile::TempDir,
    patch: Vec<u8>,
}

fn sh(dir: &Path, text: &str) {
    support::run(support::command("sh").args(["-c", text]).current_dir(dir), b"");
}

impl World {
    fn new(dice: &mut Dice) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let repo = temp.path().join("repo");
        fs::create_dir(&repo).unwrap();
        fs::write(temp.path().join("outside"), "not yours\n").unwrap();
        random_tree(&repo, dice);
        sh(
            &repo,
            "git init -q --template= && git config user.name A && git config user.email a@b && git add -Af && git commit -qm 1",
        );
        sh(temp.path(), "cp -a repo pristine");
        sh(&repo, &script(dice));
        sh(&repo, &script(dice));
        let mut git = support::command("git");
        git.arg("-C").arg(&repo).args(["-c", "core.quotePath=true", "diff", "--cached", "-p", "--binary"]);
        git.args(["--full-index", "-M", "--no-color", "--no-ext-diff"]);
        sh(&repo, "git add -A; git rev-list --max-parents=0 HEAD >../base");
        let base = fs::read_to_string(temp.path().join("base")).unwrap();
        let made = support::run(git.arg(base.trim()), b"");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { temp, patch: made.stdout }
    }

    fn everything(&self) -> BTreeSet<File> {
        tree(self.temp.path()).into_iter().filter(|(path, ..)| path != Path::new("mutant")).collect()
    }

    /// Applies `patch` to a fresh checkout; gives the paths in it that are others then.
    fn apply(&self, patch: &[u8]) -> BTreeSet<PathBuf> {
        let repo = self.temp.path().join("repo");
        fs::remove_dir_all(&repo).unwrap();
        sh(self.temp.path(), "cp -a pristine repo");
        fs::write(self.temp.path().join("mutant"), patch).unwrap();
        let git_dir = || tree(&repo.join(".git"));
        let (before, of_git) = (self.everything(), git_dir());
        let mut apply = support::command("git");
        let output = support::run(apply.arg("-C").arg(&repo).args(["apply", "../mutant"]), b"");
        let shown = || String::from_utf8_lossy(patch).into_owned();
        assert_eq!(git_dir(), of_git, "git's own files changed: {:?}\n{}", output, shown());
        let after = self.everything();
        let changed = after.symmetric_difference(&before).map(|(path, ..)| path.clone());
        let inside = |path: PathBuf| match path.strip_prefix("repo") {
            Ok(inside) => inside.to_owned(),
            Err(_) => panic!("{path:?} is outside of the checkout and changed\n{}", shown()),
        };
        changed.map(inside).collect()
    }
}

fn scan(patch: &[u8]) -> Option<Scanned> {
    let mut scanner = Scanner::new(MAX_PATCH_BYTES);
    patch.chunks(1000).try_for_each(|piece| scanner.feed(piece)).ok()?;
    scanner.finish().ok()
}

/// Spoils one thing in a patch.
fn mutilate(patch: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = patch.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let headers: Vec<usize> = (0..lines.len())
        .filter(|at| {
            let words =
                ["diff ", "rename ", "--- ", "+++ ", "index ", "new ", "old ", "deleted ", "similarity "];
            words.iter().any(|word| lines[*at].starts_with(word.as_bytes()))
        })
        .collect();
    // Mostly where it matters: in a header.
    let at = if dice.roll(5) > 0 && !headers.is_empty() {
        headers[dice.roll(headers.len())]
    } else {
        dice.roll(lines.len())
    };
    let other = dice.roll(lines.len());
    let wish = WISHES[dice.roll(WISHES.len())];
    match dice.roll(9) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[other].clone()),
        2 => lines.swap(at, other),
        3 | 4 => lines.insert(at + 1, LINES[dice.roll(LINES.len())].as_bytes().to_vec()),
        5 => {
            // All of a file's names become another one.
            let name = String::from_utf8_lossy(&lines[at]).into_owned();
            if let Some((_, name)) = name.rsplit_once(" b/") {
                let whole = String::from_utf8_lossy(patch).replace(&format!("/{name}"), &format!("/{wish}"));
                return whole.replace(&format!(" {name}\n"), &format!(" {wish}\n")).into_bytes();
            }
        }
        6 => {
            let line = String::from_utf8_lossy(&lines[at]).into_owned();
            if let Some((before, _)) = line.rsplit_once([' ', '/']) {
                lines[at] = format!("{before}/{wish}").into_bytes();
            }
        }
        7 => lines.truncate(at),
        _ => {
            if let Some(byte) = lines[at].first_mut() {
                *byte = b" +-\\@d\"x"[dice.roll(8)];
            }
        }
    }
    lines.join(&b'\n')
}

#[test]
fn what_the_scanner_lets_through_git_writes_nowhere_else() {
    if !support::require("contract", support::has("git"), "git is not installed") {
        return;
    }
    let (mut accepted, mut refused) = (0, 0);
    for seed in changes::seeds(1..5) {
        let mut dice = Dice::of(seed);
        let world = World::new(&mut dice);
        let Some(whole) = scan(&world.patch) else {
            panic!("BANGER_TEST_SEED={seed}: {}", String::from_utf8_lossy(&world.patch));
        };
        let named = |scanned: &Scanned| -> BTreeSet<PathBuf> {
            let paths = scanned.entries.iter().flat_map(|e| e.paths());
            paths.map(|p| PathBuf::from(String::from_utf8_lossy(p).into_owned())).collect()
        };
        let lossy = |paths: BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
            paths.iter().map(|p| PathBuf::from(p.to_string_lossy().into_owned())).collect()
        };
        assert_eq!(lossy(world.apply(&world.patch)), named(&whole), "BANGER_TEST_SEED={seed}");
        for _ in 0..MUTANTS {
            let mutant = mutilate(&world.patch, &mut dice);
            let Some(scanned) = scan(&mutant) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            let (changed, named) = (lossy(world.apply(&mutant)), named(&scanned));
            assert!(
                changed.is_subset(&named),
                "BANGER_TEST_SEED={seed}: {changed:?} and not only {named:?} changed\n{}",
                String::from_utf8_lossy(&mutant)
            );
        }
    }
    // One seed alone, as in a soak, may have few of the one kind.
    let alone = std::env::var_os("BANGER_TEST_SEED").is_some();
    assert!(alone || accepted > 20 && refused > 50, "{accepted} accepted, {refused} refused: not a test");
}

/// Checkouts of the test below.
const CHECKOUTS: std::ops::Range<u64> = 20..40;

#[test]
fn any_patch_that_git_makes_is_applied_as_git_applies_it() {
    if !support::require("contract", support::has("git"), "git is not installed") {
        return;
    }
    for seed in changes::seeds(CHECKOUTS) {
        let world = World::new(&mut Dice::of(seed));
        let repo = world.temp.path().join("repo");
        world.apply(&world.patch);
        let wanted = tree(&repo);
        fs::remove_dir_all(&repo).unwrap();
        sh(world.temp.path(), "cp -a pristine repo");
        let git_dir = tree(&repo.join(".git"));
        let mut apply = support::command(env!("CARGO_BIN_EXE_banger-ws"));
        apply.args(["apply", "--patch", "mutant", "--to", "repo"]).current_dir(world.temp.path());
        let output = support::run(&mut apply, br#"{"schema":"banger.vm/1"}"#);
        let story = format!("BANGER_TEST_SEED={seed}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{story}");
        changes::assert_same(&tree(&repo), &wanted, &story);
        assert_eq!(tree(&repo.join(".git")), git_dir, "{story}");
    }
}
