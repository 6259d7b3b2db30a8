//! The configuration file: finding it, and `banger config`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banger_contract::config::{
    self, CONFIG_SCHEMA, Config, ConfigError, KEYS, MAX_CONFIG_BYTES, Parsed, Setting, Settings, Source,
};
use banger_contract::file_sync::FileSync;
use banger_contract::types::Proxy;
use banger_disk::cli::trust::{PROXY_VARIABLE, TrustSpec};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::args::Banger;
use crate::context::{self, Result};
use crate::stage::Stage;
use crate::table;

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every key, what holds for it, and where that comes from
    Show,
    /// Say whether the file is right
    Check,
    /// Say where the file is, or would be
    Path,
}

/// The configuration as it holds for this command, before the command's own options.
#[derive(Debug, Default)]
pub struct Loaded {
    pub config: Config,
    path: PathBuf,
    exists: bool,
    sources: BTreeMap<&'static str, (Source, String)>,
    sync_lines: Vec<usize>,
}

/// Reads the file and the environment.
pub fn load(banger: &Banger) -> std::result::Result<Loaded, ConfigError> {
    let (path, text) = match place(banger) {
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
fn place(banger: &Banger) -> Option<(PathBuf, bool)> {
    if let Some(path) = &banger.config {
        return Some((path.clone(), true));
    }
    if rustix::process::geteuid().is_root() {
        return Some((PathBuf::from("/etc/banger/config.toml"), false));
    }
    let home = context::absolute_variable("XDG_CONFIG_HOME")
        .or_else(|| context::absolute_variable("HOME").map(|home| home.join(".config")));
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

/// What the stage that packs what of the host the guest gets is told: paths on the host are absolute.
pub fn attach_stage(config: &Config) -> std::result::Result<Stage, ConfigError> {
    let home = context::absolute_variable("HOME");
    let mut stage = Stage::new("banger-disk", "attach");
    for sync in &config.file_sync {
        let host = sync.host_path(home.as_deref()).ok_or(ConfigError::NoHome)?;
        let sync = FileSync { host: host.to_string_lossy().into_owned(), ..sync.clone() };
        stage = stage.arg("--file-sync").arg(json!(sync).to_string());
    }
    let trust = TrustSpec::default().configured(config.host_ca);
    let stage = trust.into_iter().fold(stage, Stage::arg);
    Ok(stage.with_secret(PROXY_VARIABLE, config.proxy.as_ref().map(Proxy::with_credentials)))
}

/// `banger config`. It looks at the file itself, so that one that is wrong can be found.
pub fn dispatch(banger: &Banger, args: &ConfigArgs) -> Result<ExitCode> {
    match args.command {
        ConfigCommand::Path => {
            let (path, _) = place(banger).ok_or(ConfigError::NoPlace)?;
            Ok(match banger.json {
                true => context::emit(&json!({ "schema": CONFIG_SCHEMA, "path": path.to_string_lossy() })),
                false => context::print(&format!("{}\n", path.display())),
            })
        }
        ConfigCommand::Check => {
            let loaded = load(banger)?;
            let (path, exists) = (loaded.path.display(), loaded.exists);
            Ok(match (banger.json, exists) {
                (true, _) => {
                    let path = path.to_string();
                    context::emit(
                        &json!({ "schema": CONFIG_SCHEMA, "path": path, "exists": exists, "ok": true }),
                    )
                }
                (false, true) => context::print(&format!("{path} is right\n")),
                (false, false) => {
                    context::print(&format!("{path} is not there, which is right: defaults hold\n"))
                }
            })
        }
        ConfigCommand::Show => show(banger, &load(banger)?),
    }
}

fn show(banger: &Banger, loaded: &Loaded) -> Result<ExitCode> {
    let synced = loaded.config.file_sync.iter().zip(&loaded.sync_lines).enumerate();
    let synced = synced.map(|(index, (sync, line))| Setting {
        key: format!("file_sync[{index}]"),
        value: json!(sync),
        otherwise: None,
        source: Source::Config,
        place: Some(line.to_string()),
    });
    let items: Vec<Setting> = KEYS
        .iter()
        .map(|key| match loaded.sources.get(key.name) {
            Some((source, place)) => key.setting(&loaded.config, *source, Some(place.clone())),
            None => key.setting(&loaded.config, Source::Default, None),
        })
        .chain(synced)
        .collect();
    if banger.json {
        let (schema, path) = (CONFIG_SCHEMA.to_owned(), loaded.path.to_string_lossy().into_owned());
        return Ok(context::emit(&json!(Settings { schema, path, exists: loaded.exists, items })));
    }
    let rows = items.into_iter().map(|item| {
        let value = match (item.value, item.otherwise) {
            (Value::Null, otherwise) => format!("({})", otherwise.unwrap_or_default()),
            (Value::String(text), _) => text,
            (value, _) => value.to_string(),
        };
        let from = match (item.source, item.place) {
            (Source::Config, Some(line)) => format!("{}:{line}", loaded.path.display()),
            (Source::Environment, Some(variable)) => variable,
            _ => "default".to_owned(),
        };
        vec![item.key, value, from]
    });
    Ok(context::print(&table::table(&["KEY", "VALUE", "FROM"], rows)))
}
