//! The files that tools of the host run or obey by themselves, and the directories that belong to version control alone: one
//! table, `known.tsv`, which says how it is read.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::LazyLock;

/// The table, as it was reviewed.
const TEXT: &str = include_str!("known.tsv");

/// Who runs or obeys a file, or why nobody may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// A version control system's own directory.
    Refused,
    /// Shells, interpreters and debuggers.
    Enter,
    /// Editors and their language servers.
    Open,
    /// Builds, tests, linters and formatters.
    Build,
    /// Hooks of version control.
    Commit,
    /// CI.
    Ci,
    /// Version control.
    Git,
    /// What chooses tools.
    Tools,
    /// Coding agents.
    Agents,
}

impl Group {
    /// Each, with its word in the table, in the table's order.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Refused, "refused"),
        (Self::Enter, "enter"),
        (Self::Open, "open"),
        (Self::Build, "build"),
        (Self::Commit, "commit"),
        (Self::Ci, "ci"),
        (Self::Git, "git"),
        (Self::Tools, "tools"),
        (Self::Agents, "agents"),
    ];

    /// Why a person should look at such a file.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused => "it belongs to version control",
            Self::Enter => "a shell or an interpreter that is started in the directory may run it",
            Self::Open => "an editor that opens the directory may run it",
            Self::Build => "builds, tests and linters run it",
            Self::Commit => "hooks of version control run it",
            Self::Ci => "CI runs it",
            Self::Git => "version control obeys it",
            Self::Tools => "it chooses or redirects the tools that run here",
            Self::Agents => "coding agents run or follow it",
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Who runs it.
    pub group: Group,
    /// Its pattern, as it is in the table.
    pub pattern: &'static str,
    /// Where its maker says so.
    pub source: &'static str,
}

/// The table's rows, in its order.
pub fn rows() -> impl Iterator<Item = Row> {
    let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let mut columns = line.split('\t');
        let (Some(group), Some(pattern), Some(source), None) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            unreachable!("a test reads each row of the table: {line}")
        };
        let group = Group::ALL.iter().find(|(_, word)| *word == group);
        Row { group: group.expect("a test reads each row of the table").0, pattern, source }
    })
}

/// A pattern, taken apart.
struct Pattern {
    parts: Vec<&'static str>,
    /// Whether it is a directory, below which every file is meant.
    below: bool,
    group: Group,
}

/// The patterns but for the refused ones, in the table's order; those without a star in their last part by that, the others apart.
struct Index {
    patterns: Vec<Pattern>,
    exact: HashMap<&'static str, Vec<usize>>,
    starred: Vec<usize>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index { patterns: Vec::new(), exact: HashMap::new(), starred: Vec::new() };
    for row in rows().filter(|row| row.group != Group::Refused) {
        let bare = row.pattern.strip_suffix('/');
        let parts: Vec<&str> = bare.unwrap_or(row.pattern).split('/').collect();
        let (last, at) = (parts[parts.len() - 1], index.patterns.len());
        index.patterns.push(Pattern { below: bare.is_some(), group: row.group, parts });
        if last.contains('*') {
            index.starred.push(at);
        } else {
            index.exact.entry(last).or_default().push(at);
        }
    }
    index
});

/// The names of version control's own directories.
static REFUSED: LazyLock<Vec<&str>> = LazyLock::new(|| {
    rows().filter(|row| row.group == Group::Refused).map(|row| row.pattern.trim_end_matches('/')).collect()
});

/// Whether `name`, a part of a path in lower case, is that of a directory of version control; or its short name on FAT and NTFS.
pub fn is_version_control(name: &str) -> bool {
    let short = |known: &str| {
        let number = name.strip_prefix(known.trim_start_matches('.')).and_then(|rest| rest.strip_prefix('~'));
        number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    REFUSED.iter().any(|known| name == *known || short(known))
}

/// Who runs or obeys the file at `path`; or, where `opaque` says that a link or another repository is there, what may be behind it.
pub fn group(path: &[u8], opaque: bool) -> Option<Group> {
    let path = String::from_utf8_lossy(path).to_lowercase();
    let parts: Vec<&str> = path.split('/').collect();
    let index = &*INDEX;
    let mut found: Option<usize> = None;
    for (at, part) in parts.iter().enumerate() {
        let is_last = at + 1 == parts.len();
        let exact = index.exact.get(part).into_iter().flatten();
        for candidate in exact.chain(&index.starred) {
            let pattern = &index.patterns[*candidate];
            let at_place = if is_last { !pattern.below || opaque } else { pattern.below };
            if at_place && ends_in(&parts[..=at], &pattern.parts) {
                found = Some(found.map_or(*candidate, |first| first.min(*candidate)));
            }
        }
    }
    let behind = |pattern: &&Pattern| (1..pattern.parts.len()).any(|n| ends_in(&parts, &pattern.parts[..n]));
    let found = found.map(|at| &index.patterns[at]);
    found.or_else(|| index.patterns.iter().filter(|_| opaque).find(behind)).map(|pattern| pattern.group)
}

/// Whether the last of `parts` are as `wanted` says.
fn ends_in(parts: &[&str], wanted: &[&str]) -> bool {
    let mut pairs = parts.iter().rev().zip(wanted.iter().rev());
    parts.len() >= wanted.len() && pairs.all(|(part, wanted)| is_like(part, wanted))
}

/// Whether `name` is like `pattern`, in which a star stands for any characters.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return name == pattern };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut rest = rest;
    while let Some((middle, after)) = rest.split_once('*') {
        let Some(at) = name.find(middle) else { return false };
        (name, rest) = (&name[at + middle.len()..], after);
    }
    name.ends_with(rest)
}

