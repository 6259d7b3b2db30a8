//! What changed in a workspace: every file on the disk is compared with what was sent. git has no part in it: its index, its flags and its
//! configuration are the guest's, and may say anything. See [`banger_protocol::changes`].

mod answer;
mod cache;
mod digest;
mod disk;
mod rules;
mod tracked;
mod walk;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use crate::error::{Context, Error};
use crate::sys;
use answer::Answer;
use banger_protocol::changes::{Request, SENT};
use banger_protocol::guest::mark_start;
pub use cache::Cache;
pub use digest::Id;
pub use disk::{mode_of, read_file};

/// How long a request may be, bytes.
const MAX_REQUEST: u64 = 1 << 30;
/// The file that says that a copy is being put in its place, from the root of the workspace.
const CUT: &str = ".git/banger-sync/go";

/// `changes --nonce N [--remove-self] -- PATH`. `None` where the arguments are wrong.
pub fn main(args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let (nonce, path) = parse(args)?;
    let nonce = nonce?;
    let say = |verdict: &str| {
        let line = format!("{}{verdict} {}\n", mark_start(&nonce), std::process::id());
        // Nobody may be there to read it.
        drop(io::stdout().lock().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()));
    };
    if !fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
        say("missing");
        return Some(ExitCode::SUCCESS);
    }
    let prepared = std::env::set_current_dir(&path)
        .context(|| format!("cannot enter {}", Path::new(&path).display()))
        .and_then(|()| request(io::stdin().lock()));
    let request = match prepared {
        Ok(request) => request,
        Err(error) => {
            complain(&error);
            say("failed");
            return Some(ExitCode::FAILURE);
        }
    };
    if Path::new(CUT).exists() {
        say("cut");
        return Some(ExitCode::SUCCESS);
    }
    say("ready");
    sys::allow_many_descriptors();
    let mut answer = Answer::new(io::stdout().lock());
    let known = Cache::load(path.as_bytes());
    let told = walk::compare(&request, &known, &mut answer).and_then(|ignored| answer.end(ignored));
    match told {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            complain(&error);
            Some(ExitCode::FAILURE)
        }
    }
}

/// `note -- PATH`. `None` where the arguments are wrong.
pub fn note(args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let (_, path) = parse(args)?;
    let noted = std::env::set_current_dir(&path)
        .context(|| format!("cannot enter {}", Path::new(&path).display()))
        .and_then(|()| request(fs::File::open(SENT).context(|| format!("cannot open {SENT}"))?))
        .map(|request| Cache::of(&request));
    let removed = fs::remove_file(SENT).context(|| format!("cannot remove {SENT}"));
    // Without it everything is read the next time; that is all.
    let kept = noted.map(|known| known.save(path.as_bytes()));
    match kept.and(removed) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            complain(&error);
            Some(ExitCode::FAILURE)
        }
    }
}

/// The nonce, if one is given, and the workspace.
fn parse(mut args: impl Iterator<Item = OsString>) -> Option<(Option<String>, OsString)> {
    let mut nonce = None;
    loop {
        match args.next()?.to_str()? {
            "--" => break,
            "--nonce" => nonce = Some(args.next()?.into_string().ok()?),
            "--remove-self" => remove_self(),
            _ => return None,
        }
    }
    let path = args.next()?;
    args.next().is_none().then_some((nonce, path))
}

/// Removes this program, which was brought along for one call, and its directory.
fn remove_self() {
    let Ok(own) = std::env::current_exe() else { return };
    drop(fs::remove_file(&own));
    if let Some(directory) = own.parent() {
        drop(fs::remove_dir(directory));
    }
}

fn request(from: impl Read) -> Result<Request, Error> {
    let what = || "the host's request is not whole".to_owned();
    let mut bytes = Vec::new();
    from.take(MAX_REQUEST).read_to_end(&mut bytes).context(what)?;
    Request::decode(&bytes)
        .ok_or_else(|| Error::new("the host's request is not whole, or of another version of banger"))
}

fn complain(error: &Error) {
    drop(io::stderr().write_all(format!("{error}\n").as_bytes()));
}

/// What has become known of files since the last copy: those at `placed`, with the ids that they have.
pub fn renote(workspace: &std::ffi::OsStr, placed: &[banger_protocol::resync::Known], gone: &[Vec<u8>]) {
    let mut known = Cache::load(workspace.as_bytes());
    known.replace(placed, gone);
    known.save(workspace.as_bytes());
}
