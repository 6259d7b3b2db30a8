//! A client of the web: one request, its redirects followed, secrets kept from other servers, everything bounded in time.
//!
//! ureq with rustls and ring, and the host's own certificates. Plain http is for this machine itself, or where the caller asked for it;
//! an encrypted address never redirects to a plain one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::host_ca;
use super::url::Url;

/// How often an answer may lead elsewhere.
const MAX_REDIRECTS: usize = 5;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// How long it may take until there is a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// The rate below which a download is given up, bytes per second, after [`SILENCE`].
const MIN_RATE: u64 = 1024;

/// The largest file of certificates, bytes.
const MAX_CA_BYTES: u64 = 16 << 20;

/// A server that cannot be asked, or whose answer cannot be used.
#[derive(Debug, Error)]
pub enum WebError {
    /// It would go over the network in the clear.
    #[error("{0} is not encrypted")]
    Plain(String),
    /// An answer leads nowhere.
    #[error("{from} redirects to {to:?}")]
    Redirect {
        /// The address that was asked.
        from: String,
        /// Where it leads.
        to: String,
    },
    /// Answers lead on and on.
    #[error("{0} redirects more than {MAX_REDIRECTS} times")]
    Loop(String),
    /// There are no certificates to check servers by.
    #[error("there are no certificates of authorities to check {0} by")]
    NoCertificates(String),
    /// Its certificate is of no authority that is known, or not its own.
    #[error("cannot trust the certificate of {host}")]
    Untrusted {
        /// Its name.
        host: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The server cannot be reached.
    #[error("cannot reach {host}")]
    Unreachable {
        /// Its name.
        host: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The request failed.
    #[error("the request to {host} failed")]
    Failed {
        /// The server.
        host: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
}

impl WebError {
    /// What to do about certificates, where these are the matter.
    pub fn certificate_hint(&self) -> Option<&'static str> {
        match self {
            Self::NoCertificates(_) => Some("install ca-certificates, or name a file with SSL_CERT_FILE"),
            Self::Untrusted { .. } => Some(
                "where its authority is your own, name the file with its certificate (PEM): SSL_CERT_FILE=FILE",
            ),
            _ => None,
        }
    }

    /// Whether another attempt may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Failed { source, .. } => {
                matches!(**source, ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_))
            }
            _ => false,
        }
    }
}

/// How the web is to be asked.
#[derive(Debug, Clone, Default)]
pub struct WebOptions {
    /// Take plain http from anybody.
    pub insecure: bool,
    /// The authorities' certificates, PEM; `None`: the distribution's.
    pub ca_file: Option<PathBuf>,
    /// More of them, DER.
    pub also: Vec<Vec<u8>>,
}

/// A client.
#[derive(Debug)]
pub struct Web {
    insecure: bool,
    certificates: bool,
    /// Through the proxy that the environment names, if any.
    outside: Agent,
    /// This machine is asked directly.
    inside: Agent,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The address.
    pub url: &'a Url,
    /// The media types that will do.
    pub accept: &'a str,
    /// The header Authorization, told to this server alone.
    pub authorization: Option<&'a str>,
    /// The first byte that is wanted.
    pub from: u64,
    /// A form to post (already encoded); `None`: nothing is sent.
    pub form: Option<&'a str>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The address that answered at last.
    pub url: Url,
    headers: HeaderMap,
    body: Body,
}

