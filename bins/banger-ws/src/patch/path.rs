//! Paths in a patch: git's quoting of them, and whether one may be written to.

use super::known::is_version_control;

/// The longest path (PATH_MAX less its NUL), and the longest of its parts (NAME_MAX), bytes.
const MAX_PATH: usize = 4095;
const MAX_PART: usize = 255;

/// `NAME` where `text` is `a/NAME b/NAME`, quoted or not.
pub(super) fn both_names(text: &[u8]) -> Option<Vec<u8>> {
    let middle = text.len().checked_sub(1)? / 2;
    let (old, new) = (text.get(..middle)?, text.get(middle + 1..)?);
    let (old, new) = (plain(old)?, plain(new)?);
    let (old, new) = (old.strip_prefix(b"a/")?, new.strip_prefix(b"b/")?);
    (text[middle] == b' ' && old == new).then(|| old.to_vec())
}

/// Whether `text` is `a/FROM b/TO`, where both names are given as the lines `rename from` and `rename to` have them: quoted or not.
pub(super) fn are_names(text: &[u8], from: &[u8], to: &[u8]) -> bool {
    text == [behind(b"a/", from), behind(b"b/", to)].join(&b' ')
}

/// `path` behind `a/` or `b/`, as git prints it, core.quotePath on.
pub fn side(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    behind(prefix, &printed(path, true))
}

/// `name`, which git printed, behind `prefix`.
fn behind(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(b"\"") {
        Some(inner) => [b"\"", prefix, inner].concat(),
        None => [prefix, name].concat(),
    }
}

/// The path that git printed as `text`, quoted or not. None for a text that git prints for no path: `git apply` takes more than that,
/// and ends a name without quotes at a carriage return, where a reader would go on.
pub(super) fn plain(text: &[u8]) -> Option<Vec<u8>> {
    let path = if text.first() == Some(&b'"') { unquote(text)? } else { text.to_vec() };
    [true, false].iter().any(|fully| printed(&path, *fully) == text).then_some(path)
}

/// `path` as git prints it (`cq_lookup` in quote.c), where `fully` is core.quotePath.
pub fn printed(path: &[u8], fully: bool) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in path {
        match byte {
            7..=13 => out.extend([b'\\', b"abtnvfr"[usize::from(byte - 7)]]),
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0x80.. if !fully => out.push(*byte),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend(format!("\\{byte:03o}").bytes()),
        }
    }
    if out.len() == path.len() + 1 {
        return path.to_vec();
    }
    out.push(b'"');
    out
}

/// Undoes git's quoting of a path (core.quotePath in git-config(1)).
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'"' => return None,
            b'\\' => match bytes.next()? {
                b'a' => 7,
                b'b' => 8,
                b't' => 9,
                b'n' => 10,
                b'v' => 11,
                b'f' => 12,
                b'r' => 13,
                same @ (b'"' | b'\\') => same,
                high @ b'0'..=b'3' => {
                    let digit = |b: Option<u8>| b.filter(|b| (b'0'..=b'7').contains(b)).map(|b| b - b'0');
                    (high - b'0') << 6 | digit(bytes.next())? << 3 | digit(bytes.next())?
                }
                _ => return None,
            },
            other => other,
        };
        out.push(plain);
    }
    Some(out)
}

