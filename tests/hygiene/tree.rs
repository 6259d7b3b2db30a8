//! What every tracked file must be.

use std::path::Path;

/// The longest source file, lines.
pub const MAX_LINES: usize = 600;

/// Words for work left undone, written so that this file does not hold them.
const UNDONE: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// The directories of the Filesystem Hierarchy Standard: a path in one of them may be of any machine.
const STANDARD: [&str; 18] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "nix", "opt", "proc", "root", "run",
    "srv", "sys", "tmp", "usr",
];

/// What the text file `file` has that it must not: one line each. `root` is the project's directory on this machine.
pub fn violations(file: &str, text: &str, root: &Path) -> Vec<String> {
    // A manual page is one page however long, and much of it is generated.
    let free = file.ends_with(".lock")
        || file == "LICENSE"
        || file.starts_with("lib/schema/")
        || file.starts_with("man/");
    let mut said = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES && !free {
        said.push(format!("{file}: {lines} lines; a file of more than {MAX_LINES} is two files"));
    }
    let here = machine_path(root);
    for (index, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", index + 1);
        for word in UNDONE.iter().filter(|word| has_word(line, word)) {
            said.push(format!("{at}: {word}"));
        }
        if has_path(line, &here) {
            said.push(format!("{at}: a path of this machine ({here})"));
        }
    }
    said
}

/// The prefix that a path of this machine has: the top directory where only this machine has it, else the whole path.
fn machine_path(root: &Path) -> String {
    let top = root.iter().nth(1).unwrap_or_default().to_string_lossy();
    let standard = top == "var" || STANDARD.contains(&top.as_ref());
    if standard { root.display().to_string() } else { format!("/{top}/") }
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

/// Whether an absolute path that begins with `prefix` stands in `line`; `/a/b/c` does not begin with `/b/`.
fn has_path(line: &str, prefix: &str) -> bool {
    let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}".contains(c));
    line.match_indices(prefix).any(|(at, _)| begins(at))
}

/// Whether `bytes` are a script that must be executable.
pub fn is_script(bytes: &[u8]) -> bool {
    bytes.starts_with(b"#!")
}

#[test]
fn unfinished_work_and_long_files_are_caught() {
    let root = Path::new("/nowhere/banger");
    let word = UNDONE[1];
    assert!(violations("lib/src/a.rs", &format!("x\n// {word}: y"), root)[0].contains("a.rs:2"));
    assert!(violations("a.rs", &format!("{word}X"), root).is_empty());
    let long = "x\n".repeat(MAX_LINES + 1);
    assert!(violations("lib/src/a.rs", &long, root)[0].contains("601 lines"));
    assert!(violations("Cargo.lock", &long, root).is_empty());
}

#[test]
fn a_path_of_the_build_machine_is_caught() {
    let root = Path::new("/nowhere/x/banger");
    assert!(violations("a.rs", "let a = \"/nowhere/b\";", root)[0].contains("a.rs:1"));
    assert!(violations("a.rs", "let a = \"/mnt/nowhere/b\";", root).is_empty());
    let root = Path::new("/home/somebody/banger");
    assert!(!violations("a.md", "see /home/somebody/banger/README", root).is_empty());
    assert!(violations("a.md", "see /home/other", root).is_empty());
}
