//! Patches that git made, mutilated: whatever the scanner lets through, `git apply` reads as the scanner does, and writes only to the
//! files that the scanner has named, never outside the checkout or into its git directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use banger_ws::patch::{Entry, MAX_PATCH_BYTES, Scanned, Scanner, Status};

use crate::support;
use crate::support::changes::{self, Dice, File, random_tree, script, tree};

/// Mutilated patches per checkout.
const MUTANTS: usize = 250;

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
/// What git apply may take for the end of a name, or of a line, or for nothing.
const ODD: [&[u8]; 18] = [
    b"\r",
    b"\rx",
    b"\t",
    b"\tx",
    b" ",
    b" x",
    b"\x0b",
    b"\x0c",
    b"\0",
    b"\x01",
    b"\x7f",
    b"\"",
    b"\\",
    b"\\r",
    b"/",
    b"//",
    b"\xff",
    b"\t2020-02-02 20:20:20.000000000 +0100",
];
/// Lines that git apply knows, and more.
const LINES: [&str; 26] = [
    "rename from a",
    "rename to .git/config",
    "rename old a",
    "copy from a",
    "copy to ../outside",
    "similarity index 100%",
    "dissimilarity index 90%",
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
    "@@ -1 +1 @@",
    "+x",
    "GIT binary patch",
    "literal 0\nHcmV?d00001\n",
    "Binary files a/a and b/a differ",
    "\\ No newline at end of file",
    "-- \n2.39.5\n",
    "diff --git a/../outside b/../outside",
    "--- a/a\n+++ b/a\n@@ -0,0 +1 @@\n+x",
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

    fn git_apply(&self, options: &[&str]) -> Output {
        let mut git = support::command("git");
        git.arg("-C").arg(self.temp.path().join("repo")).arg("apply");
        support::run(git.args(options).arg("../mutant"), b"")
    }

    /// Applies `patch` to a fresh checkout; gives the paths in it that are others then, and what git says.
    fn apply(&self, patch: &[u8]) -> (BTreeSet<Vec<u8>>, Output) {
        let repo = self.temp.path().join("repo");
        fs::remove_dir_all(&repo).unwrap();
        sh(self.temp.path(), "cp -a pristine repo");
        fs::write(self.temp.path().join("mutant"), patch).unwrap();
        let git_dir = || tree(&repo.join(".git"));
        let (before, of_git) = (self.everything(), git_dir());
        let output = self.git_apply(&[]);
        let shown = || String::from_utf8_lossy(patch).into_owned();
        assert_eq!(git_dir(), of_git, "git's own files changed: {:?}\n{}", output, shown());
        let after = self.everything();
        let changed = after.symmetric_difference(&before).map(|(path, ..)| path.clone());
        let inside = |path: PathBuf| match path.strip_prefix("repo") {
            Ok(inside) => inside.as_os_str().as_bytes().to_vec(),
            Err(_) => panic!("{path:?} is outside of the checkout and changed\n{}", shown()),
        };
        (changed.map(inside).collect(), output)
    }
}

fn scan(patch: &[u8]) -> Option<Scanned> {
    let mut scanner = Scanner::new(MAX_PATCH_BYTES);
    patch.chunks(1000).try_for_each(|piece| scanner.feed(piece)).ok()?;
    scanner.finish().ok()
}

/// The paths that a patch touches, as the scanner read them.
fn named(scanned: &Scanned) -> BTreeSet<Vec<u8>> {
    scanned.entries.iter().flat_map(Entry::paths).cloned().collect()
}

/// What `git apply --numstat --summary -z` prints of such a patch; the degree of likeness of renames left out.
fn told(scanned: &Scanned) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in &scanned.entries {
        match entry.binary {
            true => out.extend(b"-\t-\t"),
            false => out.extend(format!("{}\t{}\t", entry.additions, entry.deletions).bytes()),
        }
        out.extend([entry.path.as_slice(), b"\0"].concat());
    }
    let mode = |mode: Option<u32>| format!("{:06o}", mode.unwrap_or_default()).into_bytes();
    for entry in &scanned.entries {
        let (old, new, path) = (mode(entry.old_mode), mode(entry.new_mode), entry.path.as_slice());
        let changes = entry.old_mode.is_some() && old != new;
        match (entry.status, &entry.from) {
            (Status::Added, _) => out.extend([b" create mode ", &*new, b" ", path, b"\n"].concat()),
            (Status::Deleted, _) => out.extend([b" delete mode ", &*old, b" ", path, b"\n"].concat()),
            (Status::Renamed, Some(from)) => {
                let (shared, from, to) = apart(from, path);
                let pair = [from, b" => ", to].concat();
                match shared {
                    b"" => out.extend([b" rename ", &*pair, b"\n"].concat()),
                    _ => out.extend([b" rename ", shared, b"{", &*pair, b"}\n"].concat()),
                }
                if changes {
                    out.extend([b" mode change ", &*old, b" => ", &*new, b"\n"].concat());
                }
            }
            _ if changes => out.extend([b" mode change ", &*old, b" => ", &*new, b" ", path, b"\n"].concat()),
            _ => {}
        }
    }
    out
}

