//! What of a checkout's configuration travels: the keys, and the shape that the value of each must have. Everything else stays on the
//! host, since whatever is free text may hold a secret.

use super::config::without_credentials;

/// What a value must look like to travel.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// git's words for yes and no, or one of these.
    Switch(&'static [&'static str]),
    /// Words, with a minus in front or a number behind: `core.whitespace`.
    Whitespace,
    /// Where a repository is, which loses what lets its holder in.
    Place,
    /// A remote: its name, or where it is.
    Remote,
    /// What a fetch brings, and under which names.
    Refspec,
    /// The name of a ref.
    Ref,
    /// What a partial clone leaves out.
    Filter,
    /// Which files are meant.
    Path,
}

use Shape::{Filter, Path, Place, Ref, Refspec, Remote, Switch, Whitespace};

const YES_OR_NO: Shape = Switch(&[]);

/// Settings that decide how git reads and writes the same files in the guest.
pub const SETTINGS: [(&str, &[(&str, Shape)]); 3] = [
    (
        "core",
        &[
            ("filemode", YES_OR_NO),
            ("symlinks", YES_OR_NO),
            ("ignorecase", YES_OR_NO),
            ("autocrlf", Switch(&["input"])),
            ("eol", Switch(&["lf", "crlf", "native"])),
            ("safecrlf", Switch(&["warn"])),
            ("precomposeunicode", YES_OR_NO),
            ("whitespace", Whitespace),
            ("sparsecheckout", YES_OR_NO),
            ("sparsecheckoutcone", YES_OR_NO),
        ],
    ),
    ("diff", &[("ignoresubmodules", Switch(&["all", "dirty", "untracked", "none"]))]),
    ("submodule", &[("active", Path)]),
];

/// Of each remote, and the shape of its name.
pub const OF_A_REMOTE: (Shape, &[(&str, Shape)]) = (
    Remote,
    &[
        ("url", Place),
        ("pushurl", Place),
        ("fetch", Refspec),
        ("promisor", YES_OR_NO),
        ("partialclonefilter", Filter),
    ],
);

/// Of each submodule.
pub const OF_A_SUBMODULE: (Shape, &[(&str, Shape)]) = (
    Path,
    &[
        ("url", Place),
        ("active", YES_OR_NO),
        ("ignore", Switch(&["all", "dirty", "untracked", "none"])),
        ("branch", Ref),
    ],
);

/// Of the branch that is checked out, whose name travels in any case.
pub const OF_A_BRANCH: &[(&str, Shape)] = &[("remote", Remote), ("merge", Ref)];

/// The longest value that travels, bytes.
const LONGEST: usize = 4096;

impl Shape {
    /// The value as it travels; `None`: it does not.
    pub fn fitted(self, value: &[u8]) -> Option<Vec<u8>> {
        let plain = value.len() <= LONGEST && !value.iter().any(u8::is_ascii_control);
        let text = str::from_utf8(value).ok().filter(|_| plain)?;
        let fits = match self {
            Switch(words) => is_switch(text) || words.iter().any(|word| text.eq_ignore_ascii_case(word)),
            Whitespace => text.split(',').all(|word| is_made_of(word.trim(), "-=")),
            Place => return place(text),
            Remote if is_ref(text) && !text.contains('@') => true,
            Remote => return place(text).filter(|place| place.contains(&b':')),
            Refspec => {
                let spec = text.strip_prefix(['+', '^']).unwrap_or(text);
                // "USER@HOST:PATH" is none.
                let is_side = |side: &str| {
                    side.is_empty() || is_ref(side) && (side.starts_with("refs/") || !side.contains('@'))
                };
                spec.split(':').count() <= 2 && spec.split(':').all(is_side)
            }
            Ref => is_ref(text),
            Filter => is_made_of(text, "-=:+%/._"),
            Path => !text.contains("://") && !has_password(text),
        };
        fits.then(|| value.to_vec())
    }
}

