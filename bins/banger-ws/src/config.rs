//! git configuration: what the host's says, and the one that is written for the guest.

use std::collections::{BTreeMap, BTreeSet};

use banger_host::git;

/// The effective configuration of a checkout. Keys are in git's spelling: section and name in lower case.
#[derive(Debug, Default)]
pub struct Config {
    values: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Config {
    /// Of the output of `git config -z --list`.
    pub fn parse(listed: &[u8]) -> Self {
        let mut values: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for entry in git::split_nul(listed) {
            let at = entry.iter().position(|b| *b == b'\n').unwrap_or(entry.len());
            let key = String::from_utf8_lossy(&entry[..at]).into_owned();
            // A key without "=" means true.
            let value = entry.get(at + 1..).unwrap_or(b"true").to_vec();
            values.entry(key).or_default().push(value);
        }
        Self { values }
    }

    /// The value that counts: the last.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.all(key).last().map(Vec::as_slice)
    }

    /// Every value, in order.
    pub fn all(&self, key: &str) -> &[Vec<u8>] {
        self.values.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the value is one of git's words for true.
    pub fn is_true(&self, key: &str) -> bool {
        let word = self.get(key).map(<[u8]>::to_ascii_lowercase);
        word.is_some_and(|word| matches!(word.as_slice(), b"true" | b"yes" | b"on" | b"1"))
    }

    /// The middle parts of the keys `SECTION.MIDDLE.NAME`.
    pub fn subsections(&self, section: &str) -> BTreeSet<&str> {
        let middle = |key: &'_ str| {
            let rest = key.strip_prefix(section)?.strip_prefix('.')?;
            rest.rfind('.').map(|dot| dot + key.len() - rest.len())
        };
        self.values.keys().filter_map(|key| middle(key).map(|end| &key[section.len() + 1..end])).collect()
    }
}

/// A configuration file in the making.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins a section.
    pub fn section(&mut self, name: &str, subsection: Option<&str>) {
        self.0.extend(format!("[{name}").into_bytes());
        if let Some(subsection) = subsection {
            // Only these two are escaped there (git-config(1), "Syntax").
            let quoted = subsection.replace('\\', "\\\\").replace('"', "\\\"");
            self.0.extend(format!(" \"{quoted}\"").into_bytes());
        }
        self.0.extend(b"]\n");
    }

    /// Adds a value to the section that was begun last.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.0.extend(format!("\t{name} = ").into_bytes());
        self.0.extend(quoted(value.as_ref()));
        self.0.push(b'\n');
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A value of a git configuration file, quoted (git-config(1), "Syntax").
fn quoted(value: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in value {
        match byte {
            b'\\' | b'"' => out.extend([b'\\', *byte]),
            b'\n' => out.extend(b"\\n"),
            b'\t' => out.extend(b"\\t"),
            other => out.push(*other),
        }
    }
    out.push(b'"');
    out
}

/// The URL of a remote without what lets its holder in: passwords and tokens. The user of an SSH URL is part of the address.
pub fn without_credentials(url: &[u8]) -> Vec<u8> {
    // "HELPER::ADDRESS" (gitremote-helpers(7)).
    let words = url.windows(2).position(|w| w == b"::").filter(|at| {
        *at > 0 && url[..*at].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.'))
    });
    if let Some(at) = words {
        return [&url[..at + 2], &without_credentials(&url[at + 2..])].concat();
    }
    let Some(at) = url.windows(3).position(|w| w == b"://") else { return url.to_vec() };
    let (scheme, rest) = (&url[..at + 3], &url[at + 3..]);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.iter().rposition(|b| *b == b'@') {
        Some(at) => authority.split_at(at + 1),
        None => (&b""[..], authority),
    };
    let ssh = scheme.windows(3).any(|w| w == b"ssh");
    let name = user.split(|b| matches!(b, b':' | b'@')).next().unwrap_or_default();
    let user = if ssh && !name.is_empty() { [name, b"@"].concat() } else { Vec::new() };
    // A token may be in the query of an http URL; a path of another scheme may hold a "?".
    let http = scheme.starts_with(b"http");
    let end = path.iter().position(|b| http && matches!(b, b'?' | b'#')).unwrap_or(path.len());
    [scheme, &user, host, &path[..end]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_names_may_hold_dots() {
        let config = Config::parse(b"a.b\n1\0remote.x.y.url\nu\0a.b\n2\0core.bare\0remote.z.fetch\nf\0");
        assert_eq!(config.get("a.b"), Some(&b"2"[..]));
        assert_eq!(config.all("a.b").len(), 2);
        assert!(config.is_true("core.bare") && !config.is_true("core.none"));
        assert_eq!(config.subsections("remote").into_iter().collect::<Vec<_>>(), ["x.y", "z"]);
    }

    #[test]
    fn credentials_leave_a_url() {
        for (url, clean) in [
            ("https://user:token@host/a/b.git", "https://host/a/b.git"),
            ("https://ghp_token@host:8443/a", "https://host:8443/a"),
            ("https://u:p@ss@host", "https://host"),
            ("http://host/a?private_token=x#y", "http://host/a"),
            ("https://host/@scope/a", "https://host/@scope/a"),
            ("ssh://git@host:22/a", "ssh://git@host:22/a"),
            ("ssh://git:secret@host/a", "ssh://git@host/a"),
            ("git+ssh://git@host/a", "git+ssh://git@host/a"),
            ("git@host:a/b.git", "git@host:a/b.git"),
            ("/srv/a b", "/srv/a b"),
            ("file:///srv/a?b", "file:///srv/a?b"),
            ("foo::https://u:t@host/a", "foo::https://host/a"),
            ("ftp://u:p@[::1]/a", "ftp://[::1]/a"),
        ] {
            assert_eq!(String::from_utf8(without_credentials(url.as_bytes())).unwrap(), clean);
        }
    }
}