/// The directories that two paths share, and the rest of either.
fn apart<'p>(from: &'p [u8], to: &'p [u8]) -> (&'p [u8], &'p [u8], &'p [u8]) {
    let mut at = 0;
    while let Some(slash) = from[at..].iter().position(|b| *b == b'/') {
        if !to[at..].starts_with(&from[at..=at + slash]) {
            break;
        }
        at += slash + 1;
    }
    (&from[..at], &from[at..], &to[at..])
}

/// `text` without the degrees of likeness: ` (87%)` at the end of lines.
fn without_degrees(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|b| *b == b'\n').map(|line| {
        let degree = line.strip_suffix(b"%)\n").and_then(|line| {
            let digits = line.iter().rev().take_while(|b| b.is_ascii_digit()).count();
            line[..line.len() - digits].strip_suffix(b" (")
        });
        degree.map_or(line.to_vec(), |line| [line, b"\n"].concat())
    });
    lines.collect::<Vec<_>>().concat()
}

/// The lines of a patch, and which of them are of headers.
struct Lines {
    all: Vec<Vec<u8>>,
    headers: Vec<usize>,
}

impl Lines {
    fn of(patch: &[u8]) -> Self {
        let all: Vec<Vec<u8>> = patch.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let words = [
            "diff ",
            "rename ",
            "--- ",
            "+++ ",
            "index ",
            "new ",
            "old ",
            "deleted ",
            "similarity ",
            "@@ ",
            "GIT ",
            "literal ",
        ];
        let is_header = |line: &Vec<u8>| words.iter().any(|word| line.starts_with(word.as_bytes()));
        let headers = (0..all.len()).filter(|at| is_header(&all[*at])).collect();
        Self { all, headers }
    }

    /// Mostly where it matters: in a header.
    fn any(&self, dice: &mut Dice) -> usize {
        if dice.roll(5) > 0 && !self.headers.is_empty() {
            self.headers[dice.roll(self.headers.len())]
        } else {
            dice.roll(self.all.len())
        }
    }
}

/// `text` with `new` in the place of each `old`.
fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.windows(old.len()).position(|w| w == old) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The patch with another spelling in all places where it names one of its files, as one who knows the reader would do it.
fn rename_everywhere(patch: &[u8], lines: &Lines, dice: &mut Dice) -> Option<Vec<u8>> {
    let heads: Vec<&Vec<u8>> = lines.all.iter().filter(|line| line.starts_with(b"diff --git ")).collect();
    let head = heads.get(dice.roll(heads.len().max(1)))?;
    let at = head.windows(2).rposition(|w| w == b"b/")? + 2;
    let name = head[at..].strip_suffix(b"\"").unwrap_or(&head[at..]).to_vec();
    let odd = ODD[dice.roll(ODD.len())];
    let spelling = match dice.roll(6) {
        0 => [&name, odd, b"x"].concat(),
        1 => [b"x", odd, &name].concat(),
        2 => WISHES[dice.roll(WISHES.len())].as_bytes().to_vec(),
        3 => name.iter().flat_map(|byte| format!("\\{byte:03o}").into_bytes()).collect(),
        _ => [&name, odd].concat(),
    };
    let quote = |prefix: &[u8], name: &[u8]| [b"\"", prefix, name, b"\""].concat();
    let quoted = dice.roll(3) == 0;
    let mut out = patch.to_vec();
    for prefix in [&b" a/"[..], b" b/", b" from ", b" to "] {
        let spelled = match (quoted, prefix.ends_with(b"/")) {
            (true, true) => [b" ", &*quote(&prefix[1..], &spelling)].concat(),
            (true, false) => [prefix, &*quote(b"", &spelling)].concat(),
            (false, _) => [prefix, &*spelling].concat(),
        };
        for end in [&b"\n"[..], b" b/", b"\t\n"] {
            out = replaced(&out, &[prefix, &*name, end].concat(), &[&*spelled, end].concat());
        }
    }
    Some(out)
}

