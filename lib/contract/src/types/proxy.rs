//! The address of a proxy, perhaps with a name and a password in it: these are never shown.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest address, bytes.
const MAX_BYTES: usize = 2000;

/// A text that is not an address of a proxy. It may hold a password, so that it is not quoted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "it is not a proxy's address: http:// or https://, perhaps NAME:PASSWORD@, a host, and perhaps a port"
)]
pub struct ParseProxyError;

/// An http proxy. Shown, it has no name and no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    scheme: &'static str,
    credentials: Option<String>,
    /// Host and, where it is given, port.
    authority: String,
}

impl Proxy {
    /// The whole address, for a program that uses the proxy.
    pub fn with_credentials(&self) -> String {
        match &self.credentials {
            Some(credentials) => format!("{}{credentials}@{}", self.scheme, self.authority),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.scheme, self.authority)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl FromStr for Proxy {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let of = |scheme: &'static str| Some((scheme, text.strip_prefix(scheme)?));
        let (scheme, rest) = of("http://").or_else(|| of("https://")).ok_or(ParseProxyError)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, rest),
        };
        // RFC 3986, userinfo. What else is in a password is written in percent, and no shell and no sshd can mistake it.
        let in_userinfo = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&()*+,;=:".contains(c);
        let is_fine = credentials.is_none_or(|text| !text.is_empty() && text.chars().all(in_userinfo));
        if text.len() > MAX_BYTES || !is_fine || !is_authority(authority) {
            return Err(ParseProxyError);
        }
        Ok(Self { scheme, credentials: credentials.map(str::to_owned), authority: authority.to_owned() })
    }
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        let proxy: Proxy = "http://me:s%40cret@proxy.test:3128/".parse().unwrap();
        assert_eq!(proxy.with_credentials(), "http://me:s%40cret@proxy.test:3128");
        assert_eq!(
            (proxy.to_string(), format!("{proxy:?}")),
            ("http://proxy.test:3128".into(), "Proxy(http://proxy.test:3128)".into())
        );
        for good in ["https://proxy", "http://10.0.2.2:3128", "http://[fd00::1]:80", "http://user@[fd00::1]"]
        {
            assert_eq!(good.parse::<Proxy>().unwrap().with_credentials(), good);
        }
        for bad in [
            "",
            "proxy:3128",
            "socks5://proxy",
            "http://",
            "http://:80",
            "http://p:0",
            "http://p:x",
            "http://@p",
            "http://a b@p",
            "http://a\"@p",
            "http://a'@p",
            "http://p/path",
            "http://p?q",
            "http://[::1",
            "http://a\n@p",
        ] {
            assert_eq!(bad.parse::<Proxy>(), Err(ParseProxyError), "{bad}");
        }
    }
}
