//! Talking to one registry about one image (OCI distribution specification): authentication, and patience with it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::credentials::{self, Credentials};
use super::error::PullError;
use super::reference::Reference;
use crate::sys::url::{self, Url};
use crate::sys::web::{Answer, Request, Web, WebError};
use banger_contract::error::escape_controls;

/// How often the same is asked for where the registry or the network fails.
const ATTEMPTS: u32 = 4;

/// The first pause between attempts; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause that a registry may ask for.
const MAX_PAUSE_S: u64 = 60;

/// The largest answer of a token server, bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// The most of an error's body that is read, bytes.
const MAX_COMPLAINT_BYTES: u64 = 64 << 10;

/// One registry and one image.
pub(super) struct Session<'a> {
    pub(super) reference: &'a Reference,
    web: &'a Web,
    /// docker's configuration.
    config: Option<&'a Path>,
    /// What it is told of us, once that is something.
    authorization: Mutex<Option<Authorization>>,
}

/// The header Authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authorization {
    header: String,
    /// Whether it came of the user's credentials: that goes through TLS or to this machine alone, whatever is taken without.
    is_secret: bool,
}

/// Whether `url` may be told what is secret.
fn is_private(url: &Url) -> bool {
    url.is_secure() || url.is_loopback()
}

/// What the header WWW-Authenticate asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Session<'a> {
    pub(super) fn new(reference: &'a Reference, web: &'a Web, config: Option<&'a Path>) -> Self {
        Self { reference, web, config, authorization: Mutex::new(None) }
    }

    /// Asks for `kind` (`manifests`, `blobs`) `name`, from its byte `from` on. The answer has status 200 or 206.
    pub(super) fn get(&self, kind: &str, name: &str, accept: &str, from: u64) -> Result<Answer, PullError> {
        let what = format!("{} {name}", kind.trim_end_matches('s'));
        let path = format!("/v2/{}/{kind}/{name}", self.reference.repository());
        let server = self.reference.server();
        let url = Url::at(!url::is_loopback(server), server, &path);
        let url = url.map_err(|_| self.answer(&what, "has an address that is not valid"))?;
        match self.ask(&url, &what, accept, from) {
            // A registry of one's own without encryption: https was tried first.
            Err(PullError::Web {
                source: WebError::Failed { .. } | WebError::Unreachable { .. }, ..
            }) if self.web.takes_plain_from_all() && url.is_secure() && !self.has_secret() => {
                let plain = Url::at(false, server, &path).expect("it was an address before");
                self.ask(&plain, &what, accept, from)
            }
            other => other,
        }
    }

    fn ask(&self, url: &Url, what: &str, accept: &str, from: u64) -> Result<Answer, PullError> {
        let mut pause = PAUSE;
        let mut authenticated = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            // Another thread may have learnt something meanwhile that is not for this address.
            let authorization = self.authorization().filter(|told| !told.is_secret || is_private(url));
            let header = authorization.as_ref().map(|told| told.header.as_str());
            let request = Request { url, accept, authorization: header, from, form: None };
            let answer = match self.web.send(&request) {
                Ok(answer) => answer,
                Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                    std::thread::sleep(pause);
                    pause *= 2;
                    continue;
                }
                Err(source) => return Err(self.web_error(source)),
            };
            match answer.status {
                200 | 206 => return Ok(answer),
                401 if !authenticated => {
                    authenticated = true;
                    self.authenticate(url, &answer, authorization)?;
                    // That was no failure of the registry's.
                    attempt -= 1;
                }
                401 | 403 => return Err(self.denied(answer)),
                404 => return Err(PullError::Unknown { reference: self.shown(), what: what.to_owned() }),
                429 | 500 | 502 | 503 | 504 if attempt < ATTEMPTS => {
                    std::thread::sleep(self.pause(&answer)?.unwrap_or(pause));
                    pause *= 2;
                }
                status => {
                    let (reference, what) = (self.shown(), what.to_owned());
                    return Err(PullError::Status { reference, what, status });
                }
            }
        }
    }

    fn authorization(&self) -> Option<Authorization> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the registry was told something secret: then it has TLS or is this machine, and who cannot reach it so now is led elsewhere.
    fn has_secret(&self) -> bool {
        self.authorization().is_some_and(|told| told.is_secret)
    }

    /// The pause that the registry asks for; only seconds are understood, not dates.
    fn pause(&self, answer: &Answer) -> Result<Option<Duration>, PullError> {
        let Some(seconds) = answer.header("retry-after").and_then(|text| text.trim().parse::<u64>().ok())
        else {
            return Ok(None);
        };
        if seconds > MAX_PAUSE_S {
            return Err(PullError::Later { reference: self.shown(), seconds });
        }
        Ok(Some(Duration::from_secs(seconds)))
    }

    /// Does what the answer's challenge asks for. `used` was of no avail; where another thread has a newer one already, that is taken.
    fn authenticate(&self, url: &Url, answer: &Answer, used: Option<Authorization>) -> Result<(), PullError> {
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if *authorization != used {
            return Ok(());
        }
        // The registry that was named, not one that it redirects to, may ask who the user is.
        let asked =
            answer.url.same_origin(url).then(|| answer.header("www-authenticate").and_then(challenge));
        let Some(challenge) = asked.flatten() else {
            return Err(self.no("it asks for a login of a kind that is not known"));
        };
        let credentials = match self.config {
            Some(path) if is_private(url) => credentials::find(path, self.reference.registry())
                .map_err(|source| PullError::Credentials { reference: self.shown(), source })?,
            _ => None,
        };
        let header = match challenge {
            Challenge::Basic if !is_private(url) => {
                return Err(self.no("it asks for a login, which is not sent without encryption"));
            }
            Challenge::Basic => {
                let basic = credentials.as_ref().and_then(Credentials::basic);
                basic.ok_or_else(|| self.no("it asks for a login, and there is none"))?
            }
            Challenge::Bearer { realm, service } => {
                format!("Bearer {}", self.token(url, &realm, service.as_deref(), credentials.as_ref())?)
            }
        };
        *authorization = Some(Authorization { header, is_secret: credentials.is_some() });
        Ok(())
    }

    /// A token for this image alone, whatever the registry asks for (distribution/docs/spec/auth/token.md, oauth.md).
    fn token(
        &self,
        registry: &Url,
        realm: &str,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<String, PullError> {
        let what = "the token";
        let realm: Url =
            realm.parse().map_err(|_| self.answer(what, "is offered at something that is not an address"))?;
        let inside = registry.is_loopback() && realm.is_loopback();
        if !(realm.is_secure() || inside || self.web.takes_plain_from_all()) {
            return Err(self.web_error(WebError::Plain(realm.to_string())));
        }
        if credentials.is_some() && !is_private(&realm) {
            return Err(self.no("it wants a login at an address without encryption, where none is sent"));
        }
        let scope = format!("repository:{}:pull", self.reference.repository());
        let mut form = None;
        let mut url = realm;
        let mut basic = None;
        match credentials {
            Some(Credentials::Identity(token)) => {
                let mut text =
                    format!("grant_type=refresh_token&client_id=banger&scope={}", url::encoded(&scope));
                for (name, value) in [("service", service), ("refresh_token", Some(token.as_str()))] {
                    if let Some(value) = value {
                        write!(text, "&{name}={}", url::encoded(value)).expect("a string takes all");
                    }
                }
                form = Some(text);
            }
            other => {
                basic = other.and_then(Credentials::basic);
                if let Some(service) = service {
                    url = url.with_query("service", service);
                }
                url = url.with_query("scope", &scope);
            }
        }
        let accept = "application/json";
        let request =
            Request { url: &url, accept, authorization: basic.as_deref(), from: 0, form: form.as_deref() };
        let answer = self.web.send(&request).map_err(|source| self.web_error(source))?;
        match answer.status {
            200 => {}
            401 | 403 => return Err(self.denied(answer)),
            status => return Err(PullError::Status { reference: self.shown(), what: what.into(), status }),
        }
        let bytes = answer.bytes(MAX_TOKEN_BYTES).map_err(|source| self.broken(what, source))?;
        let bytes = bytes.ok_or_else(|| self.answer(what, "is larger than a token can be"))?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let is_token =
            |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        token.filter(is_token).ok_or_else(|| self.answer(what, "is not a token"))
    }

    pub(super) fn shown(&self) -> String {
        self.reference.to_string()
    }

    fn no(&self, reason: &str) -> PullError {
        PullError::Denied { reference: self.shown(), reason: reason.to_owned() }
    }

    /// The registry's own words, as far as they are such.
    fn denied(&self, answer: Answer) -> PullError {
        let status = answer.status;
        let body = answer.bytes(MAX_COMPLAINT_BYTES).ok().flatten().unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = value["errors"][0]["message"].as_str().or(value["details"].as_str()).unwrap_or_default();
        let said: String = escape_controls(said).chars().take(200).collect();
        self.no(&if said.is_empty() { format!("status {status}") } else { said })
    }

    pub(super) fn answer(&self, what: &str, problem: &str) -> PullError {
        PullError::Answer { reference: self.shown(), what: what.to_owned(), problem: problem.to_owned() }
    }

    pub(super) fn broken(&self, what: &str, source: std::io::Error) -> PullError {
        PullError::Broken { reference: self.shown(), what: what.to_owned(), source }
    }

    fn web_error(&self, source: WebError) -> PullError {
        PullError::Web { reference: self.shown(), source }
    }
}

