//! The second copy of a checkout: what differs is received beside the workspace and compared with it before anything in it is
//! written. Then a mark is set, and from there on whatever is cut off is completed by the next copy: each step can be done twice.
//!
//! It is done here, and not by a script, since each process costs an emulated guest some 20 ms. git is asked only where git's own
//! files must change; whether a file is as it was given its bytes tell.

mod below;
mod compare;
mod git;
mod place;
mod receive;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};

use crate::changes::Cache;
use crate::error::{Context, Error};
use banger_protocol::guest::mark_start;
use banger_protocol::resync::{MARK, PLACE, Plan, REPLACED};
use below::Below;
pub use below::kind;

/// The ref that holds what was sent.
const PREPARED_REF: &str = "refs/banger/prepared";

/// What the host asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    nonce: String,
    /// The prepared commit that what comes is a difference to; without one nothing comes.
    from: Option<String>,
    path: OsString,
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Option<Call> {
    let mut call = Call::default();
    loop {
        match args.next()?.to_str()? {
            "--" => break,
            "--nonce" => call.nonce = args.next()?.into_string().ok()?,
            "--from" => call.from = Some(args.next()?.into_string().ok()?),
            _ => return None,
        }
    }
    call.path = args.next()?;
    (!call.nonce.is_empty() && args.next().is_none()).then_some(call)
}

/// Tells the host how it goes. Nobody may be there to read it, which is no reason to stop halfway.
struct Host {
    nonce: String,
    is_told: bool,
}

impl Host {
    fn verdict(&mut self, verdict: &str) {
        self.is_told = true;
        self.write(format!("{}{verdict} {}\n", mark_start(&self.nonce), std::process::id()).as_bytes());
    }

    fn words<'a>(&self, words: impl IntoIterator<Item = &'a [u8]>) {
        let end = [b"end".as_slice()];
        let words = words.into_iter().chain(end).flat_map(|word| [word, b"\0"].concat());
        self.write(&words.collect::<Vec<_>>());
    }

    fn write(&self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        drop(out.write_all(bytes).and_then(|()| out.flush()));
    }
}

/// `resync`. `None` where the arguments are wrong.
pub fn main(args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let call = parse(args)?;
    umask(Mode::from_bits_truncate(0o022));
    let mut host = Host { nonce: call.nonce.clone(), is_told: false };
    let Err(error) = run(&call, &mut host) else { return Some(ExitCode::SUCCESS) };
    drop(io::stderr().write_all(format!("{error}\n").as_bytes()));
    if !host.is_told {
        host.verdict("failed");
    }
    Some(ExitCode::FAILURE)
}

fn run(call: &Call, host: &mut Host) -> Result<(), Error> {
    let is_git = || fs::metadata(".git/HEAD").is_ok_and(|metadata| metadata.is_file());
    if std::env::set_current_dir(&call.path).is_err() || !is_git() {
        host.verdict("missing");
        return Ok(());
    }
    let work = Below::open(".").context(|| "cannot open the workspace".into())?;
    if place(MARK).exists() {
        place::drop_stale_locks()?;
        place::finish(&work, &call.path)?;
    }
    clear()?;
    let now = git::commit_of(PREPARED_REF)?;
    if call.from.as_deref() != Some(&now) {
        host.verdict("ready");
        host.words([b"other", now.as_bytes()]);
        return Ok(());
    }
    let done = take(&work, &call.path, host);
    if done.is_err() && !place(MARK).exists() {
        // The first error is the one to tell.
        drop(clear());
    }
    done
}

/// Where something of what was received is, from the root of the workspace.
fn place(name: &str) -> std::path::PathBuf {
    std::path::Path::new(PLACE).join(name)
}

/// Removes what was received and is not needed.
fn clear() -> Result<(), Error> {
    match fs::remove_dir_all(PLACE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context(|| format!("cannot remove {PLACE}")),
    }
}

/// Receives, compares, and puts everything in its place, or names what is in the way.
fn take(work: &Below, workspace: &OsStr, host: &mut Host) -> Result<(), Error> {
    let mut plan = receive::receive(io::stdin().lock())?;
    host.verdict("ready");
    if place(banger_protocol::resync::FILL).exists() {
        git::make_files(&plan)?;
    }
    let found = compare::compare(work, &plan, &Cache::load(workspace.as_bytes()))?;
    if !found.displaced.is_empty() && !plan.force {
        let paths = found.displaced.iter().map(Vec::as_slice);
        host.words([&b"conflict"[..]].into_iter().chain(paths));
        return clear();
    }
    let mut kept = Vec::new();
    if plan.force {
        // HEAD may name what is not there.
        let own_head = found.own_head.filter(|commit| git::has(commit));
        kept.extend(own_head.is_some().then_some(REPLACED.as_bytes()));
        let replaced = own_head.map(|commit| (b"refs/banger/replaced".to_vec(), commit));
        plan.refs.splice(0..0, replaced);
    } else {
        kept.extend(found.is_head_elsewhere.then_some(&b"HEAD"[..]));
        kept.extend((!found.staged_otherwise.is_empty()).then_some(&b"index"[..]));
        keep_own(&mut plan, &found)?;
    }
    plan.displaced = found.displaced;
    plan.whole_index = found.takes_whole_index || plan.force;
    place::mark(&plan)?;
    place::finish(work, workspace)?;
    host.words([&b"done"[..]].into_iter().chain(kept));
    Ok(())
}

/// HEAD, branches and index are the guest's own where it has changed them: the host's branch comes as that of a remote would, and of the
/// index what the guest has left alone.
fn keep_own(plan: &mut Plan, found: &compare::Found) -> Result<(), Error> {
    if found.is_head_elsewhere {
        for (name, _) in &mut plan.refs {
            if let Some(branch) = name.strip_prefix(b"refs/heads/") {
                *name = [b"refs/remotes/host/", branch].concat();
            }
        }
        // What the host has committed is a change to the guest's branch, and nobody has staged it there.
        plan.staged = None;
        if let Some(number) = plan.received.iter().position(|path| path == b".git/HEAD") {
            fs::remove_file(place(&number.to_string()))
                .context(|| format!("cannot remove a file of {PLACE}"))?;
        }
    }
    if let Some(staged) = plan.staged.as_mut().filter(|_| !found.staged_otherwise.is_empty()) {
        staged.leave_out(&found.staged_otherwise);
    }
    Ok(())
}

/// `bytes` as a path.
fn path(bytes: &[u8]) -> std::path::PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Option<Call> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn only_whole_calls_are_taken() {
        let whole = call(&["--nonce", "ab", "--from", "12", "--", "/root/x"]).unwrap();
        assert_eq!(whole, Call { nonce: "ab".into(), from: Some("12".into()), path: "/root/x".into() });
        assert_eq!(call(&["--nonce", "ab", "--", "x"]).unwrap().from, None);
        for bad in [
            &["--", "x"][..],
            &["--nonce", "ab", "--"],
            &["--nonce", "ab", "x"],
            &["--nonce", "--", "x"],
            &["--nonce", "ab", "--", "x", "y"],
            &[],
        ] {
            assert_eq!(call(bad), None, "{bad:?}");
        }
    }
}
