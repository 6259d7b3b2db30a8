//! How a guest tells what changed in a workspace: banger-guest compares the files on its disk with what it was sent. Nothing that git
//! in the guest says, keeps or is told has a part in it.
//!
//! `changes --nonce N -- PATH` reads a [`Request`] from its stdin, says its verdict (`missing`, `failed`, or `ready`) in a line that
//! begins with [`super::guest::mark_start`], and then writes [`Event`]s to its stdout, the last of them [`Event::End`]: without it the
//! answer is not whole. An [`Event::File`] is followed by as many bytes as it says and by one byte more, 1 where these are the file, 0
//! where it changed meanwhile and what came is to be forgotten.
//!
//! `note -- PATH` is run once a copy is in its place: it keeps, outside of the workspace, what each file of the [`Request`] in [`SENT`] is
//! to the filesystem (inode, change time, size), so that `changes` need not read what nobody has touched. It takes [`SENT`] away.

use super::words::{Reader, Writer};

/// The verb that compares.
pub const VERB: &str = "changes";
/// The verb that keeps what files are right after they were copied.
pub const NOTE_VERB: &str = "note";
/// What these verbs say of themselves: another number is another protocol.
pub const VERSION: usize = 1;
/// That of a [`Request`] that asks for what is ignored, too.
const VERSION_WITH_EVERYTHING: usize = 2;
/// Where a copy brings its [`Request`] along, from the root of the workspace.
pub const SENT: &str = ".git/banger-sent";
/// The mode of a file, of a program and of a symbolic link, as git has them.
pub const MODE_FILE: u32 = 0o100_644;
/// See [`MODE_FILE`].
pub const MODE_PROGRAM: u32 = 0o100_755;
/// See [`MODE_FILE`].
pub const MODE_LINK: u32 = 0o120_000;
/// The longest path, bytes: git opens none that is longer.
pub const MAX_PATH: usize = 4095;

/// A file that was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentFile {
    /// Its path, from the root of its tree.
    pub path: Vec<u8>,
    /// Its mode, as git has it.
    pub mode: u32,
    /// The id that git would give its bytes, unconverted.
    pub id: Vec<u8>,
}

/// The files of one repository: the checkout itself, or a submodule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentTree {
    /// Where it is in the workspace; empty for the checkout itself.
    pub prefix: Vec<u8>,
    /// The rules of what is ignored beside those of the `.gitignore` files, as git reads them.
    pub rules: Vec<u8>,
    /// Repositories in it that are none of the others' trees, since no `.gitmodules` names them: where each is, and its rules. Those of the
    /// directories above it do not count there.
    pub repositories: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether only the names of what differs are wanted: then no bytes follow, and each file has none.
    pub names_only: bool,
    /// What was sent.
    pub files: Vec<SentFile>,
}

/// What the host asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Whether object ids are SHA-256; else they are SHA-1.
    pub sha256: bool,
    /// The largest file whose bytes are wanted, bytes.
    pub max_file_bytes: u64,
    /// How many bytes of files are wanted in all.
    pub max_bytes: u64,
    /// Whether new files count that are ignored.
    pub everything: bool,
    /// The repositories; the checkout itself first.
    pub trees: Vec<SentTree>,
}

impl Request {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        // Whoever does not ask for that is understood by those who do not know it.
        out.number(if self.everything { VERSION_WITH_EVERYTHING } else { VERSION });
        out.number(self.sha256.into());
        out.word(self.max_file_bytes.to_string().as_bytes());
        out.word(self.max_bytes.to_string().as_bytes());
        out.list(&self.trees, |out, tree| {
            out.word(&tree.prefix);
            out.word(&tree.rules);
            out.list(&tree.repositories, |out, (path, rules)| {
                out.word(path);
                out.word(rules);
            });
            out.number(tree.names_only.into());
            out.list(&tree.files, |out, file| {
                out.word(&file.path);
                out.number(file.mode as usize);
                out.word(&file.id);
            });
        });
        out.0
    }

    /// Reads what [`Request::encode`] wrote; `None` where it is anything else, or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let everything = match from.number::<usize>()? {
            VERSION => false,
            VERSION_WITH_EVERYTHING => true,
            _ => return None,
        };
        let file = |from: &mut Reader<'_>| {
            Some(SentFile { path: from.bytes()?, mode: from.number()?, id: from.bytes()? })
        };
        let tree = |from: &mut Reader<'_>| {
            let (prefix, rules) = (from.bytes()?, from.bytes()?);
            let repositories = from.list(|from| Some((from.bytes()?, from.bytes()?)))?;
            Some(SentTree { prefix, rules, repositories, names_only: from.flag()?, files: from.list(file)? })
        };
        let request = Self {
            sha256: from.flag()?,
            max_file_bytes: from.number()?,
            max_bytes: from.number()?,
            everything,
            trees: from.list(tree)?,
        };
        from.0.is_empty().then_some(request)
    }
}

/// Where the bytes of a changed file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// They follow: so many.
    Follows(u64),
    /// They are those of a file that was sent, by its id.
    Known(Vec<u8>),
}

