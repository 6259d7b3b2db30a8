//! `banger config`.

use std::process::ExitCode;

use banger_contract::config::{CONFIG_SCHEMA, ConfigError, KEYS, Setting, Settings, Source};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::context::{self, Globals, Result};
use crate::settings::{self, Loaded};
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

/// `banger config`. It looks at the file itself, so that one that is wrong can be found.
pub fn dispatch(globals: &Globals, args: &ConfigArgs) -> Result<ExitCode> {
    match args.command {
        ConfigCommand::Path => {
            let (path, _) = settings::place(globals).ok_or(ConfigError::NoPlace)?;
            Ok(match globals.json {
                true => context::emit(&json!({ "schema": CONFIG_SCHEMA, "path": path.to_string_lossy() })),
                false => context::print(&format!("{}\n", path.display())),
            })
        }
        ConfigCommand::Check => {
            let loaded = settings::load(globals)?;
            let (path, exists) = (loaded.path.display(), loaded.exists);
            Ok(match (globals.json, exists) {
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
        ConfigCommand::Show => show(globals, &settings::load(globals)?),
    }
}

fn show(globals: &Globals, loaded: &Loaded) -> Result<ExitCode> {
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
    if globals.json {
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
