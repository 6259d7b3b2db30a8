//! Getting images and kernels by their short names from a catalog, an index at an address that somebody named. None is known by
//! itself.
//!
//! The index is believed as far as its server is (TLS); the files are checked against the digests in it, wherever they come from. What an
//! interrupted download left is gone on with.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::arch;
use crate::sys::url::Url;
use crate::sys::web::{Request, Web, WebError};
use banger_contract::catalog::{CATALOG_SCHEMA, Catalog, CatalogFile, CatalogImage, CatalogKernel};
use banger_contract::{Coded, ErrorCode};

/// The largest catalog, bytes.
const MAX_CATALOG_BYTES: u64 = 8 << 20;

/// How often a file is gone on with after a connection broke.
const ATTEMPTS: u32 = 5;

/// How often progress is told.
const TOLD: Duration = Duration::from_millis(500);

/// Something that cannot be had from a catalog.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// There is no catalog.
    #[error("{0} is not an image in a registry, and there is no catalog in which it could be")]
    None(String),
    /// It cannot be asked.
    #[error("cannot ask the catalog {url}")]
    Web {
        /// Its address, or that of a file.
        url: String,
        /// Why.
        #[source]
        source: WebError,
    },
    /// It answers with an error.
    #[error("{url} answers with status {status}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// It is none, or a file is not what the catalog says.
    #[error("{url} {problem}")]
    Invalid {
        /// The address.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// It has no such thing.
    #[error("the catalog {url} has no {kind} {name} for {arch}; it has: {found}")]
    Unknown {
        /// The catalog.
        url: String,
        /// `image` or `kernel`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// The architecture.
        arch: &'static str,
        /// What is there.
        found: String,
    },
    /// A connection broke, again and again.
    #[error("{url} does not come through")]
    Broken {
        /// The file.
        url: String,
        /// The last time.
        #[source]
        source: io::Error,
    },
    /// A file of the cache.
    #[error("cannot write {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Coded for CatalogError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::None(_) | Self::Web { source: WebError::Plain(_), .. } => ErrorCode::Usage,
            Self::Unknown { .. } => ErrorCode::NotFound,
            Self::Status { status: 404, .. } => ErrorCode::NotFound,
            Self::Status { status: 401 | 403, .. } => ErrorCode::Denied,
            Self::Invalid { .. } => ErrorCode::BadInput,
            Self::Web { .. } | Self::Status { .. } | Self::Broken { .. } | Self::File { .. } => {
                ErrorCode::Failed
            }
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::None(name) => format!(
                "write docker.io/library/{name} or the like for an image in a registry, or name a catalog with --catalog URL"
            ),
            Self::Web { source: WebError::Plain(_), .. } => "--insecure takes it without encryption".into(),
            Self::Web { source, .. } if source.certificate_hint().is_some() => {
                source.certificate_hint()?.to_owned()
            }
            Self::Web { .. } | Self::Broken { .. } => {
                "without the catalog: banger image build makes an image, and banger image import takes an archive".into()
            }
            _ => return None,
        })
    }
}

/// A catalog at its address.
pub struct Source<'a> {
    web: &'a Web,
    url: Url,
    catalog: Catalog,
}

impl<'a> Source<'a> {
    /// Asks for the catalog at `url`.
    pub fn open(web: &'a Web, url: Url) -> Result<Self, CatalogError> {
        let request =
            Request { url: &url, accept: "application/json", authorization: None, from: 0, form: None };
        let answer =
            web.send(&request).map_err(|source| CatalogError::Web { url: url.to_string(), source })?;
        if answer.status != 200 {
            return Err(CatalogError::Status { url: url.to_string(), status: answer.status });
        }
        let invalid =
            |problem: &str| CatalogError::Invalid { url: url.to_string(), problem: problem.to_owned() };
        let bytes = answer.bytes(MAX_CATALOG_BYTES);
        let bytes = bytes.map_err(|source| CatalogError::Broken { url: url.to_string(), source })?;
        let bytes = bytes.ok_or_else(|| invalid("is larger than a catalog can be"))?;
        let catalog: Catalog = serde_json::from_slice(&bytes).map_err(|_| invalid("is not a catalog"))?;
        if catalog.schema != CATALOG_SCHEMA {
            return Err(invalid("is not a catalog of a kind that is known"));
        }
        Ok(Self { web, url, catalog })
    }