/// `path` as git prints it with core.quotePath off: quoted where it holds what a line cannot show.
pub(super) fn quoted(path: &[u8]) -> String {
    let odd = |c: char| {
        c.is_control() || matches!(c, '"' | '\\' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(odd) => text.to_owned(),
        _ => {
            let mut out = String::from("\"");
            for byte in path {
                match byte {
                    b'"' | b'\\' => out.extend(['\\', char::from(*byte)]),
                    b'\n' => out.push_str("\\n"),
                    b'\t' => out.push_str("\\t"),
                    b' '..=b'~' => out.push(char::from(*byte)),
                    other => out.push_str(&format!("\\{other:03o}")),
                }
            }
            out + "\""
        }
    }
}

/// Whether a path stays in the checkout and out of any directory of version control in it, on whatever file system the checkout is.
pub fn is_inside(path: &[u8]) -> bool {
    let fine = |part: &[u8]| {
        !matches!(part, b"" | b"." | b"..")
            && part.len() <= MAX_PART
            && !part.contains(&0)
            && !is_version_controls(part)
    };
    path.len() <= MAX_PATH && path.split(|b| *b == b'/').all(fine)
}

/// Whether some file system takes `part` for `.git`, or another such: any case; NTFS's short name, its trailing dots, spaces and
/// streams, and backslashes that part names there; and characters that HFS+ ignores (`is_ntfs_dotgit` and `is_hfs_dotgit` in git's
/// path.c and utf8.c).
fn is_version_controls(part: &[u8]) -> bool {
    let visible: String = String::from_utf8_lossy(part).chars().filter(|c| !is_ignored(*c)).collect();
    visible.split('\\').any(|name| {
        let name = name.split(':').next().unwrap_or_default();
        is_version_control(&name.trim_end_matches([' ', '.']).to_ascii_lowercase())
    })
}

/// What HFS+ leaves out of names when it compares them.
fn is_ignored(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_version_controls_directories_are_known() {
        for part in [
            ".git",
            ".GIT",
            ".gIt",
            "git~1",
            "GIT~2",
            ".git ",
            ".git.",
            ".git . .",
            ".git::$INDEX_ALLOCATION",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".git\\hooks",
            "x\\.git",
            ".hg",
            ".Jj",
            ".sl",
            "_darcs",
        ] {
            assert!(!is_inside(part.as_bytes()), "{part:?}");
            assert!(!is_inside(format!("a/{part}/config").as_bytes()), "{part:?}");
        }
        for part in [
            ".hgignore",
            ".gitignore",
            ".github",
            "git",
            "x.git",
            ".git2",
            "git~x",
            "\u{200c}x",
            "a:b",
            "a\\b",
        ] {
            assert!(is_inside(part.as_bytes()), "{part:?}");
        }
        assert!(!is_inside(&[b'x'; 256]) && is_inside(&[b'x'; 255]));
        assert!(!is_inside("x/".repeat(2100).trim_end_matches('/').as_bytes()));
    }

    #[test]
    fn a_side_of_a_patch_is_quoted_as_git_does_it() {
        assert_eq!(side(b"a/", b"d/x y"), b"a/d/x y");
        assert_eq!(side(b"b/", "ä\n\"\\\x07".as_bytes()), b"\"b/\\303\\244\\n\\\"\\\\\\a\"");
    }

    #[test]
    fn names_of_a_rename_are_told_apart_by_its_own_lines() {
        assert!(are_names(b"a/q b/q b/q b/q", b"q", b"q b/q b/q"));
        assert!(are_names(br#"a/a b "b/\303\266""#, b"a b", br#""\303\266""#));
        assert!(!are_names(b"a/q b/r", b"q", b"s"));
    }

    #[test]
    fn quoting_is_undone_as_git_does_it() {
        assert_eq!(plain(br#""a\"\\\303\244\n""#).unwrap(), "a\"\\ä\n".as_bytes());
        assert_eq!(plain(b"a b").unwrap(), b"a b");
        assert_eq!(plain("\"ä\\t\"".as_bytes()).unwrap(), "ä\t".as_bytes(), "with core.quotePath off");
        for bad in [&br#""a"b""#[..], br#""\400""#, br#""\x""#, b"\"a", br#""\""#] {
            assert_eq!(plain(bad), None);
        }
        assert!(plain(br#""\001\177\r\033""#).is_some() && plain("ö b".as_bytes()).is_some());
        assert_eq!(quoted("ä b".as_bytes()), "ä b");
        assert_eq!(quoted(b"a\x1b\"\n\xff"), r#""a\033\"\n\377""#);
    }

    #[test]
    fn a_name_that_git_writes_otherwise_is_no_name() {
        let spelled = [
            &b"a\rb"[..],
            b"a\tb",
            b"a\x0bb",
            b"a\x7f",
            b"a\0",
            b"a\"b",
            br"a\b",
            b"\"a\rb\"",
            b"\"\"",
            br#""ab""#,
            br#""\056envrc""#,
            br#""\015""#,
            br#""\042""#,
            b"\"\\303\xb6\"",
        ];
        for text in spelled {
            assert_eq!(plain(text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
