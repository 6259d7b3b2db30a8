//! `banger vm logs`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use banger_contract::error::escape_controls;
use banger_contract::{Coded, ErrorCode};
use banger_state::dir::VmDir;
use banger_vmm::marks::offset_since;
use clap::Args;
use thiserror::Error;

use crate::context::{Context, Result, arrived};
use crate::lifecycle;
use crate::options::spec::parse_seconds;

#[derive(Debug, Args)]
pub struct Logs {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// What the guest's console printed (the default)
    #[arg(long, group = "log")]
    pub console: bool,
    /// What the VMM itself printed
    #[arg(long, group = "log")]
    pub vmm: bool,
    /// What was asked of the guest's agent
    #[arg(long, group = "log")]
    pub agent: bool,
    /// Only what was written since this time, such as 10m (ago) or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<SystemTime>,
    /// Go on with what comes, until the VM ends
    #[arg(long, short)]
    pub follow: bool,
}

/// How long `--follow` waits between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// How much is read at once; a longer line is printed in pieces.
const CHUNK: usize = 64 << 10;

/// A log that cannot be shown.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("VM {0} has no log yet")]
    None(String),
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Coded for LogError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None(_) => ErrorCode::NotFound,
            Self::Read { .. } => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(self, Self::None(_)).then(|| "it has one once it was started".into())
    }
}

/// A log that is read as it grows.
struct Reader {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, vm: &str) -> Result<Self> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => LogError::None(vm.to_owned()),
            _ => LogError::Read { path: path.to_owned(), source },
        })?;
        Ok(Self { path: path.to_owned(), file, line: Vec::new() })
    }

    /// Prints what is there, every line escaped: the guest writes the console. `false` where nobody reads.
    fn print(&mut self) -> Result<bool> {
        let read = |source| LogError::Read { path: self.path.clone(), source };
        let mut stdout = io::stdout().lock();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = self.file.read(&mut chunk).map_err(read)?;
            if count == 0 {
                return arrived(stdout.flush());
            }
            for piece in chunk[..count].split_inclusive(|b| *b == b'\n') {
                self.line.extend_from_slice(piece);
                let whole = piece.ends_with(b"\n") || self.line.len() >= CHUNK;
                if whole && !arrived(print_line(&mut stdout, &std::mem::take(&mut self.line)))? {
                    return Ok(false);
                }
            }
        }
    }

    /// What is left without a newline.
    fn finish(&mut self) -> Result<()> {
        if !self.line.is_empty() {
            arrived(print_line(&mut io::stdout().lock(), &std::mem::take(&mut self.line)))?;
        }
        Ok(())
    }

    /// Begins at `offset`.
    fn skip_to(&mut self, offset: u64) {
        let end = self.file.metadata().map_or(0, |metadata| metadata.size());
        drop(self.file.seek(SeekFrom::Start(offset.min(end))));
    }

    /// The supervisor cuts a log that grows too large: what follows stands at another place then.
    fn follow_cut(&mut self) {
        let place = self.file.stream_position().unwrap_or(0);
        if self.file.metadata().is_ok_and(|metadata| metadata.size() < place) {
            drop(self.file.seek(SeekFrom::End(0)));
        }
    }
}

fn print_line(out: &mut impl Write, line: &[u8]) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    writeln!(out, "{}", escape_controls(text.trim_end_matches(['\r', '\n'])))
}

/// A time: how long ago, or RFC 3339.
fn parse_since(text: &str) -> std::result::Result<SystemTime, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.into());
    }
    let ago = parse_seconds(text).map_err(|_| "write it as 90s, 2h or 2026-01-31T12:00:00Z")?;
    Ok(SystemTime::now().checked_sub(Duration::from_secs(ago)).unwrap_or(SystemTime::UNIX_EPOCH))
}

pub fn logs(context: &Context, args: &Logs) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let dir = VmDir::at(&row.vm.paths.dir);
    let path = match args {
        Logs { vmm: true, .. } => dir.vmm_log(),
        Logs { agent: true, .. } => dir.agent_log(),
        _ => dir.console_log(),
    };
    let mut reader = Reader::open(&path, row.vm.name.as_str())?;
    if let Some(since) = args.since {
        reader.skip_to(offset_since(&path, since));
    } else if !args.follow && reader.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
        let whose = match args {
            Logs { vmm: true, .. } => "its VMM",
            Logs { agent: true, .. } => "its agent",
            _ => "its guest, whose kernel is told to be quiet,",
        };
        context.say(format!("{} has an empty log: {whose} has printed nothing", row.vm.name));
    }
    loop {
        // Asked before reading: what is written until its end is read after it.
        let runs = args.follow && lifecycle::runs(&row.vm);
        if !reader.print()? {
            return Ok(ExitCode::FAILURE);
        }
        if !runs || context.interrupts()?.pause(INTERVAL).is_some() {
            reader.finish()?;
            return Ok(ExitCode::SUCCESS);
        }
        reader.follow_cut();
    }
}
