//! The small files of the git directory that the guest gets. Everything in it is chosen here: hooks, credentials, includes and
//! alternates of the host stay there.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checkout::{Checkout, Head};
use super::config::Writer;
use super::tags::Tag;
use super::travelling::{OF_A_BRANCH, OF_A_REMOTE, OF_A_SUBMODULE, SETTINGS, Shape};
use banger_contract::record::WorkspaceMode;
use banger_host::git;

/// The largest ignore or attributes file that travels, bytes.
const MAX_INFO_BYTES: u64 = 1 << 20;

/// Where git looks for the attributes of all repositories, as distributions build it.
const SYSTEM_ATTRIBUTES: &str = "/etc/gitattributes";
/// What a sparse checkout takes in, in the git directory.
const SPARSE: &str = "info/sparse-checkout";

/// The files, by their names in the git directory, but for the ref of the prepared commit. `worktree` is where the working tree is from there, unless it is the parent.
pub fn files(
    checkout: &Checkout,
    head: &Head,
    tags: &[Tag],
    mode: WorkspaceMode,
    worktree: Option<&Path>,
) -> Vec<(PathBuf, Vec<u8>)> {
    let upstream = head
        .upstream
        .as_ref()
        .filter(|(_, commit)| mode == WorkspaceMode::Full || head.commit.as_deref() == Some(commit.as_str()));
    let mut files = vec![
        ("HEAD".into(), head_file(head)),
        ("packed-refs".into(), packed_refs(head, upstream, tags)),
        ("config".into(), config_file(checkout, head, worktree)),
    ];
    for name in ["exclude", "attributes"] {
        files.push((Path::new("info").join(name), info(checkout, name)));
    }
    files.push((SPARSE.into(), read_small(&checkout.sparse)));
    files.push(("shallow".into(), shallow(checkout, head, mode)));
    files.retain(|(_, text)| !text.is_empty());
    files
}

/// The rules of what is ignored beside those of the `.gitignore` files: the user's own, then the repository's, which win.
pub fn rules(checkout: &Checkout) -> Vec<u8> {
    info(checkout, "exclude")
}

/// What the guest gets as `info/NAME`: the user's own file first, since what comes later wins.
fn info(checkout: &Checkout, name: &str) -> Vec<u8> {
    let (key, fallback) = match name {
        "exclude" => ("core.excludesfile", "ignore"),
        _ => ("core.attributesfile", "attributes"),
    };
    let own = checkout.config_path(key).or_else(|| xdg_dir(checkout).map(|dir| dir.join(fallback)));
    let mut text = own.map(|path| read_small(&path)).unwrap_or_default();
    text.extend(read_small(&checkout.info.join(name)));
    text
}

/// Whether anything but a `.gitattributes` file of the checkout gives attributes to files.
pub(super) fn has_attributes(checkout: &Checkout) -> bool {
    !info(checkout, "attributes").is_empty() || Path::new(SYSTEM_ATTRIBUTES).exists()
}

/// The files of those that a second copy brings along: what the checkout takes in may be less or more by then.
pub(super) fn again(checkout: &Checkout) -> Option<(PathBuf, Vec<u8>)> {
    let text = read_small(&checkout.sparse);
    (!text.is_empty()).then(|| (SPARSE.into(), text))
}

/// The settings of a sparse checkout, as `git config` takes them.
pub(super) fn sparse(checkout: &Checkout) -> Vec<(String, String)> {
    let names = ["core.sparsecheckout", "core.sparsecheckoutcone"];
    names.map(|name| (name.to_owned(), checkout.config.is_true(name).to_string())).into()
}

/// The commits whose parents do not travel.
pub fn shallow(checkout: &Checkout, head: &Head, mode: WorkspaceMode) -> Vec<u8> {
    match (&head.commit, mode) {
        (Some(commit), WorkspaceMode::Shallow) => format!("{commit}\n").into_bytes(),
        _ => std::fs::read(&checkout.shallow).unwrap_or_default(),
    }
}

/// git's own default place for a user's ignore and attributes files, which it does not print.
fn xdg_dir(checkout: &Checkout) -> Option<PathBuf> {
    // `git var` knows HOME and XDG_CONFIG_HOME; this layer does not read the environment.
    let said = checkout.git().run(["var", "GIT_CONFIG_GLOBAL"]).ok()?;
    let line = said.split(|b| *b == b'\n').find(|line| line.ends_with(b"/git/config"))?;
    Some(git::path(line).parent()?.to_owned())
}

