//! The name of an image in a registry: `host[:port]/path[:tag][@sha256:…]`, as docker, podman and the OCI distribution specification
//! write it. The registry is never guessed: it would mean asking somebody whom nobody named.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::sys::url;

/// Docker Hub, which answers at another name than the one it goes by.
const HUB: &str = "docker.io";
const HUB_SERVER: &str = "registry-1.docker.io";

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not an image in a registry: {reason}")]
pub struct ParseReferenceError {
    text: String,
    reason: &'static str,
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |reason| ParseReferenceError { text: text.chars().take(300).collect(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(error("a digest is sha256: and 64 hexadecimal digits"));
        }
        let (registry, path) = rest.split_once('/').ok_or_else(|| error("it names no registry"))?;
        let is_host = registry == "localhost" || registry.contains(['.', ':']);
        if !is_host || !url::is_authority(registry) {
            return Err(error("it does not begin with a registry's host name"));
        }
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(error("a tag has 1 to 128 letters, digits, '_', '.' and '-'"));
        }
        if path.len() > 255 || !path.split('/').all(is_component) {
            return Err(error(
                "a repository has lower-case letters and digits, joined by '.', '_', '-' and '/'",
            ));
        }
        let repository = match (registry, path.contains('/')) {
            (HUB, false) => format!("library/{path}"),
            _ => path.to_owned(),
        };
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self {
            registry: registry.to_ascii_lowercase(),
            repository,
            tag: owned(tag),
            digest: owned(digest),
        })
    }
}

/// Whether `text` is a digest that can be checked.
pub(super) fn is_digest(text: &str) -> bool {
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex))
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len())
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(alnum).filter(|part| !part.is_empty());
    text.starts_with(alnum)
        && text.ends_with(alnum)
        && separators.into_iter().all(|s| s == "." || s == "_" || s == "__" || s.chars().all(|c| c == '-'))
}

impl Reference {
    /// The registry as it is written: under this name credentials are kept.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The registry's host, with a port where that is given.
    pub fn server(&self) -> &str {
        if self.registry == HUB { HUB_SERVER } else { &self.registry }
    }

    /// The repository at the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest that it pins.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What the registry is asked for: the digest, else the tag, else `latest`.
    pub fn selector(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// What an image of it may be called: its repository's last part, with its tag unless that is `latest`.
    pub fn suggested_name(&self) -> String {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        let tag = self.tag.as_deref().filter(|tag| *tag != "latest");
        let text = tag.map_or_else(|| last.to_owned(), |tag| format!("{last}-{tag}"));
        text.to_lowercase().replace('_', "-")
    }

    /// The same, pinned to `digest`.
    pub fn pinned(&self, digest: &str) -> Self {
        Self { digest: Some(digest.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let all: Reference = format!("localhost:5000/a/b-c:v1.0@{digest}").parse().unwrap();
        assert_eq!((all.server(), all.repository(), all.selector()), ("localhost:5000", "a/b-c", &*digest));
        assert_eq!(all.to_string(), format!("localhost:5000/a/b-c:v1.0@{digest}"));
        let hub: Reference = "docker.io/alpine".parse().unwrap();
        assert_eq!(
            (hub.server(), hub.repository(), hub.selector()),
            (HUB_SERVER, "library/alpine", "latest")
        );
        assert_eq!(hub.registry(), "docker.io");
        assert_eq!((hub.suggested_name().as_str(), all.suggested_name().as_str()), ("alpine", "b-c-v1.0"));
        for good in ["r.example/a__b/c.d", "[::1]:5000/a", "127.0.0.1:5000/a:T_1"] {
            assert!(good.parse::<Reference>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "alpine",
            "library/alpine",
            "r.example/",
            "r.example/A",
            "r.example/a:",
            "r.example/a:-x",
            "r.example/a//b",
            "r.example/../a",
            "r.example/a@sha256:12",
            "r.example/a@md5:x",
            "http://r.example/a",
            "u:p@r.example/a",
            "r.example/a b",
            "r.example/a._b",
            "r.example/a\n",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
