//! Which archive the host's own apt uses: sources.list(5), both formats.

use std::fs;
use std::path::Path;

/// One suite of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// The archive's address.
    pub uri: String,
    /// The suite, such as `bookworm-updates`.
    pub suite: String,
    /// Whether the component `main` is of it.
    pub main: bool,
}

/// The binary sources that the apt configuration in `etc_apt` (`/etc/apt`) has; whatever cannot be read is as if it were not
/// there.
pub fn sources(etc_apt: &Path) -> Vec<AptSource> {
    let mut files = vec![etc_apt.join("sources.list")];
    let parts = fs::read_dir(etc_apt.join("sources.list.d"));
    let mut parts: Vec<_> = parts.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    parts.sort();
    files.extend(parts);
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => found.extend(text.lines().filter_map(one_line)),
            Some("sources") => found.extend(deb822(&text)),
            _ => {}
        }
    }
    found
}

/// `deb [options] uri suite component…`
fn one_line(line: &str) -> Option<AptSource> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let mut rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        rest = options.split_once(']')?.1;
    }
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some(AptSource { uri, suite, main: words.any(|component| component == "main") })
}

/// Stanzas of `Field: value`, continued by lines that begin with a blank.
fn deb822(text: &str) -> Vec<AptSource> {
    let mut found = Vec::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    for stanza in text.split("\n\n") {
        let joined = stanza.replace("\n ", " ").replace("\n\t", " ");
        let field = |name: &str| -> Vec<&str> {
            let line = joined.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.trim().eq_ignore_ascii_case(name).then_some(value)
            });
            line.unwrap_or_default().split_whitespace().collect()
        };
        let off = field("Enabled").first().is_some_and(|v| matches!(*v, "no" | "false" | "off" | "0"));
        if off || !field("Types").contains(&"deb") {
            continue;
        }
        let main = field("Components").contains(&"main");
        for uri in field("URIs") {
            for suite in field("Suites") {
                found.push(AptSource { uri: uri.to_owned(), suite: suite.to_owned(), main });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        let list = "# deb http://no/ x main\ndeb [arch=amd64 signed-by=/a] http://a/debian bookworm main contrib # c\n\
                    deb-src http://no/ x main\ndebx y z main\n";
        fs::write(dir.path().join("sources.list"), list).unwrap();
        let deb822 = "Types: deb deb-src\n# comment\nURIs: http://b/debian\nSuites: bookworm\n bookworm-updates\n\
                      Components: main\n\nTypes: deb\nEnabled: no\nURIs: http://no/\nSuites: x\nComponents: main\n";
        fs::write(parts.join("debian.sources"), deb822).unwrap();
        fs::write(parts.join("off.list.disabled"), "deb http://no/ x main").unwrap();
        let source = |uri: &str, suite: &str| AptSource { uri: uri.into(), suite: suite.into(), main: true };
        let expected = [
            source("http://a/debian", "bookworm"),
            source("http://b/debian", "bookworm"),
            source("http://b/debian", "bookworm-updates"),
        ];
        assert_eq!(sources(dir.path()), expected);
        assert_eq!(sources(Path::new("/nonexistent")), []);
    }
}