/// The table for people: each group's words and its patterns, as roff.
pub fn as_roff() -> String {
    let mut out = String::new();
    for (group, _) in Group::ALL {
        let patterns: Vec<&str> = rows().filter(|row| row.group == group).map(|row| row.pattern).collect();
        roff_entry(&mut out, group, &patterns).expect("a string takes everything");
    }
    out
}

fn roff_entry(out: &mut String, group: Group, patterns: &[&str]) -> fmt::Result {
    let title =
        if group == Group::Refused { "refused: it belongs to version control" } else { group.reason() };
    writeln!(out, ".TP\n{title}")?;
    // One to a line: the page fills them, and a change of the table is one of a line. `\&` keeps a dot from being a request.
    for (at, pattern) in patterns.iter().enumerate() {
        let end = if at + 1 == patterns.len() { "" } else { "," };
        writeln!(out, "\\&{}{end}", pattern.replace('-', "\\-"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_is_in_order() {
        let all: Vec<Row> = rows().collect();
        let rank = |row: &Row| Group::ALL.iter().position(|(group, _)| *group == row.group);
        for pair in all.windows(2) {
            let keys = pair.iter().map(|row| (rank(row), row.pattern)).collect::<Vec<_>>();
            assert!(keys[0] < keys[1], "{} comes after {}", pair[0].pattern, pair[1].pattern);
        }
        for row in &all {
            let bare = row.pattern.trim_end_matches('/');
            assert!(row.source.starts_with("https://"), "{} has no source", row.pattern);
            assert!(!bare.is_empty() && row.pattern == row.pattern.to_lowercase(), "{}", row.pattern);
            assert_eq!(all.iter().filter(|other| other.pattern == row.pattern).count(), 1, "{}", row.pattern);
            let sample = bare.replace('*', "x") + if bare == row.pattern { "" } else { "/x" };
            if row.group == Group::Refused {
                assert!(is_version_control(bare), "{bare}");
            } else {
                assert!(group(format!("d/{sample}").as_bytes(), false).is_some(), "{sample}");
            }
        }
        assert!(Group::ALL.iter().all(|(group, _)| all.iter().any(|row| row.group == *group)));
    }

    #[test]
    fn patterns_mean_what_they_say() {
        for (path, wanted) in [
            (".envrc", Some(Group::Enter)),
            ("sub/.ENVRC", Some(Group::Enter)),
            (".husky/pre-commit", Some(Group::Commit)),
            ("a/.vscode/tasks.json", Some(Group::Open)),
            (".vscode/mcp.json", Some(Group::Agents)),
            (".github/workflows/ci.yml", Some(Group::Ci)),
            ("Jenkinsfile", Some(Group::Ci)),
            (".gitattributes", Some(Group::Git)),
            ("x/.cargo/config.toml", Some(Group::Tools)),
            ("CLAUDE.md", Some(Group::Agents)),
            ("x.code-workspace", Some(Group::Open)),
            ("crates/x/build.rs", Some(Group::Build)),
            ("eslint.config.mjs", Some(Group::Build)),
            (".helix/languages.toml", Some(Group::Open)),
            ("X.xcodeproj/project.pbxproj", Some(Group::Open)),
            ("Makefile", None),
            ("src/main.rs", None),
            (".vscode/notes.txt", None),
            ("envrc", None),
            ("my.envrc", None),
            (".github/x", None),
            ("cargo/config.toml", None),
            (".husky", None),
        ] {
            assert_eq!(group(path.as_bytes(), false), wanted, "{path}");
        }
    }

    #[test]
    fn what_may_be_behind_a_link_counts() {
        for path in [".husky", ".vscode", "a/.github", ".github/workflows", ".config", ".cargo", ".envrc"] {
            assert!(group(path.as_bytes(), true).is_some(), "{path}");
        }
        for path in ["vscode", "src", ".vscode/notes", "workflows"] {
            assert_eq!(group(path.as_bytes(), true), None, "{path}");
        }
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (name, pattern, like) in [
            ("a.config.js", "*.config.js", true),
            (".config.js", "*.config.js", true),
            ("eslint.config.", "eslint.config.*", true),
            ("eslint.config", "eslint.config.*", false),
            (".foorc.js", ".*rc.js", true),
            (".rc.js", ".*rc.js", true),
            ("xrc.js", ".*rc.js", false),
            ("abcabd", "a*b*d", true),
            ("ab", "a*b*b", false),
        ] {
            assert_eq!(is_like(name, pattern), like, "{name} {pattern}");
        }
    }

    #[test]
    fn version_controls_directories_are_known_by_their_short_names_too() {
        for name in [".git", ".hg", ".jj", ".sl", "_darcs", "git~1", "hg~12"] {
            assert!(is_version_control(name), "{name}");
        }
        for name in ["git", ".github", ".hgignore", "git~x", ".jjj", "sl"] {
            assert!(!is_version_control(name), "{name}");
        }
    }
}
