//! The configuration: finding it and reading it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use banger_cli::plumbing;
use banger_contract::config::{self, Config, ConfigError, KEYS, MAX_CONFIG_BYTES, Parsed, Source};

use crate::context::Globals;

/// The configuration as it holds for this command, before the command's own options.
#[derive(Debug, Default)]
pub struct Loaded {
    pub config: Config,
    pub path: PathBuf,
    pub exists: bool,
    pub sources: BTreeMap<&'static str, (Source, String)>,
    pub sync_lines: Vec<usize>,
}

/// Reads the file and the environment.
pub fn load(globals: &Globals) -> std::result::Result<Loaded, ConfigError> {
    let (path, text) = match place(globals) {
        Some((path, named)) => {
            let text = read(&path, named)?;
            (path, text)
        }
        None => (PathBuf::new(), None),
    };
    let exists = text.is_some();
    let Parsed { mut config, lines, sync_lines } = config::parse(&path, &text.unwrap_or_default())?;
    let mut sources: BTreeMap<_, _> =
        lines.into_iter().map(|(key, line)| (key, (Source::Config, line.to_string()))).collect();
    for key in &KEYS {
        let Some((variable, value)) = key.variable.and_then(|name| Some((name, std::env::var_os(name)?)))
        else {
            continue;
        };
        config::apply_variable(&mut config, key, &value.to_string_lossy())?;
        sources.insert(key.name, (Source::Environment, variable.to_owned()));
    }
    Ok(Loaded { config, path, exists, sources, sync_lines })
}

/// Where the file is, and whether somebody named it. `None`: there is no place for one.
pub fn place(globals: &Globals) -> Option<(PathBuf, bool)> {
    if let Some(path) = &globals.config {
        return Some((path.clone(), true));
    }
    if rustix::process::geteuid().is_root() {
        return Some((PathBuf::from("/etc/banger/config.toml"), false));
    }
    let home = plumbing::directory_of("XDG_CONFIG_HOME")
        .or_else(|| plumbing::directory_of("HOME").map(|home| home.join(".config")));
    home.map(|home| (home.join("banger/config.toml"), false))
}

/// The file's text. `None`: it is not there, and nobody named it.
fn read(path: &Path, named: bool) -> std::result::Result<Option<String>, ConfigError> {
    let error = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound && !named => return Ok(None),
        Err(source) => return Err(error(source)),
    };
    let mut text = String::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(error)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(error(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    Ok(Some(text))
}
