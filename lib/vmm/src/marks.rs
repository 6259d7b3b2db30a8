//! When what of a log was written: `<log>.times` beside it, so that `--since` has a place to begin at. A line is a time and the
//! offset at which what came then begins; there are few of them, whatever the log does.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The least between two marks, milliseconds.
const STEP_MS: u64 = 1000;
/// How many marks are kept; where there are more the older half is forgotten.
const MAX_MARKS: usize = 512;
/// The largest file that is read, bytes.
const MAX_FILE: u64 = 64 << 10;

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// Since 1970.
    at_ms: u64,
    offset: u64,
}

/// The marks of one log.
#[derive(Debug)]
pub struct Marks {
    path: PathBuf,
    marks: Vec<Mark>,
    file: Option<File>,
}

/// Where the times of `log` stand.
fn beside(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".times");
    PathBuf::from(name)
}

fn ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Marks {
    /// Those of a new log. What cannot be written costs the marks, never the log.
    pub fn create(log: &Path) -> Self {
        let mut marks = Self { path: beside(log), marks: Vec::new(), file: None };
        marks.rewrite();
        marks
    }

    /// Notes that what is written at `offset` comes now.
    pub fn note(&mut self, offset: u64) {
        let at_ms = ms(SystemTime::now());
        if self.marks.last().is_some_and(|last| at_ms < last.at_ms.saturating_add(STEP_MS)) {
            return;
        }
        let mark = Mark { at_ms, offset };
        self.marks.push(mark);
        if self.marks.len() > MAX_MARKS {
            self.marks.drain(..MAX_MARKS / 2);
            self.rewrite();
        } else if let Some(file) = &mut self.file {
            drop(file.write_all(line(mark).as_bytes()));
        }
    }

    /// The log has been shortened: what stood between `head` and `from` is gone, and `from` stands at `to` now.
    pub fn moved(&mut self, head: u64, from: u64, to: u64) {
        for mark in &mut self.marks {
            mark.offset = match mark.offset {
                offset if offset >= from => offset - from + to,
                offset => offset.min(head),
            };
        }
        self.rewrite();
    }

    fn rewrite(&mut self) {
        let mut text = String::new();
        self.marks.iter().for_each(|mark| text.push_str(&line(*mark)));
        let write = || -> io::Result<File> {
            let mut file = new_file(&self.path)?;
            file.write_all(text.as_bytes())?;
            Ok(file)
        };
        self.file = write().ok();
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn line(mark: Mark) -> String {
    let mut text = String::new();
    let Mark { at_ms, offset } = mark;
    writeln!(text, "{at_ms} {offset}").expect("a string takes everything");
    text
}

/// Where in `log` to begin, so that everything written since `since` is read, and at most a second of what was written before; 0 where
/// nothing is known of that time, [`u64::MAX`] where nothing was written since.
pub fn offset_since(log: &Path, since: SystemTime) -> u64 {
    let path = beside(log);
    let small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_FILE);
    let text = if small { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
    let marks = text.lines().filter_map(|line| {
        let (at, offset) = line.split_once(' ')?;
        Some((at.parse::<u64>().ok()?, offset.parse::<u64>().ok()?))
    });
    let marks: Vec<(u64, u64)> = marks.collect();
    let since = ms(since);
    if marks.first().is_none_or(|(at, _)| since < *at) {
        return 0;
    }
    // What belongs to a mark was written before the next could be made.
    let begin = marks.iter().find(|(at, _)| at.saturating_add(STEP_MS) > since);
    begin.map_or(u64::MAX, |(_, offset)| *offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_from_where_the_time_began() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("log");
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(offset_since(&log, at(5)), 0, "nothing is known");
        fs::write(beside(&log), "10000 0\n20000 100\n30000 200\n").unwrap();
        let places = [(0, 0), (10, 0), (15, 100), (20, 100), (21, 200), (29, 200), (30, 200), (31, u64::MAX)];
        for (since, offset) in places {
            assert_eq!(offset_since(&log, at(since)), offset, "{since}");
        }
        fs::write(beside(&log), "nonsense\n10000 x\n20000 7\n").unwrap();
        assert_eq!(offset_since(&log, at(20)), 7);
    }

    #[test]
    fn marks_are_few_and_move_with_the_log() {
        let temp = tempfile::tempdir().unwrap();
        let mut marks = Marks::create(&temp.path().join("log"));
        marks.note(5);
        marks.note(6);
        assert_eq!(marks.marks.len(), 1, "one a second");
        marks.marks = (0..MAX_MARKS as u64).map(|n| Mark { at_ms: n, offset: n * 10 }).collect();
        marks.note(99_999);
        assert!(marks.marks.len() <= MAX_MARKS / 2 + 1);
        marks.moved(100, 4000, 150);
        let offsets: Vec<u64> = marks.marks.iter().map(|mark| mark.offset).collect();
        assert!(offsets.is_sorted(), "{offsets:?}");
        assert_eq!((offsets[0], *offsets.last().unwrap()), (100, 96_149));
        assert!(fs::metadata(beside(&temp.path().join("log"))).unwrap().len() < MAX_FILE);
    }
}
