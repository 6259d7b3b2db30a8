//! What a guest tells of its workspace, as it comes in. The guest is hostile: every event is checked against what was sent, and everything
//! is bounded.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::error::WorkspaceError;
use super::guest::Output;
use super::object::{Hasher, Objects};
use super::patch;
use banger_contract::error::escape_controls;
use banger_protocol::changes::{Content, Event, MODE_FILE, MODE_LINK, MODE_PROGRAM, Request};

/// From which size on a file is not held in memory, bytes.
pub const LARGE: u64 = 4 << 20;
/// How many events are taken, and how many bytes of paths.
const MAX_EVENTS: usize = 1 << 20;
const MAX_NAMES: usize = 128 << 20;
/// How much the guest may say on stderr, bytes.
const MAX_SAID: u64 = 16 << 20;

/// A path: the number of its tree, and the path in that.
pub type Place = (u16, Vec<u8>);

/// A file of the guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its mode, as git has it.
    pub mode: u32,
    /// Its id.
    pub id: Vec<u8>,
    /// Its bytes in a file of ours, where they are many.
    pub large: Option<PathBuf>,
}

/// What the guest told.
#[derive(Debug, Default)]
pub struct Told {
    /// Files that are new, or others than were sent.
    pub files: BTreeMap<Place, NewFile>,
    /// Files that are no more.
    pub gone: BTreeSet<Place>,
    /// What should be told and cannot be, and why.
    pub lost: Vec<(Place, String)>,
    /// What no patch can hold, and what it is.
    pub left_out: Vec<(Place, String)>,
    /// How many new files are ignored.
    pub ignored: u64,
}

/// A file whose bytes are coming.
struct Coming {
    place: Place,
    mode: u32,
    left: u64,
    hasher: Hasher,
    held: Vec<u8>,
    spool: Option<(PathBuf, File)>,
}

/// Takes it.
pub struct Incoming<'a> {
    request: &'a Request,
    sent: Vec<HashSet<&'a [u8]>>,
    ids: HashSet<&'a [u8]>,
    objects: &'a Objects,
    /// Where large files go.
    spool: PathBuf,
    spooled: usize,
    told: Told,
    ended: bool,
    events: usize,
    name_bytes: usize,
    taken_bytes: u64,
    buffer: Vec<u8>,
    coming: Option<Coming>,
    error: Option<WorkspaceError>,
    said: Vec<u8>,
    said_bytes: u64,
}

fn malformed(why: &'static str) -> WorkspaceError {
    WorkspaceError::Guest { step: "telling what changed", said: why.to_owned() }
}

impl<'a> Incoming<'a> {
    /// The answer to `request`. Small files become `objects`, large ones files in `spool`.
    pub fn new(request: &'a Request, objects: &'a Objects, spool: PathBuf) -> Self {
        let paths =
            request.trees.iter().map(|tree| tree.files.iter().map(|file| file.path.as_slice()).collect());
        let ids = request.trees.iter().flat_map(|tree| tree.files.iter().map(|file| file.id.as_slice()));
        Self {
            request,
            sent: paths.collect(),
            ids: ids.collect(),
            objects,
            spool,
            spooled: 0,
            told: Told::default(),
            ended: false,
            events: 0,
            name_bytes: 0,
            taken_bytes: 0,
            buffer: Vec::new(),
            coming: None,
            error: None,
            said: Vec::new(),
            said_bytes: 0,
        }
    }

    /// What has gone wrong here, or in what the guest said.
    pub fn failure(&mut self) -> Option<WorkspaceError> {
        self.error.take()
    }

