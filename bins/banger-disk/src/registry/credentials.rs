//! Who the user is to a registry, as `docker login` and `podman login` leave it in `config.json`: in the file itself, or with a
//! helper, a program `docker-credential-NAME`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use thiserror::Error;

use banger_host::process::exec::{Exec, ExecError};

/// The largest configuration, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// How long a helper may take: it may ask its user.
const HELPER: Duration = Duration::from_secs(60);

/// What a helper says where it knows nothing (docker-credential-helpers).
const UNKNOWN: &str = "credentials not found";

/// Credentials that cannot be read.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not of its shape. What is wrong in it is not told: it holds secrets.
    #[error("{0:?} is not a configuration of docker's")]
    Shape(PathBuf),
    /// The helper's name is none.
    #[error("{path:?} names the helper {name:?}, which is not a program's name")]
    HelperName {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The helper cannot be run.
    #[error("cannot ask the helper for the credentials of {registry}")]
    Helper {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// The helper said something else.
    #[error("{program} failed to give the credentials of {registry}")]
    Answer {
        /// The helper.
        program: String,
        /// The registry.
        registry: String,
    },
}

/// Who the user is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is exchanged for others.
    Identity(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// The header for HTTP's own authentication; `None` for an identity token, which is none.
    pub fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) => None,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The credentials for `registry` (a reference's) by the configuration at `path`; `None`: there are none, or no such file.
pub fn find(path: &Path, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(MAX_CONFIG_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Read { path: path.to_owned(), source }),
    }
    let shape = || CredentialsError::Shape(path.to_owned());
    let config: Config = serde_json::from_slice(&bytes).map_err(|_| shape())?;
    let keys = keys(registry);
    let helper = keys.iter().find_map(|key| Some((key, config.cred_helpers.get(key)?)));
    if let Some((key, helper)) = helper {
        return ask(path, helper, key);
    }
    if let Some(entry) = keys.iter().find_map(|key| config.auths.get(key))
        && let Some(found) = entry.credentials().ok_or_else(shape)?
    {
        return Ok(Some(found));
    }
    match &config.creds_store {
        Some(store) => ask(path, store, &keys[0]),
        None => Ok(None),
    }
}

/// The names under which a registry's credentials are kept.
fn keys(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        return ["https://index.docker.io/v1/", "index.docker.io", "docker.io"].map(str::to_owned).to_vec();
    }
    vec![registry.to_owned(), format!("https://{registry}"), format!("https://{registry}/v1/")]
}

impl Entry {
    /// `Some(None)`: it is empty, and the secret is with the store. `None`: it cannot be read.
    fn credentials(&self) -> Option<Option<Credentials>> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Some(Credentials::Identity(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let text = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            let password = password.trim_end_matches('\0').to_owned();
            return Some(Some(Credentials::Password { user: user.to_owned(), password }));
        }
        let both = self.username.clone().zip(self.password.clone());
        Some(both.map(|(user, password)| Credentials::Password { user, password }))
    }
}

/// Asks a helper: the server on its stdin, JSON on its stdout.
fn ask(path: &Path, helper: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if helper.is_empty() || helper.len() > 64 || !helper.chars().all(ok) {
        let name = helper.chars().take(100).collect();
        return Err(CredentialsError::HelperName { path: path.to_owned(), name });
    }
    let program = format!("docker-credential-{helper}");
    let exec = Exec::new(&program).arg("get").stdin(format!("{registry}\n")).deadline(HELPER);
    let output = exec.stdout_limit(64 << 10).output();
    let output =
        output.map_err(|source| CredentialsError::Helper { registry: registry.to_owned(), source })?;
    let failed = || CredentialsError::Answer { program: program.clone(), registry: registry.to_owned() };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &output.stderr;
        return if said.contains(UNKNOWN) { Ok(None) } else { Err(failed()) };
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| failed())?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credentials::Identity(answer.secret),
        _ => Credentials::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        find(&path, registry)
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.into(), password: password.into() })
    }

    #[test]
    fn credentials_are_found_under_their_names() {
        let config = r#"{"auths":{"r.example:5000":{"auth":"YW5uOnNlOmNyZXQ="},"https://index.docker.io/v1/":
            {"username":"u","password":"p"},"t.example":{"identitytoken":"tok"},"empty.example":{}},"other":1}"#;
        assert_eq!(found(config, "r.example:5000").unwrap(), password("ann", "se:cret"));
        assert_eq!(found(config, "docker.io").unwrap(), password("u", "p"));
        assert_eq!(found(config, "t.example").unwrap(), Some(Credentials::Identity("tok".into())));
        assert_eq!(found(config, "r.example").unwrap(), None, "another port is another server");
        assert_eq!(found(config, "empty.example").unwrap(), None);
        assert_eq!(find(Path::new("/nonexistent/config.json"), "r.example").unwrap(), None);
        let basic = password("ann", "se:cret").unwrap();
        assert_eq!(basic.basic().unwrap(), "Basic YW5uOnNlOmNyZXQ=");
        assert_eq!(format!("{basic:?}"), "Credentials");
    }

    #[test]
    fn broken_configurations_are_told_without_their_secrets() {
        for bad in
            ["{", r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#, r#"{"auths":{"r.example":{"auth":"!"}}}"#]
        {
            let error = found(bad, "r.example").unwrap_err();
            assert!(matches!(error, CredentialsError::Shape(_)), "{error:?}");
        }
        let error = found(r#"{"credsStore":"../x"}"#, "r.example").unwrap_err();
        assert!(matches!(error, CredentialsError::HelperName { .. }));
        let error = found(r#"{"credHelpers":{"r.example":"banger-none"}}"#, "r.example").unwrap_err();
        assert!(matches!(error, CredentialsError::Helper { .. }));
    }
}