    /// The image of that name.
    pub fn image(&self, name: &str) -> Result<&CatalogImage, CatalogError> {
        let fits = |image: &&CatalogImage| image.name.as_str() == name && image.arch == arch::NAME;
        let names = || self.catalog.images.iter().map(|image| image.name.to_string());
        self.catalog.images.iter().find(fits).ok_or_else(|| self.unknown("image", name, names()))
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Result<&CatalogKernel, CatalogError> {
        let fits = |kernel: &&CatalogKernel| kernel.name.as_str() == name && kernel.arch == arch::NAME;
        let names = || self.catalog.kernels.iter().map(|kernel| kernel.name.to_string());
        self.catalog.kernels.iter().find(fits).ok_or_else(|| self.unknown("kernel", name, names()))
    }

    fn unknown(&self, kind: &'static str, name: &str, found: impl Iterator<Item = String>) -> CatalogError {
        let names: Vec<String> = found.take(20).collect();
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        CatalogError::Unknown {
            url: self.url.to_string(),
            kind,
            name: name.to_owned(),
            arch: arch::NAME,
            found,
        }
    }

    /// Where the file comes from, for a manifest.
    pub fn address(&self, file: &CatalogFile) -> Result<Url, CatalogError> {
        self.url.join(&file.url).map_err(|error| CatalogError::Invalid {
            url: self.url.to_string(),
            problem: format!("names a file at no address: {error}"),
        })
    }

    /// Fetches `file` into the directory `into`, under its digest and with `suffix`; gives its path.
    pub fn fetch(
        &self,
        file: &CatalogFile,
        into: &Path,
        suffix: &str,
        progress: &mut dyn FnMut(&str, &str),
    ) -> Result<PathBuf, CatalogError> {
        let url = self.address(file)?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if file.sha256.len() != 64 || !file.sha256.bytes().all(is_hex) {
            let problem = "names a file with a digest that cannot be checked".to_owned();
            return Err(CatalogError::Invalid { url: self.url.to_string(), problem });
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(into);
        made.map_err(|source| CatalogError::File { path: into.to_owned(), source })?;
        let target = into.join(format!("{}{suffix}", file.sha256));
        let mut download =
            Download { web: self.web, file, url, path: into.join(format!("{}.part", file.sha256)) };
        let mut told = None::<Instant>;
        download.run(&mut |bytes| {
            if bytes >= file.size_bytes || told.is_none_or(|at| at.elapsed() > TOLD) {
                told = Some(Instant::now());
                let (have, all) = (bytes as f64 / 1e6, file.size_bytes as f64 / 1e6);
                progress("download", &format!("{have:.1} of {all:.1} MB"));
            }
        })?;
        let renamed = fs::rename(&download.path, &target);
        renamed.map(|()| target.clone()).map_err(|source| CatalogError::File { path: target, source })
    }
}

/// One file on its way.
struct Download<'a> {
    web: &'a Web,
    file: &'a CatalogFile,
    url: Url,
    path: PathBuf,
}

impl Download<'_> {
    fn error(&self, source: io::Error) -> CatalogError {
        CatalogError::File { path: self.path.clone(), source }
    }

    fn invalid(&self, problem: &str) -> CatalogError {
        // What came is of no use to the next attempt.
        drop(fs::remove_file(&self.path));
        CatalogError::Invalid { url: self.url.to_string(), problem: problem.to_owned() }
    }

    /// Fetches what is missing, and checks all of it.
    fn run(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), CatalogError> {
        let mut attempt = 0;
        loop {
            let have = fs::metadata(&self.path).map_or(0, |m| m.len());
            if have < self.file.size_bytes || have == 0 {
                attempt += 1;
                if let Err(source) = self.more(have, progress)? {
                    if attempt >= ATTEMPTS {
                        return Err(CatalogError::Broken { url: self.url.to_string(), source });
                    }
                    std::thread::sleep(Duration::from_millis(300) * attempt);
                    continue;
                }
            }
            let found = digest(&self.path).map_err(|source| self.error(source))?;
            return match found == self.file.sha256 {
                true => Ok(()),
                false => Err(self.invalid("is not what the catalog says: its digest is another one")),
            };
        }
    }

    /// One request. The inner error: the connection broke, and what came before is kept.
    fn more(&self, have: u64, progress: &mut dyn FnMut(u64)) -> Result<io::Result<()>, CatalogError> {
        let request = Request { url: &self.url, accept: "*/*", authorization: None, from: have, form: None };
        let answer = match self.web.send(&request) {
            Ok(answer) => answer,
            Err(error) if error.is_passing() => return Ok(Err(io::Error::other(error))),
            Err(source) => return Err(CatalogError::Web { url: self.url.to_string(), source }),
        };
        let goes_on = answer.status == 206
            && answer
                .header("content-range")
                .is_some_and(|r| r.trim().starts_with(&format!("bytes {have}-")));
        match answer.status {
            200 => {}
            206 if goes_on && have > 0 => {}
            429 | 500..=599 => return Ok(Err(io::Error::other(format!("status {}", answer.status)))),
            206 | 416 => return Err(self.invalid("gives another part than it is asked for")),
            status => return Err(CatalogError::Status { url: self.url.to_string(), status }),
        }
        let mut have = if goes_on { have } else { 0 };
        if answer.length().is_some_and(|length| have.saturating_add(length) != self.file.size_bytes) {
            return Err(self.invalid("has another length than the catalog says"));
        }
        let file =
            OpenOptions::new().create(true).write(true).append(goes_on).truncate(!goes_on).open(&self.path);
        let mut file = file.map_err(|source| self.error(source))?;
        let mut body = answer.into_body();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) if have == self.file.size_bytes => return Ok(Ok(())),
                Ok(0) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) => return Ok(Err(error)),
            };
            have += count as u64;
            if have > self.file.size_bytes {
                return Err(self.invalid("is longer than the catalog says"));
            }
            file.write_all(&buffer[..count]).map_err(|source| self.error(source))?;
            progress(have);
        }
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            count => hash.update(&buffer[..count]),
        }
    }
}