/// `Bearer realm="…",service="…"` or `Basic …` (RFC 9110, 11.6.1), the former where there are both.
fn challenge(header: &str) -> Option<Challenge> {
    let lower = header.to_ascii_lowercase();
    if let Some(at) = lower.find("bearer ") {
        let parameters = parameters(&header[at + "bearer ".len()..]);
        let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        return Some(Challenge::Bearer { realm: get("realm")?, service: get("service") });
    }
    lower.trim_start().starts_with("basic").then_some(Challenge::Basic)
}

/// `name="value", name=value`; a quoted value may hold commas.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        found.push((name.trim_matches([' ', ',']).to_ascii_lowercase(), value.trim().to_owned()));
        text = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
        };
        let full =
            r#"Bearer realm="https://a.example/t?x=1,2",service="r.example",scope="repository:a:pull,push""#;
        assert_eq!(challenge(full), bearer("https://a.example/t?x=1,2", Some("r.example")));
        assert_eq!(challenge("bearer realm=https://a/t, service=s"), bearer("https://a/t", Some("s")));
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        for none in
            ["", "Negotiate", "Bearer", "Bearer x", "Bearer service=\"s\"", "Bearer =\"", "Bearer realm"]
        {
            assert_eq!(challenge(none), None, "{none}");
        }
    }
}
