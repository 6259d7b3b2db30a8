//! git, where its own files must change or its own eyes are needed. Nothing of the guest's hooks or helpers runs.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::changes::read_file;
use crate::error::{Context, Error};
use banger_protocol::resync::{FILL, Plan, Staged, TREE};

/// The largest file of a ref that is read, bytes.
const MAX_REF: u64 = 16 << 10;
/// Settings that win over the guest's own.
const SETTINGS: [&str; 4] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.splitIndex=false",
    "diff.ignoreSubmodules=all",
];

fn git() -> Command {
    #[expect(clippy::disallowed_methods, reason = "the guest has no deadlines of ours: the host has")]
    let mut git = Command::new("git");
    git.args(SETTINGS.iter().flat_map(|setting| ["-c", setting])).arg("--literal-pathspecs");
    git
}

/// Runs it on `input`, and gives what it says and whether it succeeds.
fn output(mut git: Command, input: Option<&[u8]>) -> Result<(Vec<u8>, bool), Error> {
    let what = || "cannot run git".to_owned();
    git.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = git.stdout(Stdio::piped()).spawn().context(what)?;
    let pipe = child.stdin.take();
    let output = std::thread::scope(|scope| {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // A git that does not read on says why itself.
            scope.spawn(move || drop(pipe.write_all(input)));
        }
        child.wait_with_output()
    });
    let output = output.context(what)?;
    Ok((output.stdout, output.status.success()))
}

fn run_command(git: Command, input: Option<&[u8]>) -> Result<Vec<u8>, Error> {
    let verb =
        git.get_args().skip(2 * SETTINGS.len() + 1).map(OsStr::to_string_lossy).find(|w| !w.starts_with('-'));
    let verb = verb.unwrap_or_default().into_owned();
    match output(git, input)? {
        (said, true) => Ok(said),
        _ => Err(Error::new(format!("git {verb} failed"))),
    }
}

/// Runs git with `args`; it must succeed.
pub fn run<const N: usize>(args: [&str; N], input: Option<&[u8]>) -> Result<Vec<u8>, Error> {
    let mut git = git();
    git.args(args);
    run_command(git, input)
}

/// The commit that a ref of the guest's names; empty where it names none.
pub fn commit_of(name: &str) -> Result<String, Error> {
    let is_id =
        |text: &str| matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let file = read_file(Path::new(&format!(".git/{name}")), MAX_REF).unwrap_or_default();
    let text = String::from_utf8_lossy(&file);
    if is_id(text.trim_end()) {
        return Ok(text.trim_end().to_owned());
    }
    let mut git = git();
    git.args(["rev-parse", "-q", "--verify", name]);
    let (said, _) = output(git, None)?;
    Ok(String::from_utf8_lossy(&said).trim_end().to_owned())
}

/// Whether the object is there.
pub fn has(id: &str) -> bool {
    let mut git = git();
    git.args(["cat-file", "-e", id]);
    output(git, None).is_ok_and(|(_, exists)| exists)
}

/// Changes the entries of the guest's index.
pub fn stage(staged: &Staged) -> Result<(), Error> {
    if !staged.info.is_empty() {
        run(["update-index", "-z", "--index-info"], Some(&staged.info))?;
    }
    for (option, paths) in staged.flags.iter().filter(|(_, paths)| !paths.is_empty()) {
        run(["update-index", "-z", &format!("--{option}"), "--stdin"], Some(paths))?;
    }
    Ok(())
}

/// Has refs name what they are to name; but for those whose objects the guest has lost.
pub fn update_refs(refs: &[(Vec<u8>, String)]) -> Result<(), Error> {
    if refs.is_empty() {
        return Ok(());
    }
    // A ref's name holds no space and no control character (git-check-ref-format(1)).
    let line =
        |(name, object): &(Vec<u8>, String)| [b"update ", &name[..], b" ", object.as_bytes(), b"\n"].concat();
    let update = |refs: &[(Vec<u8>, String)]| {
        let lines: Vec<u8> = refs.iter().flat_map(line).collect();
        run(["update-ref", "--stdin"], Some(&lines)).map(drop)
    };
    let Err(error) = update(refs) else { return Ok(()) };
    let there: Vec<_> = refs.iter().filter(|(_, object)| has(object)).cloned().collect();
    match there.len() {
        0 => Ok(()),
        count if count < refs.len() => update(&there),
        _ => Err(error),
    }
}

/// Sets one of the repository's settings.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    run(["config", name, value], None).map(drop)
}

/// Has large files made from the objects that have come.
pub fn make_files(plan: &Plan) -> Result<(), Error> {
    let what = || "cannot make large files from their objects".to_owned();
    let tree = super::place(TREE);
    fs::create_dir_all(tree.join(".git/objects/pack")).context(what)?;
    let packs = plan.received.iter().enumerate().filter(|(_, path)| path.starts_with(b".git/objects/pack/"));
    for (number, path) in packs {
        fs::hard_link(super::place(&number.to_string()), tree.join(super::path(path))).context(what)?;
    }
    #[expect(clippy::disallowed_methods, reason = "the guest has no deadlines of ours: the host has")]
    let mut shell = Command::new("sh");
    shell.arg(format!("../{FILL}")).current_dir(&tree);
    shell.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", ".git/objects").stdin(Stdio::null()).stdout(Stdio::null());
    let made = shell.status().context(|| "cannot run sh".into())?;
    if !made.success() {
        return Err(Error::new(what()));
    }
    fs::remove_dir_all(tree.join(".git")).context(what)
}