    /// What was told, once the guest has ended.
    ///
    /// # Errors
    /// The answer is not whole, or no answer; or what is ours failed.
    pub fn finish(self) -> Result<Told, WorkspaceError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if !self.ended {
            let said = String::from_utf8_lossy(&self.said);
            let said = escape_controls(&said.lines().collect::<Vec<_>>().join("; "));
            let said = if said.is_empty() { "the answer is not whole".to_owned() } else { said };
            return Err(WorkspaceError::Guest { step: "looking for changes", said });
        }
        Ok(self.told)
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), WorkspaceError> {
        while !bytes.is_empty() {
            if self.coming.is_some() {
                bytes = self.content(bytes)?;
                continue;
            }
            if self.ended {
                return Err(malformed("something follows the end of the answer"));
            }
            // An event is short: it is put together byte by byte only where a piece ends in it.
            let need = Event::length(&self.buffer).map_err(malformed)?.unwrap_or(4);
            let count = (need - self.buffer.len()).min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if Event::length(&self.buffer).map_err(malformed)? == Some(self.buffer.len()) {
                let event = Event::decode(&self.buffer).ok_or_else(|| malformed("an event is none"))?;
                self.buffer.clear();
                self.event(event)?;
            }
        }
        Ok(())
    }

    fn place(&mut self, tree: u16, path: Vec<u8>) -> Result<Place, WorkspaceError> {
        self.events += 1;
        self.name_bytes += path.len();
        if usize::from(tree) >= self.request.trees.len() {
            return Err(malformed("there is no such submodule"));
        }
        if self.events > MAX_EVENTS || self.name_bytes > MAX_NAMES {
            return Err(malformed("there are too many changes"));
        }
        Ok((tree, path))
    }

    fn event(&mut self, event: Event) -> Result<(), WorkspaceError> {
        match event {
            Event::File { tree, path, mode, content } => {
                let place = self.place(tree, path)?;
                self.file(place, mode, content)
            }
            Event::Gone { tree, path } => {
                let place = self.place(tree, path)?;
                if !self.sent[usize::from(tree)].contains(place.1.as_slice()) {
                    return Err(malformed("a file is gone that was never sent"));
                }
                self.told.gone.insert(place);
                Ok(())
            }
            Event::Lost { tree, path, reason } => {
                let place = self.place(tree, path)?;
                self.told.lost.push((place, String::from_utf8_lossy(&reason).into_owned()));
                Ok(())
            }
            Event::LeftOut { tree, path, reason } => {
                let place = self.place(tree, path)?;
                self.told.left_out.push((place, String::from_utf8_lossy(&reason).into_owned()));
                Ok(())
            }
            Event::End { ignored } => {
                (self.ended, self.told.ignored) = (true, ignored);
                Ok(())
            }
        }
    }

    fn file(&mut self, place: Place, mode: u32, content: Content) -> Result<(), WorkspaceError> {
        if ![MODE_FILE, MODE_LINK, MODE_PROGRAM].contains(&mode) {
            return Err(malformed("a file has a mode that git does not know"));
        }
        let fine = |part: &[u8]| !matches!(part, b"" | b"." | b".." | b".git") && !part.contains(&0);
        if !place.1.split(|byte| *byte == b'/').all(fine) {
            return Err(malformed("a file has a path that leads elsewhere"));
        }
        match content {
            Content::Known(id) if self.ids.contains(id.as_slice()) => {
                self.told.files.insert(place, NewFile { mode, id, large: None });
                Ok(())
            }
            Content::Known(_) => Err(malformed("a file is called one that was never sent")),
            Content::Follows(size) => {
                self.taken_bytes = self.taken_bytes.saturating_add(size);
                if size > self.request.max_file_bytes
                    || self.taken_bytes > self.request.max_bytes.saturating_mul(4)
                {
                    return Err(malformed("more bytes come than were asked for"));
                }
                let hasher = Hasher::new(self.objects.is_sha256(), "blob", size);
                let spool = if size > LARGE {
                    self.spooled += 1;
                    let path = self.spool.join(self.spooled.to_string());
                    let file = File::create(&path).map_err(WorkspaceError::io("write", &path))?;
                    Some((path, file))
                } else {
                    None
                };
                self.coming = Some(Coming { place, mode, left: size, hasher, held: Vec::new(), spool });
                Ok(())
            }
        }
    }

    /// Takes bytes of the file that is coming, and gives those that are none of it.
    fn content<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], WorkspaceError> {
        let Some(coming) = &mut self.coming else { return Ok(bytes) };
        let count = usize::try_from(coming.left).unwrap_or(usize::MAX).min(bytes.len());
        let (own, rest) = bytes.split_at(count);
        coming.hasher.update(own);
        match &mut coming.spool {
            Some((path, file)) => file.write_all(own).map_err(WorkspaceError::io("write", &*path))?,
            None => coming.held.extend_from_slice(own),
        }
        coming.left -= count as u64;
        let Some((verdict, rest)) = rest.split_first().filter(|_| coming.left == 0) else { return Ok(rest) };
        let coming = self.coming.take().expect("it was there");
        if *verdict == 1 {
            let (id, large) = match coming.spool {
                Some((path, _)) => (coming.hasher.finish(), Some(path)),
                None if self.request.trees[usize::from(coming.place.0)].names_only => {
                    (coming.hasher.finish(), None)
                }
                None => (self.objects.write("blob", &coming.held)?, None),
            };
            self.told.files.insert(coming.place, NewFile { mode: coming.mode, id, large });
        }
        Ok(rest)
    }
}

impl Output for Incoming<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take(bytes).map_err(|error| {
            self.error = Some(error);
            io::Error::other("refused")
        })
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.extend_from_slice(bytes);
        let excess = self.said.len().saturating_sub(4096);
        self.said.drain(..excess);
        self.said_bytes += bytes.len() as u64;
        if self.said_bytes > MAX_SAID {
            return Err(io::Error::other("the guest prints errors without end"));
        }
        Ok(())
    }
}

/// Whether git refuses to write a file at `path`, and so a patch that names it; why.
pub fn refused(path: &[u8], mode: u32) -> Option<&'static str> {
    if !patch::is_inside(path) {
        return Some(
            "nothing of a guest's goes to a place of this name: git, or another tool, keeps its own there",
        );
    }
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let is_modules = name.eq_ignore_ascii_case(b".gitmodules") || is_short_name(name, b"gitmod");
    (mode == MODE_LINK && is_modules).then_some("git takes no symbolic link of this name")
}

/// Whether `name` may be one that a filesystem of Windows gives to .gitmodules (path.c, is_ntfs_dot_generic).
fn is_short_name(name: &[u8], start: &[u8]) -> bool {
    name.len() >= 8 && name[..6].eq_ignore_ascii_case(start) && name[6] == b'~'
}
