//! Random trees and random changes to them, as shell scripts: what people and agents do to a checkout, odd names included.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{command, run};

/// A generator of pseudo-random numbers (xorshift64*), so that a failure can be repeated by its seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The generator of `seed`.
    pub fn of(seed: u64) -> Self {
        // Neighbouring seeds are to give sequences that have nothing in common; zero would stay zero.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }
}

/// The seeds of a test; where `BANGER_TEST_SEED` is set, that one instead. A failed test says which it was at.
pub fn seeds(usual: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("BANGER_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("BANGER_TEST_SEED is a number")],
        Err(_) => usual.collect(),
    }
}

/// What makes proptest's cases: always the same, but where `BANGER_TEST_SEED` says another.
pub fn rng_seed() -> proptest::test_runner::RngSeed {
    proptest::test_runner::RngSeed::Fixed(seeds(0..1)[0])
}

/// Names that are there from the beginning, may come, or may become directories. `*.o` and `build/` are ignored.
const NAMES: [&[u8]; 30] = [
    b"a",
    b"README.md",
    b"run.sh",
    b"link",
    b"src/a.c",
    b"src/b.c",
    b"src/deep/er/c.c",
    b"d/e/f",
    b"d/e",
    b"forced.o",
    b"other.o",
    b"build/out",
    b"sp ace",
    b" leading",
    b"trailing ",
    b"it's",
    b"q\"uote",
    b"back\\slash",
    b"new\nline",
    b"tab\there",
    b"-dash",
    b"--help",
    b"latin-\xe4\xff",
    "ünï/日本語".as_bytes(),
    b"*",
    b":(top)x",
    b"$HOME",
    b"a b/c d",
    b".hidden",
    b"ctrl\x01\x7f",
];

/// `name` as a word of a POSIX shell, whatever its bytes.
fn word(name: &[u8]) -> String {
    let mut text = String::from("\"$(printf '%b' '");
    for byte in name {
        write!(text, "\\0{byte:03o}").expect("a string takes everything");
    }
    text + "')\""
}

/// One change, as a line of shell that may fail. Paths begin with `./`, so that git takes none for an option; it takes none for a
/// pattern since `GIT_LITERAL_PATHSPECS` is set.
fn change(dice: &mut Dice) -> String {
    let name = word(NAMES[dice.roll(NAMES.len())]);
    let other = word(NAMES[dice.roll(NAMES.len())]);
    let text = dice.roll(1000);
    let set = format!("n=./{name}; o=./{other}; ");
    let parents = "mkdir -p -- \"$(dirname -- \"$n\")\" && ";
    let act = match dice.roll(28) {
        0 | 1 => format!("{parents}echo {text} >\"$n\""),
        2 | 3 => format!("[ ! -f \"$n\" ] || echo {text} >>\"$n\""),
        4 => format!("sed -i '1s/.*/first {text}/' \"$n\""),
        5 => format!("{parents}printf '\\0{text}\\377\\n\\0' >\"$n\""),
        6 => format!("{parents}printf 'no newline {text}' >\"$n\""),
        7 => format!("{parents}printf 'dos\\r\\n{text}\\r\\n' >\"$n\""),
        8 => format!("{parents}true >\"$n\""),
        9 => format!("{parents}seq {text} 9000 >\"$n\""),
        10 => format!("{parents}head -c 70{text:03} /dev/zero | tr '\\0' '\\1' >\"$n\""),
        11 => "[ -h \"$n\" ] || chmod 755 \"$n\"".into(),
        12 => "[ -h \"$n\" ] || chmod 644 \"$n\"".into(),
        13 => "mkdir -p -- \"$(dirname -- \"$o\")\"; mv -T -- \"$n\" \"$o\"".into(),
        14 => "mkdir -p -- \"$(dirname -- \"$o\")\"; git mv -f -- \"$n\" \"$o\"".into(),
        15 => format!("rm -rf \"$n\"; {parents}ln -s target{text} \"$n\""),
        16 => "rm -rf \"$n\"; ln -s .. \"$n\"".into(),
        17 => "rm -rf \"$n\"".into(),
        18 => "git rm -q --cached -r -- \"$n\"".into(),
        19 => format!("rm -rf \"$n\"; mkdir -p \"$n\" && echo {text} >\"$n/inner\""),
        20 => "git add -- \"$n\"".into(),
        21 => format!("git add -- \"$n\"; echo unstaged {text} >>\"$n\""),
        22 => "git add -f -- \"$n\"".into(),
        23 => "git add -N -- \"$n\"".into(),
        24 => "git add -A".into(),
        25 => format!("git commit -qm {text}"),
        26 => format!("git commit -qam {text}"),
        _ => format!("git checkout -q -b branch{text}"),
    };
    format!("{set}{act}\n")
}