/// A text file, with a final newline; empty where it is missing or too large.
fn read_small(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_INFO_BYTES + 1).read_to_end(&mut text));
    if read.is_err() || text.len() as u64 > MAX_INFO_BYTES {
        return Vec::new();
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

pub(super) fn head_file(head: &Head) -> Vec<u8> {
    let mut text = Vec::new();
    match (&head.branch, &head.commit) {
        (Some(branch), _) => {
            text.extend_from_slice(b"ref: refs/heads/");
            text.extend_from_slice(branch.as_bytes());
        }
        (None, Some(commit)) => text.extend_from_slice(commit.as_bytes()),
        // Neither a branch nor a commit: an unborn HEAD always names its branch, so this is git's default.
        (None, None) => text.extend_from_slice(b"ref: refs/heads/main"),
    }
    text.push(b'\n');
    text
}

fn packed_refs(head: &Head, upstream: Option<&(Vec<u8>, String)>, tags: &[Tag]) -> Vec<u8> {
    // "fully-peeled": what a tag's object names stands below it; "sorted": heads < remotes < tags (git-pack-refs(1)).
    let peeled = if tags.iter().all(|tag| tag.is_whole) { "peeled fully-peeled " } else { "" };
    let mut text = format!("# pack-refs with: {peeled}sorted \n").into_bytes();
    let mut add = |commit: &str, name: &[&[u8]]| {
        text.extend([commit.as_bytes(), b" ", &name.concat(), b"\n"].concat());
    };
    if let (Some(branch), Some(commit)) = (&head.branch, &head.commit) {
        add(commit, &[b"refs/heads/", branch.as_bytes()]);
    }
    if let Some((name, commit)) = upstream {
        add(commit, &[name]);
    }
    for tag in tags {
        let peeled = tag
            .peeled
            .iter()
            .filter(|_| !peeled.is_empty())
            .map(|commit| format!("\n^{commit}"))
            .collect::<String>();
        add(&tag.object, &[&tag.name, peeled.as_bytes()]);
    }
    text
}

/// The guest's configuration. `checkStat = minimal` lets the shipped index stay valid by size and modification time, which travel,
/// though inode, owner and change time are others there: else the first `git status` would read every file.
fn config_file(checkout: &Checkout, head: &Head, worktree: Option<&Path>) -> Vec<u8> {
    let host = &checkout.config;
    let mut out = Writer::default();
    let promised = host.get("extensions.partialclone").and_then(|remote| Shape::Remote.fitted(remote));
    let sha256 = checkout.object_format != "sha1";
    out.section("core", None);
    out.set("repositoryformatversion", if sha256 || promised.is_some() { "1" } else { "0" });
    out.set("bare", "false");
    out.set("logallrefupdates", "true");
    out.set("checkStat", "minimal");
    out.set("trustctime", "false");
    if let Some(worktree) = worktree {
        out.set("worktree", worktree.as_os_str().as_bytes());
    }
    for (section, keys) in SETTINGS {
        out.section(section, None);
        copy(&mut out, checkout, section, keys);
    }
    out.section("extensions", None);
    if sha256 {
        out.set("objectFormat", &checkout.object_format);
    }
    if let Some(remote) = promised {
        out.set("partialClone", remote);
    }
    // A host without an identity, as many a CI runner is, must not keep the guest from committing: the patch names nobody.
    out.section("user", None);
    for (name, nobody) in [("name", "banger"), ("email", "banger@localhost")] {
        out.set(name, host.get(&format!("user.{name}")).unwrap_or(nobody.as_bytes()));
    }
    for (section, of_each) in [("remote", OF_A_REMOTE), ("submodule", OF_A_SUBMODULE)] {
        host.subsections(section)
            .into_iter()
            .for_each(|name| subsection(&mut out, checkout, (section, name), of_each));
    }
    if let Some(branch) = head.branch.as_ref().and_then(|branch| branch.to_str()) {
        out.section("branch", Some(branch));
        copy(&mut out, checkout, &format!("branch.{branch}"), OF_A_BRANCH);
    }
    out.into_bytes()
}

/// Copies what travels of `[section "name"]`: nothing where the name itself does not. A remote's may be a URL: of a partial clone that was
/// fetched from one.
fn subsection(
    out: &mut Writer,
    checkout: &Checkout,
    (section, name): (&str, &str),
    (named, keys): (Shape, &[(&str, Shape)]),
) {
    let Some(travels) = named.fitted(name.as_bytes()) else { return };
    out.section(section, Some(&String::from_utf8_lossy(&travels)));
    copy(out, checkout, &format!("{section}.{name}"), keys);
}

/// Copies the values of the keys below `prefix`, as far as they have the shapes that they should.
fn copy(out: &mut Writer, checkout: &Checkout, prefix: &str, keys: &[(&str, Shape)]) {
    for (key, shape) in keys {
        let values = checkout.config.all(&format!("{prefix}.{key}")).iter();
        values.filter_map(|value| shape.fitted(value)).for_each(|value| out.set(key, value));
    }
}
