//! What the host tells banger-guest of a second copy: its verb `resync`, and what comes on its stdin.
//!
//! `resync --nonce N --from COMMIT -- PATH` receives what differs, a tar, and puts it in its places in the workspace at PATH, if the
//! prepared commit there is COMMIT; without `--from` it only completes what was cut off before. It says its verdict in a line that
//! begins with [`super::guest::mark_start`], as every script of ours does: `missing` (there is no workspace), `failed`, or `ready`. After that stand
//! words, each with a NUL behind it, the last of them `end`: `done` and what the guest has kept of its own (`HEAD`, `index`; where it was forced, [`REPLACED`]), or `conflict` and
//! what both have changed, or `other` and the commit that is there.
//!
//! In the tar are files for the working tree and the git directory, below [`TREE`]; perhaps [`INDEX`]; perhaps [`FILL`] and what that
//! reads; and at last [`PLAN`], a [`Plan`] in its encoded form: without it the tar is not whole.

use std::collections::HashSet;

use super::words::{Reader, Writer};

/// The verb.
pub const VERB: &str = "resync";
/// The word for that what the guest had for HEAD is at refs/banger/replaced.
pub const REPLACED: &str = "replaced";
/// Where what was received waits, from the root of the workspace.
pub const PLACE: &str = ".git/banger-sync";
/// The file there that says that what was received is being put in its place: the [`Plan`], with what the guest has decided.
pub const MARK: &str = "go";
/// What goes to the root of the workspace. In the guest, where each directory would have to be made and removed again, only files that
/// [`FILL`] makes lie there.
pub const TREE: &str = "tree";
/// The host's index.
pub const INDEX: &str = "index";
/// A shell script, to be run in [`TREE`], that makes large files from objects that are in there.
pub const FILL: &str = "fill";
/// The [`Plan`].
pub const PLAN: &str = "plan";
/// In the git directory: the index that the guest was given, as long as git there has not written another one in its place.
pub const GIVEN_INDEX: &str = "banger-index";

/// A file, by its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Where.
    pub path: Vec<u8>,
    /// Its mode, as git has it.
    pub mode: u32,
    /// The id that git would give its bytes, unconverted.
    pub id: Vec<u8>,
}

/// What differs in the index. Lists of paths have a NUL behind each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Staged {
    /// SHA-256 of what `git ls-files -s -z` said when the guest was given it, hexadecimal.
    pub digest: String,
    /// The paths whose entries differ.
    pub paths: Vec<u8>,
    /// Their entries before and after, as `git ls-files -s -z` prints them.
    pub before: Vec<u8>,
    /// See `before`.
    pub after: Vec<u8>,
    /// What changes one into the other, for `git update-index -z --index-info`.
    pub info: Vec<u8>,
    /// Options of `git update-index`, and the paths that each is for.
    pub flags: Vec<(String, Vec<u8>)>,
}

impl Staged {
    /// Takes `paths` out of what is to be done.
    pub fn leave_out(&mut self, paths: &HashSet<Vec<u8>>) {
        // MODE ID STAGE<tab>PATH, or the path alone; a path may hold tabs.
        let kept = |lines: &[u8], columns: usize| -> Vec<u8> {
            let lines = lines.split_inclusive(|byte| *byte == 0);
            let path = |line: &[u8]| {
                let line = line.strip_suffix(b"\0").unwrap_or(line);
                line.splitn(columns, |byte| *byte == b'\t').last().unwrap_or_default().to_vec()
            };
            lines.filter(|line| !paths.contains(&path(line))).flatten().copied().collect()
        };
        self.info = kept(&self.info, 2);
        for (_, of) in &mut self.flags {
            *of = kept(of, 1);
        }
    }
}

/// What the guest is to compare, and to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether what the guest has changed gives way.
    pub force: bool,
    /// Whether object ids are SHA-256; else they are SHA-1.
    pub sha256: bool,
    /// Files that the guest was given and that differ, or are no more: as it was given them.
    pub known: Vec<Known>,
    /// The files that come, as they are to be.
    pub placed: Vec<Known>,
    /// Files that the guest was not given and that are to come.
    pub fresh: Vec<Vec<u8>>,
    /// What the guest must have as directories, or not at all.
    pub directories: Vec<Vec<u8>>,
    /// Directories that become files: nothing but what goes may be in them.
    pub replaced: Vec<Vec<u8>>,
    /// Files that are no more.
    pub gone: Vec<Vec<u8>>,
    /// What differs in the index.
    pub staged: Option<Staged>,
    /// Where HEAD stood, if it stands elsewhere now: the line of the file, and the commit, or nothing.
    pub head: Option<(Vec<u8>, String)>,
    /// Refs and what they are to be.
    pub refs: Vec<(Vec<u8>, String)>,
    /// A commit whose parents do not travel.
    pub shallow: Option<String>,
    /// Settings of git's, and their values.
    pub settings: Vec<(String, String)>,
    /// Decided in the guest: where the files and links go that it has received; the first waits by the name 0.
    pub received: Vec<Vec<u8>>,
    /// Decided in the guest: what of its own gives way.
    pub displaced: Vec<Vec<u8>>,
    /// Decided in the guest: whether it takes the host's index as it is.
    pub whole_index: bool,
}