/// A script of one to eight changes. Each may fail, as most do that meet something else than they expect.
pub fn script(dice: &mut Dice) -> String {
    let changes: String = (0..=dice.roll(8)).map(|_| change(dice)).collect();
    format!("export GIT_LITERAL_PATHSPECS=1 LC_ALL=C\nexec 2>/dev/null\n{changes}true\n")
}

/// Fills `dir` with some of the names above.
pub fn random_tree(dir: &Path, dice: &mut Dice) {
    for name in NAMES {
        let path = dir.join(OsString::from_vec(name.to_vec()));
        if dice.roll(2) == 0 || path.ancestors().skip(1).any(|p| p.is_file()) {
            continue;
        }
        fs::create_dir_all(path.parent().expect("it is below the checkout")).expect("a directory");
        let made = match dice.roll(8) {
            0 => symlink("../elsewhere//./x", &path),
            1 => fs::write(&path, [0, 1, 2, 0xff, b'\n', 0]),
            2 => fs::write(&path, ""),
            count => fs::write(&path, "a line of text\n".repeat(count * count)),
        };
        // A directory may be there: "d/e" once "d/e/f" is.
        if made.is_ok() && !path.is_symlink() && dice.roll(4) == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the mode is set");
        }
    }
}

/// A file below a tree: its path, whether its owner may execute it, its content or target; a link has no mode.
pub type File = (PathBuf, Option<bool>, Vec<u8>);

/// The files below `dir`, git's own excepted.
pub fn tree(dir: &Path) -> BTreeSet<File> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeSet<File>) {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let name = path.strip_prefix(root).expect("it is below").to_owned();
            if name == Path::new(".git") {
            } else if meta.is_dir() {
                walk(root, &path, out);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                out.insert((name, None, target.into_os_string().into_vec()));
            } else {
                let executable = meta.permissions().mode() & 0o100 != 0;
                out.insert((name, Some(executable), fs::read(&path).expect("a file")));
            }
        }
    }
    let mut out = BTreeSet::new();
    walk(dir, dir, &mut out);
    out
}

/// The working tree at `dir`, and all that git keeps there: index, refs, reflogs, objects.
pub fn everything(dir: &Path) -> BTreeSet<File> {
    let of_git = tree(&dir.join(".git")).into_iter();
    let of_git = of_git.map(|(path, mode, bytes)| (Path::new(".git").join(path), mode, bytes));
    tree(dir).into_iter().chain(of_git).collect()
}

/// Paths as `git ls-files -z` lists them.
pub fn paths(listed: &[u8]) -> BTreeSet<PathBuf> {
    let names = listed.split(|b| *b == 0).filter(|name| !name.is_empty());
    names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name))).collect()
}

/// The files below `dir` that `git ls-files OPTIONS` lists.
pub fn listed(dir: &Path, options: &[&str]) -> BTreeSet<PathBuf> {
    let mut git = command("git");
    git.arg("-C").arg(dir).args(["ls-files", "-z"]).args(options).env("GIT_OPTIONAL_LOCKS", "0");
    let output = run(&mut git, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    paths(&output.stdout)
}

/// What git ignores.
pub const IGNORED: [&str; 3] = ["--others", "--ignored", "--exclude-standard"];

/// Says where two trees differ; contents cut.
#[track_caller]
pub fn assert_same(got: &BTreeSet<File>, wanted: &BTreeSet<File>, story: &str) {
    let shown = |(path, mode, bytes): &File| {
        format!("{path:?} {mode:?} {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]))
    };
    let list = |a: &BTreeSet<File>, b| a.difference(b).map(shown).collect::<Vec<_>>().join("\n  ");
    assert!(
        got == wanted,
        "{story}\nonly here:\n  {}\nonly there:\n  {}",
        list(got, wanted),
        list(wanted, got)
    );
}