impl Web {
    /// A client. Nothing is asked yet.
    pub fn new(options: &WebOptions) -> Self {
        let mut certificates = certificates(options.ca_file.as_deref());
        certificates.extend(options.also.iter().map(|der| Certificate::from_der(der).to_owned()));
        let found = !certificates.is_empty();
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&certificates))
            .build();
        let agent = |proxied: bool| {
            let mut config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls.clone())
                .timeout_resolve(Some(CONNECT))
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(SILENCE))
                .timeout_per_read(Some(SILENCE))
                .timeout_per_write(Some(SILENCE));
            if !proxied {
                config = config.proxy(None);
            }
            config.build().new_agent()
        };
        Self { insecure: options.insecure, certificates: found, outside: agent(true), inside: agent(false) }
    }

    /// Whether plain http is taken from anybody.
    pub fn takes_plain_from_all(&self) -> bool {
        self.insecure
    }

    /// Asks, and follows where the answer leads.
    pub fn send(&self, request: &Request) -> Result<Answer, WebError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            self.check(request.url, &url)?;
            let answer = self.once(request, &url)?;
            let status = answer.status().as_u16();
            let location =
                answer.headers().get("location").filter(|_| matches!(status, 301..=303 | 307 | 308));
            let Some(location) = location else {
                let (parts, body) = answer.into_parts();
                return Ok(Answer { status, url, headers: parts.headers, body });
            };
            let to = String::from_utf8_lossy(location.as_bytes()).chars().take(8192).collect::<String>();
            let redirect = |to: String| WebError::Redirect { from: url.to_string(), to };
            // A form holds secrets.
            if request.form.is_some() {
                return Err(redirect(to));
            }
            url = url.join(&to).map_err(|_| redirect(to))?;
        }
        Err(WebError::Loop(request.url.to_string()))
    }

    /// Whether `url`, to which `first` led, may be asked.
    fn check(&self, first: &Url, url: &Url) -> Result<(), WebError> {
        if url.is_secure() {
            return if self.certificates { Ok(()) } else { Err(WebError::NoCertificates(url.to_string())) };
        }
        // Others may not send us to this machine's own services, nor out of what is encrypted.
        let stays = !first.is_secure() && first.is_loopback() && url.is_loopback();
        if stays || self.insecure { Ok(()) } else { Err(WebError::Plain(url.to_string())) }
    }

    fn once(&self, request: &Request, url: &Url) -> Result<Response<Body>, WebError> {
        let agent = if url.is_loopback() { &self.inside } else { &self.outside };
        let failed = |error| failure(url, error);
        if let Some(form) = request.form {
            let post = agent.post(url.to_string()).header("Accept", request.accept);
            return post.content_type("application/x-www-form-urlencoded").send(form).map_err(failed);
        }
        let mut get = agent.get(url.to_string()).header("Accept", request.accept);
        if let Some(authorization) = request.authorization.filter(|_| url.same_origin(request.url)) {
            get = get.header("Authorization", authorization);
        }
        if request.from > 0 {
            get = get.header("Range", format!("bytes={}-", request.from));
        }
        get.call().map_err(failed)
    }
}

fn failure(url: &Url, source: ureq::Error) -> WebError {
    let host = url.authority().to_owned();
    if let ureq::Error::Io(error) = &source
        && let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        && matches!(error, rustls::Error::InvalidCertificate(_))
    {
        return WebError::Untrusted { host, source: error.clone() };
    }
    let unreachable = match &source {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => true,
        ureq::Error::Io(error) => is_unreachable(error),
        _ => false,
    };
    let source = Box::new(source);
    if unreachable { WebError::Unreachable { host, source } } else { WebError::Failed { host, source } }
}

/// Whether there was no connection.
fn is_unreachable(error: &io::Error) -> bool {
    // A name that nobody resolves has no kind of its own (std::net::ToSocketAddrs).
    let unresolved = || error.raw_os_error().is_none() && error.to_string().starts_with("failed to lookup");
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkDown
    ) || unresolved()
}

/// The certificates in `file`, else in the distribution's. What cannot be read there does not count.
fn certificates(file: Option<&Path>) -> Vec<Certificate<'static>> {
    let places = file.map_or_else(host_ca::system_bundles, |file| vec![file.to_owned()]);
    let read = |path: PathBuf| {
        let mut pem = Vec::new();
        std::fs::File::open(path).and_then(|file| file.take(MAX_CA_BYTES).read_to_end(&mut pem)).ok()?;
        let items = parse_pem(&pem).flatten();
        let certificates = items.filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        });
        Some(certificates.collect::<Vec<_>>()).filter(|found| !found.is_empty())
    };
    places.into_iter().find_map(read).unwrap_or_default()
}

impl Answer {
    /// A header, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the body is to be, where the server says so.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The body, which is given up when it comes too slowly.
    pub fn into_body(self) -> impl Read {
        let body = self.body.into_with_config().limit(u64::MAX).reader();
        Paced { body, since: Instant::now(), bytes: 0 }
    }

    /// All of the body. `Ok(None)`: it is longer than `limit`.
    pub fn bytes(self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        if self.length().is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.into_body().take(limit + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 <= limit).then_some(bytes))
    }
}

/// A body that must keep coming.
struct Paced<R> {
    body: R,
    since: Instant,
    bytes: u64,
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.bytes += count as u64;
        let elapsed = self.since.elapsed();
        if elapsed > SILENCE && self.bytes < MIN_RATE * elapsed.as_secs() {
            let said = format!("it came with less than {MIN_RATE} bytes in a second");
            return Err(io::Error::new(io::ErrorKind::TimedOut, said));
        }
        Ok(count)
    }
}
