//! Files of the host that every start brings into the guest's /root, as the configuration and the stage that packs them have them.

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSync {
    /// Where it is on the host: absolute, or `~/` and a path below the user's home.
    pub host: String,
    /// Where it goes in the guest: `~/` or `/root/` and a path.
    pub guest: String,
    /// Its permissions there, octal; `None`: those that it has on the host. What is in a directory keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// What may stand in each field, for people.
pub const HOST_ALLOWED: &str = "an absolute path, or ~/ and a path, without \"..\"";
/// See [`HOST_ALLOWED`].
pub const GUEST_ALLOWED: &str = "~/ or /root/ and a path, without \"..\"";
/// See [`HOST_ALLOWED`].
pub const MODE_ALLOWED: &str = "octal permissions such as \"0600\", \"0777\" at most";

impl FileSync {
    /// The field that is wrong, its value, and what is allowed there.
    ///
    /// # Errors
    /// One is.
    pub fn check(&self) -> Result<(), (&'static str, &str, &'static str)> {
        // Wherever the home is, what is below it stays below it.
        if self.host_path(Some(Path::new("/"))).is_none() {
            return Err(("host", &self.host, HOST_ALLOWED));
        }
        if self.guest_path().is_none() {
            return Err(("guest", &self.guest, GUEST_ALLOWED));
        }
        match &self.mode {
            Some(mode) if self.mode_bits().is_none() => Err(("mode", mode, MODE_ALLOWED)),
            _ => Ok(()),
        }
    }

    /// The path on the host; `home` is the user's. `None`: it is not allowed, or there is no home.
    pub fn host_path(&self, home: Option<&Path>) -> Option<PathBuf> {
        match self.host.strip_prefix("~/") {
            Some(rest) => Some(home?.join(plain(rest)?)),
            None => Some(Path::new("/").join(plain(self.host.strip_prefix('/')?)?)),
        }
    }

    /// The path in the guest, relative to `/`. `None`: it is not allowed.
    pub fn guest_path(&self) -> Option<PathBuf> {
        let rest = self.guest.strip_prefix("~/").or_else(|| self.guest.strip_prefix("/root/"))?;
        Some(Path::new("root").join(plain(rest)?))
    }

    /// The permissions. `None`: there are none, or they are not allowed.
    pub fn mode_bits(&self) -> Option<u32> {
        let digits = self.mode.as_deref().filter(|mode| (3..=4).contains(&mode.len()))?;
        let bits =
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| u32::from_str_radix(digits, 8).ok())??;
        (bits <= 0o777).then_some(bits)
    }
}

/// A relative path that leads down: no `..`, no NUL, not empty.
fn plain(rest: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(rest).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!path.as_os_str().is_empty() && !rest.contains('\0')).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(host: &str, guest: &str, mode: Option<&str>) -> FileSync {
        FileSync { host: host.into(), guest: guest.into(), mode: mode.map(str::to_owned) }
    }

    #[test]
    fn paths_and_modes_are_plain() {
        let good = sync("~/./a//b", "/root/.c/d", Some("640"));
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.host_path(Some(Path::new("/home/u"))), Some("/home/u/a/b".into()));
        assert_eq!(good.host_path(None), None);
        assert_eq!(good.guest_path(), Some("root/.c/d".into()));
        assert_eq!(good.mode_bits(), Some(0o640));
        for (host, guest, mode, field) in [
            ("a", "~/a", None, "host"),
            ("~user/a", "~/a", None, "host"),
            ("~", "~/a", None, "host"),
            ("~/", "~/a", None, "host"),
            ("~//etc", "~/a", None, "host"),
            ("/a/../b", "~/a", None, "host"),
            ("/", "~/a", None, "host"),
            ("/a\0", "~/a", None, "host"),
            ("/a", "/etc/a", None, "guest"),
            ("/a", "/root", None, "guest"),
            ("/a", "/root/", None, "guest"),
            ("/a", "/rootx/a", None, "guest"),
            ("/a", "~/../etc/a", None, "guest"),
            ("/a", "~user/a", None, "guest"),
            ("/a", "~/a", Some("9"), "mode"),
            ("/a", "~/a", Some("0888"), "mode"),
            ("/a", "~/a", Some("4755"), "mode"),
            ("/a", "~/a", Some("+60"), "mode"),
            ("/a", "~/a", Some(""), "mode"),
        ] {
            let wrong = sync(host, guest, mode);
            assert_eq!(wrong.check().unwrap_err().0, field, "{wrong:?}");
        }
    }
}
