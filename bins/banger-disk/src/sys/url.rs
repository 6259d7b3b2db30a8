//! Addresses of the web, http and https only, as far as a client of registries and catalogs needs them: who is asked, what for, and
//! whether two of them are the same server.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// The longest address, bytes.
const MAX_BYTES: usize = 8192;

/// A text that is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an http:// or https:// address")]
pub struct ParseUrlError(String);

/// An address. It never holds a user's name or password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    /// Host and, where it is given, port.
    authority: String,
    /// From the first `/` on, query included.
    path: String,
}

impl FromStr for Url {
    type Err = ParseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseUrlError(text.chars().take(200).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(error()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if text.len() > MAX_BYTES || !is_authority(authority) || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(error());
        }
        Ok(Self { secure, authority: authority.to_ascii_lowercase(), path })
    }
}

/// Whether `text` is a host, with a port or without.
pub fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let host_ok = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            !host.is_empty() && host.len() <= 253 && host.chars().all(ok)
        }
    };
    host_ok && port_ok
}

/// Whether the host, with a port or without, is this machine itself.
pub fn is_loopback(authority: &str) -> bool {
    let (host, _) = split_port(authority);
    let bare = host.trim_matches(['[', ']']);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // `[::1]` has colons of its own.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

impl Url {
    /// The address of `path`, which begins with `/`, at a server.
    ///
    /// # Errors
    /// The path or the server is none.
    pub fn at(secure: bool, authority: &str, path: &str) -> Result<Self, ParseUrlError> {
        format!("{}://{authority}{path}", if secure { "https" } else { "http" }).parse()
    }

    /// Host and, where it is given, port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether it is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it is this machine's.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.authority)
    }

    /// Whether the two are of one server: what is secret to one may be told the other.
    pub fn same_origin(&self, other: &Self) -> bool {
        let port = |url: &Self| match split_port(&url.authority).1 {
            Some(port) => port.to_owned(),
            None => (if url.secure { "443" } else { "80" }).to_owned(),
        };
        let host = |url: &Self| split_port(&url.authority).0.to_owned();
        self.secure == other.secure && host(self) == host(other) && port(self) == port(other)
    }

    /// Where `location`, from an answer to this address, leads.
    ///
    /// # Errors
    /// It is not an address.
    pub fn join(&self, location: &str) -> Result<Self, ParseUrlError> {
        if location.contains("://") {
            return location.parse();
        }
        let scheme = if self.secure { "https:" } else { "http:" };
        if location.starts_with("//") {
            return format!("{scheme}{location}").parse();
        }
        let directory = || {
            let path = self.path.split('?').next().unwrap_or_default();
            path.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned()
        };
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            format!("{}/{location}", directory())
        };
        Self::at(self.secure, &self.authority, &path)
    }

    /// The same with `name=value`, encoded, in its query.
    pub fn with_query(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(&format!("{name}={}", encoded(value)));
        self
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "https" } else { "http" }, self.authority, self.path)
    }
}

/// Percent-encoding of everything that is not unreserved (RFC 3986).
pub fn encoded(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_taken_apart() {
        for good in ["http://a/", "https://A.b:5000/x?y=z", "http://[::1]:80/", "https://h"] {
            assert!(good.parse::<Url>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "ftp://a/",
            "http://",
            "http://u:p@a/",
            "http://a b/",
            "http://a/ b",
            "http://a:0/",
            "http://a:x/",
            "file:///etc",
            "http://[x]/",
            "http://a/\n",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
        assert_eq!(url("https://H/x#y").to_string(), "https://h/x");
        assert!(url("http://127.9.9.9:1/").is_loopback() && url("http://[::1]:80/").is_loopback());
        assert!(!url("http://127.0.0.1.example.org/").is_loopback());
    }

    #[test]
    fn origins_and_relative_addresses() {
        let base = url("https://r.example:443/v2/a?x=/");
        assert!(base.same_origin(&url("https://r.example/")));
        assert!(!base.same_origin(&url("http://r.example/")));
        assert!(!base.same_origin(&url("https://r.example:444/")));
        assert_eq!(base.join("/b").unwrap().to_string(), "https://r.example:443/b");
        assert_eq!(base.join("b?c").unwrap().to_string(), "https://r.example:443/v2/b?c");
        assert_eq!(base.join("//o/b").unwrap().to_string(), "https://o/b");
        assert_eq!(base.join("http://o/").unwrap().to_string(), "http://o/");
        assert!(base.join("javascript://o/").is_err());
        assert_eq!(url("http://a/t").with_query("s", "a b/:").to_string(), "http://a/t?s=a%20b%2F%3A");
    }
}
