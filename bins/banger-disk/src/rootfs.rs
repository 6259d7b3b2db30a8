//! What a root filesystem needs to be an image's, whoever made it.

use banger_formats::ext4::{Attributes, Content, Time, WriteError, Writer};

/// Where banger-guest mounts something, and with which permissions the place is made where it is lacking.
const PLACES: [(&[u8], u16); 6] =
    [(b"dev", 0o755), (b"proc", 0o555), (b"sys", 0o555), (b"run", 0o755), (b"tmp", 0o1777), (b"root", 0o700)];

/// The longest os-release that is read, bytes.
const MAX_RELEASE: usize = 64 << 10;

/// Makes what is lacking, and removes what tells one machine from another. Gives what its owner should know.
///
/// # Errors
/// The filesystem cannot be written.
pub(super) fn prepare(fs: &mut Writer) -> Result<Vec<String>, WriteError> {
    let mut notes = Vec::new();
    let root = fs.root();
    for (name, mode) in PLACES {
        if let Some((own, inode)) = fs.find(root, name)
            && !fs.is_directory(inode)
        {
            let shown = String::from_utf8_lossy(name).into_owned();
            notes.push(format!(
                "/{shown} is not a directory in the image, and becomes one: something is mounted there"
            ));
            fs.unlink(own, inode);
        }
        fs.ensure_directory(root, name, mode, Time::default())?;
    }
    let etc = fs.ensure_directory(root, b"etc", 0o755, Time::default())?;
    if let Some((own, inode)) = fs.find(etc, b"machine-id")
        && fs.is_file(inode)
    {
        fs.unlink(own, inode);
        let empty = Attributes { mode: 0o100_444, ..Attributes::default() };
        let empty = fs.create(&empty, Content::Regular(0, &[], &mut &b""[..]))?;
        fs.link(etc, b"machine-id", empty, 0);
    }
    remove_host_keys(fs, etc, &mut notes);
    what_will_not_work(fs, &mut notes)?;
    Ok(notes)
}

/// Keys that every VM of the image would have in common with whoever has the image.
fn remove_host_keys(fs: &mut Writer, etc: u32, notes: &mut Vec<String>) {
    let Some((_, ssh)) = fs.find(etc, b"ssh").filter(|(_, ssh)| fs.is_directory(*ssh)) else { return };
    let mut removed = false;
    for (name, inode) in fs.list(ssh) {
        if fs.text(name).starts_with(b"ssh_host_") && !fs.is_directory(inode) {
            fs.unlink(name, inode);
            removed = true;
        }
    }
    if removed {
        notes.push("the SSH host keys in the image are left out: each VM has its own".to_owned());
    }
}

fn what_will_not_work(fs: &Writer, notes: &mut Vec<String>) -> Result<(), WriteError> {
    let has = |path: &[u8]| Ok::<bool, WriteError>(lookup(fs, path)?.is_some_and(|inode| fs.is_file(inode)));
    if !has(b"usr/sbin/sshd")? {
        notes.push(
            "there is no /usr/sbin/sshd in the image: what reaches its VMs over SSH (banger vm ssh, and terminals) will not \
             work. Add it where the image is made, as with: RUN apt-get install -y openssh-server, or apk add openssh"
                .to_owned(),
        );
    }
    if !has(b"usr/bin/git")? && !has(b"usr/local/bin/git")? {
        notes.push(
            "there is no git in the image: checkouts arrive, and what changes in their copies cannot be told (--patch, banger vm \
             diff). Add it where the image is made, as with: RUN apt-get install -y git, or apk add git"
                .to_owned(),
        );
    }
    if !has(b"bin/sh")? {
        notes.push("there is no /bin/sh in the image: its VMs boot, and run no command".to_owned());
    }
    Ok(())
}

/// The directory that becomes the work seed; asked for before [`prepare`]. Distributions that keep /root elsewhere have a link to it.
pub(super) fn home(fs: &Writer) -> Result<Option<u32>, WriteError> {
    Ok(lookup(fs, b"root")?.filter(|home| fs.is_directory(*home)))
}

/// Distribution and release, as os-release(5) has them.
pub(super) fn release(fs: &Writer) -> Result<(String, String), WriteError> {
    let unknown = || "unknown".to_owned();
    let mut text = String::new();
    for path in [&b"etc/os-release"[..], b"usr/lib/os-release"] {
        if let Some(inode) = lookup(fs, path)?.filter(|inode| fs.is_file(*inode)) {
            text = String::from_utf8_lossy(&fs.read(inode, MAX_RELEASE)?).into_owned();
            break;
        }
    }
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        let value = line.trim().trim_matches(['"', '\'']);
        let is_word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        (!value.is_empty() && value.len() <= 64 && value.chars().all(is_word)).then(|| value.to_owned())
    };
    let suite = value("VERSION_CODENAME").or_else(|| value("VERSION_ID"));
    Ok((value("ID").unwrap_or_else(unknown), suite.unwrap_or_else(unknown)))
}

/// What a path leads to, symbolic links followed inside the filesystem.
fn lookup(fs: &Writer, path: &[u8]) -> Result<Option<u32>, WriteError> {
    let split = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).rev().map(<[u8]>::to_vec).collect()
    };
    let (mut at, mut ahead, mut links) = (fs.root(), split(path), 0);
    while let Some(part) = ahead.pop() {
        match part.as_slice() {
            b"." => continue,
            b".." => {
                at = fs.parent(at);
                continue;
            }
            _ => {}
        }
        if !fs.is_directory(at) {
            return Ok(None);
        }
        let Some((_, inode)) = fs.find(at, &part) else { return Ok(None) };
        if !fs.is_symlink(inode) {
            at = inode;
            continue;
        }
        links += 1;
        if links > 40 {
            return Ok(None);
        }
        let target = fs.read(inode, 4096)?;
        if target.starts_with(b"/") {
            at = fs.root();
        }
        ahead.extend(split(&target));
    }
    Ok(Some(at))
}