impl Plan {
    /// As it travels, and as it lies in the guest.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(self.force.into());
        out.number(self.sha256.into());
        for files in [&self.known, &self.placed] {
            out.list(files, |out, known| {
                out.word(&known.path);
                out.number(known.mode as usize);
                out.word(&known.id);
            });
        }
        for words in [&self.fresh, &self.directories, &self.replaced, &self.gone] {
            out.words(words);
        }
        out.list(self.staged.as_slice(), |out, staged| {
            out.word(staged.digest.as_bytes());
            [&staged.paths, &staged.before, &staged.after, &staged.info]
                .iter()
                .for_each(|words| out.word(words));
            out.list(&staged.flags, |out, (name, paths)| {
                out.word(name.as_bytes());
                out.word(paths);
            });
        });
        out.list(self.head.as_slice(), |out, (line, commit)| {
            out.word(line);
            out.word(commit.as_bytes());
        });
        out.list(&self.refs, |out, (name, object)| {
            out.word(name);
            out.word(object.as_bytes());
        });
        out.list(self.shallow.as_slice(), |out, commit| out.word(commit.as_bytes()));
        out.list(&self.settings, |out, (name, value)| {
            out.word(name.as_bytes());
            out.word(value.as_bytes());
        });
        out.words(&self.received);
        out.words(&self.displaced);
        out.number(self.whole_index.into());
        out.0
    }

    /// Reads what [`Plan::encode`] wrote; `None` where it is anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let known = |from: &mut Reader<'_>| {
            let path = from.bytes()?;
            Some(Known { path, mode: from.number()?, id: from.bytes()? })
        };
        let staged = |from: &mut Reader<'_>| {
            let digest = from.text()?;
            let (paths, before, after) = (from.bytes()?, from.bytes()?, from.bytes()?);
            Some(Staged { digest, paths, before, after, info: from.bytes()?, flags: from.pairs()? })
        };
        let plan = Self {
            force: from.flag()?,
            sha256: from.flag()?,
            known: from.list(known)?,
            placed: from.list(known)?,
            fresh: from.words()?,
            directories: from.words()?,
            replaced: from.words()?,
            gone: from.words()?,
            staged: from.list(staged)?.pop(),
            head: from.list(|from| Some((from.bytes()?, from.text()?)))?.pop(),
            refs: from.list(|from| Some((from.bytes()?, from.text()?)))?,
            shallow: from.list(Reader::text)?.pop(),
            settings: from.list(|from| Some((from.text()?, from.text()?)))?,
            received: from.words()?,
            displaced: from.words()?,
            whole_index: from.flag()?,
        };
        from.0.is_empty().then_some(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_has_staged_itself_is_left_out() {
        let mut staged = Staged {
            info: b"0 00 0\ta\x00100644 11 0\ta\x00100644 22 0\tb\tc\0".into(),
            flags: vec![("skip-worktree".into(), b"a\0b\tc\0".into())],
            ..Staged::default()
        };
        staged.leave_out(&HashSet::from([b"a".to_vec()]));
        assert_eq!(staged.info, b"100644 22 0\tb\tc\0");
        assert_eq!(staged.flags, [("skip-worktree".to_owned(), b"b\tc\0".to_vec())]);
    }

    #[test]
    fn a_plan_is_read_as_it_was_written_and_nothing_else_is_one() {
        let words = |words: [&[u8]; 2]| words.map(<[u8]>::to_vec).to_vec();
        let plan = Plan {
            force: true,
            sha256: false,
            known: vec![Known { path: b"a\n:\xff".into(), mode: 0o100_644, id: vec![0; 20] }],
            placed: vec![Known { path: b"a".into(), mode: 0o120_000, id: vec![b':'; 20] }],
            fresh: words([b"9:", b""]),
            directories: words([b"d", b"\0"]),
            replaced: Vec::new(),
            gone: words([b"x", b"y"]),
            staged: Some(Staged {
                digest: "ab".into(),
                paths: b"a\0b\0".into(),
                flags: vec![("skip-worktree".into(), b"a\0".into())],
                ..Staged::default()
            }),
            head: Some((b"ref: refs/heads/main".into(), String::new())),
            refs: vec![(b"refs/heads/\xe4".into(), "0".repeat(40))],
            shallow: Some("1".repeat(40)),
            settings: vec![("core.sparsecheckout".into(), "true".into())],
            received: words([b"a", b".git/HEAD"]),
            displaced: words([b"a", b"d"]),
            whole_index: true,
        };
        let bytes = plan.encode();
        assert_eq!(Plan::decode(&bytes), Some(plan));
        assert_eq!(Plan::decode(&Plan::default().encode()), Some(Plan::default()));
        for end in 0..bytes.len() {
            assert_eq!(Plan::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Plan::decode(&[&bytes[..], b"1:x"].concat()), None);
        for bad in ["18446744073709551615:", "1:1999999999999:x", "-1:", ":", "x"] {
            assert_eq!(Plan::decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