/// Some of the patch's files left out, said twice, or in another order.
fn files_moved(patch: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mark = b"diff --git ";
    let begins = patch
        .windows(mark.len())
        .enumerate()
        .filter(|(at, text)| *text == mark && (*at == 0 || patch[at - 1] == b'\n'));
    let mut begins: Vec<usize> = begins.map(|(at, _)| at).collect();
    begins.push(patch.len());
    let mut files: Vec<&[u8]> = begins.windows(2).map(|pair| &patch[pair[0]..pair[1]]).collect();
    for _ in 0..=dice.roll(3) {
        if files.is_empty() {
            break;
        }
        let (at, other) = (dice.roll(files.len()), dice.roll(files.len()));
        match dice.roll(4) {
            0 => files.push(files[at]),
            1 => files.swap(at, other),
            _ => drop(files.remove(at)),
        }
    }
    files.concat()
}

/// Spoils one thing in a patch.
fn mutilate(patch: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut lines = Lines::of(patch);
    let (at, other) = (lines.any(dice), lines.any(dice));
    let wish = WISHES[dice.roll(WISHES.len())];
    let odd = ODD[dice.roll(ODD.len())].to_vec();
    let is_last = at + 1 == lines.all.len();
    let line = &mut lines.all[at];
    match dice.roll(19) {
        16..=18 => return files_moved(patch, dice),
        0 => drop(lines.all.remove(at)),
        1 => {
            let copy = lines.all[other].clone();
            lines.all.insert(at, copy);
        }
        2 => lines.all.swap(at, other),
        3 if !is_last => lines.all.swap(at, at + 1),
        4 | 5 => lines.all.insert(at + 1, LINES[dice.roll(LINES.len())].as_bytes().to_vec()),
        6..=8 => return rename_everywhere(patch, &lines, dice).unwrap_or_default(),
        9 => {
            if let Some(cut) = line.iter().rposition(|b| b" /".contains(b)) {
                line.truncate(cut + 1);
                line.extend_from_slice(wish.as_bytes());
            }
        }
        10 => lines.all.truncate(at),
        11 => line.extend(odd),
        12 => {
            let place = dice.roll(line.len() + 1);
            line.splice(place..place, odd);
        }
        13 => {
            let place = dice.roll(line.len() + 1);
            line.splice(place..(place + 1).min(line.len()), [b" +-\\@d\"x019,\r"[dice.roll(13)]]);
        }
        14 => {
            // The line ends of one file, or of all.
            let ends = &mut lines.all[at..];
            let count = 1 + dice.roll(ends.len());
            ends[..count].iter_mut().for_each(|line| line.push(b'\r'));
        }
        _ => {
            if let Some(byte) = line.first_mut() {
                *byte = b" +-\\@d\"x"[dice.roll(8)];
            }
        }
    }
    lines.all.join(&b'\n')
}

#[test]
fn what_the_scanner_lets_through_git_reads_as_the_scanner_does() {
    if !support::require("contract", support::has("git"), "git is not installed") {
        return;
    }
    let (mut accepted, mut refused, mut applied) = (0, 0, 0);
    for seed in changes::seeds(1..5) {
        let mut dice = Dice::of(seed);
        let world = World::new(&mut dice);
        let Some(whole) = scan(&world.patch) else {
            panic!("BANGER_TEST_SEED={seed}: {}", String::from_utf8_lossy(&world.patch));
        };
        assert_eq!(world.apply(&world.patch).0, named(&whole), "BANGER_TEST_SEED={seed}");
        for _ in 0..MUTANTS {
            let mutant = mutilate(&world.patch, &mut dice);
            let Some(scanned) = scan(&mutant).filter(|_| mutant != world.patch) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            let (changed, output) = world.apply(&mutant);
            let story =
                || format!("BANGER_TEST_SEED={seed}: {output:?}\n{}", String::from_utf8_lossy(&mutant));
            let named = named(&scanned);
            assert!(changed.is_subset(&named), "{changed:?} and not only {named:?} changed; {}", story());
            applied += usize::from(output.status.success());
            // What git refuses it need not tell.
            let said = world.git_apply(&["--numstat", "--summary", "-z"]);
            if said.status.success() {
                let (said, told) = (without_degrees(&said.stdout), told(&scanned));
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                assert!(
                    said == told,
                    "git says {:?}, the scanner {:?}; {}",
                    text(&said),
                    text(&told),
                    story()
                );
            }
        }
    }
    support::tell(&format!("{accepted} accepted, {applied} of them applied, {refused} refused"));
    // One seed alone, as in a soak, may have few of the one kind.
    let alone = std::env::var_os("BANGER_TEST_SEED").is_some();
    assert!(alone || accepted > 20 && applied > 10 && refused > 50, "too few of a kind for a test");
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