/// git_parse_maybe_bool() of git's parse.c.
fn is_switch(text: &str) -> bool {
    let words = ["", "true", "yes", "on", "false", "no", "off", "0", "1"];
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn is_made_of(text: &str, more: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// As git-check-ref-format(1) has it, with a star: no URL is one.
fn is_ref(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || "~^:?[\\".contains(c);
    !text.is_empty() && !text.contains(odd) && !["..", "//", "@{"].iter().any(|odd| text.contains(odd))
}

/// A URL, `HOST:PATH` or a path, without what lets its holder in. With a helper (gitremote-helpers(7)) only a URL: `ext::` has a command.
fn place(text: &str) -> Option<Vec<u8>> {
    let helped = text.find("::").filter(|at| text.find(['/', '[', '@']).is_none_or(|other| *at < other));
    let address = helped.map_or(text, |at| &text[at + 2..]);
    let is_url = match address.split_once("://") {
        Some((scheme, _)) => !scheme.is_empty() && is_made_of(scheme, "+-."),
        None => false,
    };
    let is_local = helped.is_none() && !address.contains("://") && !has_password(address);
    (is_url || is_local).then(|| without_credentials(text.as_bytes()))
}

/// Whether what would be `USER@HOST:PATH` has a colon before the `@`.
fn has_password(address: &str) -> bool {
    address.split_once('@').is_some_and(|(user, _)| user.contains(':') && !user.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(shape: Shape, value: &str) -> Option<String> {
        shape.fitted(value.as_bytes()).map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn what_is_usual_travels_as_it_is() {
        for (shape, value) in [
            (YES_OR_NO, "true"),
            (YES_OR_NO, "Yes"),
            (Switch(&["input"]), "input"),
            (Whitespace, "trailing-space,-indent-with-non-tab, tabwidth=4"),
            (Place, "https://host/a.git"),
            (Place, "git@host:a/b.git"),
            (Place, "ssh://git@host:22/a"),
            (Place, "../a b"),
            (Place, "C:/a/b"),
            (Place, "foo::https://host/a"),
            (Remote, "origin"),
            (Remote, "team/origin.2"),
            (Remote, "https://host/a"),
            (Remote, "."),
            (Refspec, "+refs/heads/*:refs/remotes/origin/*"),
            (Refspec, "^refs/heads/x"),
            (Refspec, "main:"),
            (Refspec, "refs/heads/ann@x:refs/remotes/x"),
            (Ref, "refs/heads/fix/ä"),
            (Filter, "blob:limit=1m"),
            (Filter, "combine:tree:1+sparse:oid=main:x"),
            (Ref, "refs/heads/ann@x"),
            (Path, "libs/a b"),
            (Path, "libs/@ann/b"),
            (Path, ":(exclude)x"),
        ] {
            assert_eq!(said(shape, value).as_deref(), Some(value), "{shape:?}");
        }
    }

    #[test]
    fn what_lets_somebody_in_does_not() {
        for (shape, value, travels) in [
            (Place, "https://u:t@host/a", Some("https://host/a")),
            (Place, "foo::https://t@host/a?t=1", Some("foo::https://host/a")),
            (Place, "ext::sh -c 'curl -H token'", None),
            (Place, "fd::17", None),
            (Place, "u:token@host:a", None),
            (Place, "token token://x", None),
            (Remote, "https://u:t@host/a", Some("https://host/a")),
            (Remote, "token@host", None),
            (Remote, "a b", None),
            (Refspec, "https://t@host/:refs/x", None),
            (Refspec, "t@host:refs/x", None),
            (Ref, "refs/heads/@{1}", None),
            (Filter, "blob:none https://t@host", None),
            (Path, "https://t@host/", None),
            (Path, "u:token@host", None),
            (YES_OR_NO, "token", None),
            (Switch(&["lf"]), "token", None),
            (Whitespace, "https://t@host", None),
            (Place, "/a\nb", None),
        ] {
            assert_eq!(said(shape, value).as_deref(), travels, "{shape:?} {value}");
        }
        assert_eq!(Place.fitted(b"/\xff"), None);
        assert_eq!(Place.fitted(&vec![b'a'; 5000]), None);
    }
}