/// One thing that differs, or that has to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A file or a link is new, or another one than was sent.
    File {
        /// Which of the trees.
        tree: u16,
        /// Its path in it.
        path: Vec<u8>,
        /// Its mode, as git has it.
        mode: u32,
        /// Its bytes; of a link where it leads.
        content: Content,
    },
    /// What was sent is no more.
    Gone {
        /// Which of the trees.
        tree: u16,
        /// Its path in it.
        path: Vec<u8>,
    },
    /// Something that a patch could hold cannot be told.
    Lost {
        /// Which of the trees.
        tree: u16,
        /// Its path in it; with a slash at its end all that is below.
        path: Vec<u8>,
        /// Why.
        reason: Vec<u8>,
    },
    /// Something is there that no patch can hold.
    LeftOut {
        /// Which of the trees.
        tree: u16,
        /// Its path in it.
        path: Vec<u8>,
        /// What it is.
        reason: Vec<u8>,
    },
    /// That was all.
    End {
        /// How many new files are ignored.
        ignored: u64,
    },
}

/// How large an event may be, bytes, but for what follows it.
const MAX_EVENT: usize = 16 << 10;

impl Event {
    /// As it travels: its length in four bytes, the least of them first, and then its words.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let place = |out: &mut Writer, kind: &[u8], tree: u16, path: &[u8]| {
            out.word(kind);
            out.number(tree.into());
            out.word(path);
        };
        match self {
            Self::File { tree, path, mode, content } => {
                place(&mut out, b"file", *tree, path);
                out.number(*mode as usize);
                match content {
                    Content::Follows(size) => {
                        out.word(b"");
                        out.word(size.to_string().as_bytes());
                    }
                    Content::Known(id) => out.word(id),
                }
            }
            Self::Gone { tree, path } => place(&mut out, b"gone", *tree, path),
            Self::Lost { tree, path, reason } => {
                place(&mut out, b"lost", *tree, path);
                out.word(reason);
            }
            Self::LeftOut { tree, path, reason } => {
                place(&mut out, b"left", *tree, path);
                out.word(reason);
            }
            Self::End { ignored } => {
                out.word(b"end");
                out.word(ignored.to_string().as_bytes());
            }
        }
        [&(out.0.len() as u32).to_le_bytes()[..], &out.0].concat()
    }

    /// How long the event at the start of `bytes` is, with its length; `None` where not enough is there to tell.
    ///
    /// # Errors
    /// It is longer than any event.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        match u32::from_le_bytes(*length) as usize {
            length if length <= MAX_EVENT => Ok(Some(4 + length)),
            _ => Err("an event is too long"),
        }
    }

    /// Reads an event, with its length; `None` where it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes.get(4..)?);
        let event = match from.word()? {
            b"file" => {
                let (tree, path, mode) = (from.number()?, from.bytes()?, from.number()?);
                let content = match from.bytes()? {
                    none if none.is_empty() => Content::Follows(from.number()?),
                    id => Content::Known(id),
                };
                Self::File { tree, path, mode, content }
            }
            b"gone" => Self::Gone { tree: from.number()?, path: from.bytes()? },
            b"lost" => Self::Lost { tree: from.number()?, path: from.bytes()?, reason: from.bytes()? },
            b"left" => Self::LeftOut { tree: from.number()?, path: from.bytes()?, reason: from.bytes()? },
            b"end" => Self::End { ignored: from.number()? },
            _ => return None,
        };
        from.0.is_empty().then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_events_are_read_as_they_were_written_and_nothing_else_is_one() {
        let files = vec![SentFile { path: b"a\n:\xff".into(), mode: MODE_LINK, id: vec![7; 20] }];
        let repositories = vec![(b"inner".to_vec(), b"*.a\n".to_vec())];
        let (prefix, rules) = (b"sub".to_vec(), b"*.o\n".to_vec());
        let tree = SentTree { prefix, rules, repositories, names_only: true, files };
        for everything in [false, true] {
            let trees = vec![tree.clone()];
            let request = Request { sha256: true, max_file_bytes: 1 << 40, max_bytes: 9, everything, trees };
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Some(request));
            assert!((0..bytes.len()).all(|end| Request::decode(&bytes[..end]).is_none()));
        }
        let (tree, path) = (1, b"d/\0x".to_vec());
        for event in [
            Event::File { tree, path: path.clone(), mode: MODE_FILE, content: Content::Follows(1 << 40) },
            Event::File { tree, path: path.clone(), mode: MODE_FILE, content: Content::Known(vec![1; 32]) },
            Event::Gone { tree, path: path.clone() },
            Event::Lost { tree, path: path.clone(), reason: b"why".into() },
            Event::LeftOut { tree, path, reason: b"a FIFO".into() },
            Event::End { ignored: 12 },
        ] {
            let bytes = event.encode();
            assert_eq!(Event::length(&bytes), Ok(Some(bytes.len())));
            assert_eq!(Event::decode(&bytes), Some(event));
            assert!((0..bytes.len()).all(|end| Event::decode(&bytes[..end]).is_none()));
        }
        assert!(Event::length(&[0xff; 4]).is_err());
    }
}
