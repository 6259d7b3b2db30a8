//! What files were to the filesystem when their bytes were known: kept outside of the workspace, so that nothing that is done to the
//! workspace or to its repository changes it. It saves reading, and is never believed where anything speaks against it: a file without an
//! entry is read.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstatat};
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use super::disk::read_file;
use banger_protocol::changes::{Request, VERSION};
use banger_protocol::words::{Reader, Writer};

/// Where it is kept.
const DIRECTORY: &str = "/var/lib/banger-guest";
/// The largest that is read, bytes.
const MAX_CACHE: u64 = 1 << 30;
/// Names this boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Within this time of an entry's making a change of its file may leave the change time as it was, nanoseconds: several ticks of the
/// slowest clock that the kernel is built with.
const TICK_NS: i128 = 50_000_000;
/// From which step of the clock on nothing is believed that was noted before it, nanoseconds.
const STEP_NS: i128 = 200_000_000;

/// What a file was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    inode: u64,
    ctime: (i64, i64),
    size: u64,
    id: Vec<u8>,
    /// When that was noted, nanoseconds since 1970.
    noted_ns: i128,
}

/// What is known of files.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Vec<u8>, Entry>,
    /// Whether the clock was set since: then no time says anything.
    is_void: bool,
}

fn now_ns(clock: ClockId) -> i128 {
    clock_gettime(clock)
        .map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

/// What tells this boot, and how far the clock is from the time since it.
fn clock() -> (Vec<u8>, i128) {
    let boot = fs::read(BOOT_ID).unwrap_or_default();
    (boot, now_ns(ClockId::CLOCK_REALTIME) - now_ns(ClockId::CLOCK_BOOTTIME))
}

/// Where that of a workspace is kept.
fn place(workspace: &[u8]) -> PathBuf {
    let name: String = Sha256::digest(workspace).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(DIRECTORY).join(name)
}

fn look(path: &[u8]) -> Option<FileStat> {
    fstatat(nix::fcntl::AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

impl Entry {
    fn of(stat: &FileStat, id: Vec<u8>, noted_ns: i128) -> Self {
        Self {
            inode: stat.st_ino,
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            size: stat.st_size.unsigned_abs(),
            id,
            noted_ns,
        }
    }

    /// Whether a change right after the noting would show.
    fn is_settled(&self) -> bool {
        let changed = i128::from(self.ctime.0) * 1_000_000_000 + i128::from(self.ctime.1);
        changed + TICK_NS < self.noted_ns
    }
}

impl Cache {
    /// What the files of `request` are now, from the workspace, in which they have just been put.
    pub fn of(request: &Request) -> Self {
        let now = now_ns(ClockId::CLOCK_REALTIME);
        let mut entries = HashMap::new();
        for tree in &request.trees {
            for file in &tree.files {
                let path = joined(&tree.prefix, &file.path);
                if let Some(stat) = look(&path) {
                    entries.insert(path, Entry::of(&stat, file.id.clone(), now));
                }
            }
        }
        Self { entries, is_void: false }
    }

    /// Takes over files that were replaced, and forgets those that are gone.
    pub fn replace(&mut self, placed: &[banger_protocol::resync::Known], gone: &[Vec<u8>]) {
        let now = now_ns(ClockId::CLOCK_REALTIME);
        if self.is_void {
            *self = Self::default();
        }
        gone.iter().for_each(|path| drop(self.entries.remove(path)));
        for banger_protocol::resync::Known { path, id, .. } in placed {
            match look(path) {
                Some(stat) => drop(self.entries.insert(path.clone(), Entry::of(&stat, id.clone(), now))),
                None => drop(self.entries.remove(path)),
            }
        }
    }

    /// Of the workspace at the path `workspace`; nothing where there is none, or one of another version.
    pub fn load(workspace: &[u8]) -> Self {
        let bytes = read_file(&place(workspace), MAX_CACHE).unwrap_or_default();
        Self::decode(&bytes).unwrap_or_default()
    }

    /// Keeps it. Where that fails nothing is kept, and everything is read the next time.
    pub fn save(&self, workspace: &[u8]) {
        let place = place(workspace);
        let fresh = place.with_extension("new");
        let written = || -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY)?;
            drop(fs::remove_file(&fresh));
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            io::Write::write_all(&mut file, &self.encode())?;
            fs::rename(&fresh, &place)
        };
        if written().is_err() {
            drop(fs::remove_file(&fresh));
            drop(fs::remove_file(&place));
        }
    }

    fn encode(&self) -> Vec<u8> {
        let (boot, offset) = clock();
        let mut out = Writer::default();
        out.number(VERSION);
        out.word(&boot);
        out.word(offset.to_string().as_bytes());
        let entries: Vec<_> = self.entries.iter().collect();
        out.list(&entries, |out, (path, entry)| {
            out.word(path);
            let numbers = [
                i128::from(entry.inode),
                entry.ctime.0.into(),
                entry.ctime.1.into(),
                entry.size.into(),
                entry.noted_ns,
            ];
            numbers.iter().for_each(|number| out.word(number.to_string().as_bytes()));
            out.word(&entry.id);
        });
        out.0
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.number::<usize>()? != VERSION {
            return None;
        }
        let (boot, offset) = (from.bytes()?, from.number::<i128>()?);
        let entry = |from: &mut Reader<'_>| {
            let path = from.bytes()?;
            let (inode, ctime) = (from.number()?, (from.number()?, from.number()?));
            let (size, noted_ns, id) = (from.number()?, from.number()?, from.bytes()?);
            Some((path, Entry { inode, ctime, size, id, noted_ns }))
        };
        let entries = from.list(entry)?.into_iter().collect();
        let now = clock();
        let is_void = now.0 == boot && (now.1 - offset).abs() > STEP_NS;
        from.0.is_empty().then_some(Self { entries, is_void })
    }

    /// Whether the file at `path`, which is `stat` now, certainly has the bytes with the id `id`.
    pub fn is_same(&self, path: &[u8], stat: &FileStat, id: &[u8]) -> bool {
        let is_same = |entry: &Entry| {
            entry.id == id
                && entry.is_settled()
                && *entry == Entry::of(stat, entry.id.clone(), entry.noted_ns)
        };
        !self.is_void && self.entries.get(path).is_some_and(is_same)
    }

    /// Whether the file at `path` certainly has other bytes than those with the id `id`, by its size.
    pub fn is_other(&self, path: &[u8], stat: &FileStat, id: &[u8]) -> bool {
        self.entries
            .get(path)
            .is_some_and(|entry| entry.id == id && entry.size != stat.st_size.unsigned_abs())
    }
}

