//! NetworkManager's dnsmasq: a file in its directory, whose name has the state id and whose first line is the owner tag.
//!
//! The file says what dnsmasq knows only after dnsmasq was told: until then it has a last line that says so ([`PENDING`]), and one that
//! is to go loses its content first. So what is killed on the way leaves a file that does not pass for a finished one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Claim, DOMAIN, HookError};
use crate::caller::Caller;
use crate::dns::site::Site;
use crate::sys::network_manager::{self, DNSMASQ_DIRECTORY};
use crate::tag::Tag;
use banger_contract::types::StateId;
use banger_host::fs::atomic;

/// How much of a file is looked at, bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The last line of a file that may not have been read yet.
const PENDING: &str = "# dnsmasq has not been told\n";

/// The file of a state directory.
pub fn path(state: &StateId) -> PathBuf {
    Path::new(DNSMASQ_DIRECTORY).join(format!("banger-{state}.conf"))
}

/// Where it is written; dnsmasq reads no file whose name begins so.
fn draft(state: &StateId) -> PathBuf {
    Path::new(DNSMASQ_DIRECTORY).join(format!(".banger-{state}.conf"))
}

/// Whether the file of a state directory is there, or what a crash left of it.
pub fn is_left(state: &StateId) -> bool {
    path(state).exists() || draft(state).exists()
}

fn text(site: &Site) -> String {
    let (address, subnet) = (site.address, site.subnet);
    let tag = site.bridge.alias.as_deref().unwrap_or_default();
    let mut text = format!(
        "# {tag} the names of banger's VMs: banger dns enable made this, banger dns disable removes it\n\
         server=/{DOMAIN}/{address}\n\
         rebind-domain-ok=/{DOMAIN}/\n"
    );
    // Other lengths are an error to older ones (dnsmasq's CHANGELOG, 2.87).
    if [16, 24].contains(&subnet.prefix_len()) {
        text += &format!("rev-server={subnet},{address}\n");
    }
    text
}

/// Whose file it is.
fn tag(text: &str) -> Option<Tag> {
    text.strip_prefix("# ")?.split_whitespace().next()?.parse().ok()
}

/// What is in the file; `None` where there is none.
fn content(path: &Path) -> Result<Option<String>, HookError> {
    let read = || -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HookError::File { path: path.display().to_string(), source }),
    }
}

/// The file of `state`, where it is there and ours.
fn own(state: &StateId) -> Result<Option<(String, Tag)>, HookError> {
    let path = path(state);
    let Some(text) = content(&path)? else { return Ok(None) };
    match tag(&text) {
        Some(tag) if tag.state == *state => Ok(Some((text, tag))),
        _ => Err(HookError::Foreign { path: path.display().to_string() }),
    }
}

pub(super) fn is_told(site: &Site) -> Result<bool, HookError> {
    Ok(content(&path(site.realm.state()))?.is_some_and(|there| there == text(site)))
}

/// Which other files have the domain. dnsmasq asks one of them and believes what that one does not know, so two cannot have it.
pub(super) fn others(state: &StateId) -> Result<Vec<Claim>, HookError> {
    let unreadable = |source| HookError::File { path: DNSMASQ_DIRECTORY.to_owned(), source };
    let own = path(state);
    let mut claims = Vec::new();
    for entry in fs::read_dir(DNSMASQ_DIRECTORY).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // Editors' copies and the like are not read by dnsmasq either (its --conf-dir).
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ignored = name.starts_with(['.', '#']) || name.ends_with('~') || path == own || !path.is_file();
        if ignored {
            continue;
        }
        if let Some(text) = content(&path)?.filter(|text| has_domain(text)) {
            claims.push(Claim { by: path.display().to_string(), owner: tag(&text).map(|tag| tag.uid) });
        }
    }
    Ok(claims)
}

/// Whether a line gives the domain to somebody: `server=/vm/…`, `local=/a/vm/`, `address=/vm/…`.
fn has_domain(text: &str) -> bool {
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        ["server", "local", "address"].contains(&key.trim()).then_some(value.trim())
    });
    let mut domains = values.filter_map(|value| value.strip_prefix('/')?.rsplit_once('/'));
    domains.any(|(domains, _)| domains.split('/').any(|d| d.trim_start_matches('.') == DOMAIN))
}

/// Writes the file and has it read. Where that fails the file is as it was.
pub(super) fn tell(site: &Site) -> Result<(), HookError> {
    let before = match own(site.realm.state())? {
        Some((_, tag)) if tag != *site.realm.tag() => {
            return Err(HookError::Foreign { path: path(site.realm.state()).display().to_string() });
        }
        other => other.map(|(text, _)| text),
    };
    let (state, text) = (site.realm.state(), text(site));
    put(state, Some(&format!("{text}{PENDING}")))?;
    if let Err(error) = reload() {
        put(state, before.as_deref())?;
        return Err(error);
    }
    put(state, Some(&text))
}

/// Removes the file and has that be known; gives it in words where it was there.
pub(super) fn forget(state: &StateId, caller: &Caller) -> Result<Option<String>, HookError> {
    let Some((text, tag)) = own(state)? else {
        let left = remove(&draft(state))?;
        return Ok(left.then(|| format!("file {}", draft(state).display())));
    };
    caller.require_for(tag.uid)?;
    put(state, Some(&format!("# {tag}\n{PENDING}")))?;
    if let Err(error) = reload() {
        put(state, Some(&text))?;
        return Err(error);
    }
    put(state, None)?;
    Ok(Some(format!("file {}", path(state).display())))
}

/// Without a dnsmasq there is nobody who would have to know.
fn reload() -> Result<(), HookError> {
    if network_manager::has_dnsmasq()? {
        network_manager::reload_dnsmasq()?;
    }
    Ok(())
}

fn put(state: &StateId, text: Option<&str>) -> Result<(), HookError> {
    match text {
        Some(text) => Ok(atomic::write_by(&draft(state), &path(state), text.as_bytes(), 0o644)?),
        None => remove(&path(state)).map(drop),
    }
}

/// Whether there was anything to remove.
fn remove(path: &Path) -> Result<bool, HookError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(HookError::File { path: path.display().to_string(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_seen_where_it_is_given_away() {
        for text in
            ["server=/vm/10.0.0.1\n", "x\n local = /lan/vm/ \n", "address=/.vm/1.2.3.4", "server=/vm/\n"]
        {
            assert!(has_domain(text), "{text:?}");
        }
        for text in [
            "",
            "#server=/vm/10.0.0.1",
            "server=/svm/10.0.0.1",
            "server=10.0.0.1",
            "conf-dir=/vm/",
            "server=",
        ] {
            assert!(!has_domain(text), "{text:?}");
        }
    }

    #[test]
    fn the_owner_is_in_the_first_line() {
        let tag = |text| tag(text).map(|tag| (tag.state.to_string(), tag.uid));
        assert_eq!(tag("# banger:0a1b2c3d:1000 the names\n"), Some(("0a1b2c3d".to_owned(), 1000)));
        for text in ["", "# ", "#banger:0a1b2c3d:1000", "\n# banger:0a1b2c3d:1000", "# banger:0a1b2c3d:+1"] {
            assert_eq!(tag(text), None, "{text:?}");
        }
    }
}