/// The path in the workspace of what is at `path` in the tree at `prefix`.
pub fn joined(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { path.to_vec() } else { [prefix, b"/", path].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_kept_and_believed_only_where_nothing_speaks_against_it() {
        let root = std::env::temp_dir().join(format!("banger-guest-known-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let file = root.join("a");
        fs::write(&file, "one").unwrap();
        let path = std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()).to_vec();
        let stat = look(&path).unwrap();
        let mut known = Cache::default();
        known
            .replace(&[banger_protocol::resync::Known { path: path.clone(), mode: 0, id: vec![1; 20] }], &[]);
        // So soon after the change nothing is certain.
        assert!(!known.is_same(&path, &stat, &[1; 20]));
        known.entries.get_mut(&path).unwrap().noted_ns += 10 * TICK_NS;
        let known = Cache::decode(&known.encode()).unwrap();
        assert!(known.is_same(&path, &stat, &[1; 20]));
        assert!(!known.is_same(&path, &stat, &[2; 20]));
        assert!(
            !Cache { is_void: true, ..Cache::decode(&known.encode()).unwrap() }
                .is_same(&path, &stat, &[1; 20])
        );
        let mut other = stat;
        other.st_ctime_nsec ^= 1;
        assert!(!known.is_same(&path, &other, &[1; 20]));
        let mut larger = stat;
        larger.st_size = 4;
        assert!(known.is_other(&path, &larger, &[1; 20]) && !known.is_other(&path, &stat, &[1; 20]));
        assert!(Cache::decode(b"").is_none() && Cache::decode(&known.encode()[1..]).is_none());
        fs::remove_dir_all(root).unwrap();
    }
}
