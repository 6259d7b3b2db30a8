//! The file of preferences, banger-config(5): what a new VM is made of unless a command says otherwise, and how the stages are run.
//!
//! Only `banger` reads it, and puts what it says into records and arguments. [`KEYS`] is the list of everything that can stand in
//! it; an unknown key and a value that is not allowed are errors which name file, line and key.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file_sync::{FileSync, GUEST_ALLOWED, HOST_ALLOWED, MODE_ALLOWED};
use super::record::{DiskBackend, Egress, Init, NetMode, VmmKind};
use super::trust::HostCa;
use super::{Coded, ErrorCode};
use crate::types::{Cidr, ImageName, KernelName, Proxy};

mod keys;

pub use keys::{KEYS, Key, disk_size_bytes, memory_mib, ttl_seconds};

/// The schema of [`Settings`].
pub const CONFIG_SCHEMA: &str = "banger.config/1";

/// The largest file that is read, bytes.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What is wanted of VMs and stages. `None`: whoever does the work decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The image to boot.
    pub image: ImageName,
    /// Which init runs; `None`: the image's.
    pub init: Option<Init>,
    /// The kernel to boot, one that is not part of an image; `None`: the image's own.
    pub kernel: Option<KernelName>,
    /// Virtual CPUs; `None`: the host's, at most 2.
    pub vcpus: Option<u8>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Size of the root filesystem, bytes; `None`: the image's.
    pub disk_size_bytes: Option<u64>,
    /// Size of the work disk, bytes; `None`: the image's.
    pub work_size_bytes: Option<u64>,
    /// Seconds after which VMs are stopped; `None`: never.
    pub ttl_s: Option<u64>,
    /// Whether guests get out of their subnet.
    pub nat: bool,
    /// What guests may reach outside.
    pub egress: Egress,
    /// Whether other firewalls of the host are asked to let VMs through.
    pub open_firewall: bool,
    /// The proxy that commands in guests are told.
    pub proxy: Option<Proxy>,
    /// How the root is kept apart from its image.
    pub disk_backend: DiskBackend,
    /// The most that changes to a VM's root may take, bytes; `None`: as much as the root is large.
    pub max_changes_bytes: Option<u64>,
    /// Which VMM.
    pub vmm_kind: VmmKind,
    /// Firecracker's program; `None`: the one in PATH.
    pub firecracker_bin: Option<PathBuf>,
    /// Whether KVM is used even where it seems not to work.
    pub force_kvm: bool,
    /// How long a guest may take to be ready, seconds.
    pub ready_timeout_s: Option<u64>,
    /// How long a guest may take to shut down once its agent was asked, seconds.
    pub shutdown_timeout_s: Option<u64>,
    /// How long it may take once its power button was pressed (Ctrl-Alt-Del under Firecracker), seconds.
    pub button_timeout_s: Option<u64>,
    /// How long the VMM may take to end after SIGTERM, seconds.
    pub term_timeout_s: Option<u64>,
    /// How guests reach the network; `None`: a tap where the caller may make one, else user networking.
    pub net_mode: Option<NetMode>,
    /// The taps' network; `None`: one that is free.
    pub subnet: Option<Cidr>,
    /// The largest packet on guests' networks, bytes; `None`: 1500.
    pub mtu: Option<u16>,
    /// The address of the catalog of images and kernels.
    pub catalog: Option<String>,
    /// The most files that an image is made of; `None`: as `banger-disk` has it, and so below.
    pub max_entries: Option<u64>,
    /// The most that the layers of an image unpack to, bytes.
    pub max_unpacked_bytes: Option<u64>,
    /// The largest root filesystem that is made, bytes.
    pub max_image_bytes: Option<u64>,
    /// The most that is downloaded for an image, bytes.
    pub max_download_bytes: Option<u64>,
    /// Which authorities guests trust besides those of their image.
    pub host_ca: HostCa,
    /// Files of the user's that every start brings into the guest.
    pub file_sync: Vec<FileSync>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image: "debian".parse().expect("it is an image's name"),
            init: None,
            kernel: None,
            vcpus: None,
            memory_mib: 1024,
            disk_size_bytes: None,
            work_size_bytes: None,
            ttl_s: None,
            nat: true,
            egress: Egress::default(),
            open_firewall: false,
            proxy: None,
            disk_backend: DiskBackend::Auto,
            max_changes_bytes: None,
            vmm_kind: VmmKind::Auto,
            firecracker_bin: None,
            force_kvm: false,
            ready_timeout_s: None,
            shutdown_timeout_s: None,
            button_timeout_s: None,
            term_timeout_s: None,
            net_mode: None,
            subnet: None,
            mtu: None,
            catalog: None,
            max_entries: None,
            max_unpacked_bytes: None,
            max_image_bytes: None,
            max_download_bytes: None,
            host_ca: HostCa::default(),
            file_sync: Vec::new(),
        }
    }
}

/// A file that says something it must not, or cannot be read.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// In the parser's words.
        message: String,
    },
    /// A key that there is not.
    #[error("{}:{line}: there is no key {key}; there are {}", path.display(), known.join(", "))]
    Key {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The keys beside it.
        known: Vec<&'static str>,
    },
    /// A value that is not allowed.
    #[error("{}:{line}: {key} is {found}; {allowed} is allowed", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The value as it stands there.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// An environment variable whose value is not allowed.
    #[error("{variable} is {found:?}; {allowed} is allowed")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// There is no place for the file.
    #[error("there is no configuration file: neither --config, XDG_CONFIG_HOME nor HOME is set")]
    NoPlace,
    /// There is no home for `~/`.
    #[error("file_sync names paths below ~/, and HOME is not set")]
    NoHome,
}

impl Coded for ConfigError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Key { .. } | Self::Value { .. } => Some("see banger-config(5)".into()),
            _ => None,
        }
    }
}

/// What a file says, and where.
#[derive(Debug, Default)]
pub struct Parsed {
    /// What is wanted.
    pub config: Config,
    /// The line on which each key stands.
    pub lines: BTreeMap<&'static str, usize>,
    /// The line on which each entry of `file_sync` begins.
    pub sync_lines: Vec<usize>,
}

/// Reads `text`, which stands in the file `path`.
///
/// # Errors
/// All but [`ConfigError::Read`]: the first thing that is wrong.
pub fn parse(path: &Path, text: &str) -> Result<Parsed, ConfigError> {
    let reader = Reader { path, text };
    let table = DeTable::parse(text).map_err(|error| reader.syntax(&error))?;
    let mut parsed = Parsed::default();
    for (section, value) in table.get_ref() {
        let name = section.get_ref().as_ref();
        if name == "file_sync" {
            reader.file_sync(value, &mut parsed)?;
            continue;
        }
        let prefix = format!("{name}.");
        let Some(table) =
            value.get_ref().as_table().filter(|_| KEYS.iter().any(|k| k.name.starts_with(&prefix)))
        else {
            return Err(reader.unknown(section.span(), name.to_owned(), sections()));
        };
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let Some(known) = KEYS.iter().find(|known| known.name == name) else {
                let beside = KEYS.iter().map(|k| k.name).filter(|k| k.starts_with(&prefix));
                return Err(reader.unknown(key.span(), name, beside.collect()));
            };
            if (known.set)(&mut parsed.config, value.get_ref()).is_none() {
                return Err(reader.wrong(value.span(), name, known.allowed));
            }
            parsed.lines.insert(known.name, reader.line(key.span().start));
        }
    }
    Ok(parsed)
}

/// The sections, in the order of [`KEYS`].
fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = KEYS.iter().filter_map(|key| Some(key.name.split_once('.')?.0)).collect();
    sections.dedup();
    sections.push("file_sync");
    sections
}

/// Finds lines, for errors.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    /// The list `[[file_sync]]`.
    fn file_sync(&self, value: &Spanned<DeValue<'_>>, parsed: &mut Parsed) -> Result<(), ConfigError> {
        const FIELDS: [&str; 3] = ["host", "guest", "mode"];
        const LIST: &str = "a table for each file, headed [[file_sync]], with host, guest and perhaps mode";
        let list = value.get_ref().as_array();
        let list = list.ok_or_else(|| self.wrong(value.span(), "file_sync".into(), LIST))?;
        for (index, entry) in list.iter().enumerate() {
            let name = |field: &str| format!("file_sync[{index}].{field}");
            let table = entry.get_ref().as_table();
            let table = table.ok_or_else(|| self.wrong(entry.span(), format!("file_sync[{index}]"), LIST))?;
            if let Some((key, _)) = table.iter().find(|(key, _)| !FIELDS.contains(&key.get_ref().as_ref())) {
                return Err(self.unknown(key.span(), name(key.get_ref()), FIELDS.to_vec()));
            }
            let text = |field: &str, allowed: &'static str| match table.get(field) {
                Some(value) => match text_of(value.get_ref()) {
                    Some(text) => Ok(Some(text)),
                    None => Err(self.wrong(value.span(), name(field), allowed)),
                },
                None => Ok(None),
            };
            let line = self.line(entry.span().start);
            let needed = |field: &str, allowed: &'static str| {
                let (path, key, found) = (self.path.to_owned(), name(field), "absent".to_owned());
                text(field, allowed)?.ok_or(ConfigError::Value { path, line, key, found, allowed })
            };
            let sync = FileSync {
                host: needed("host", HOST_ALLOWED)?,
                guest: needed("guest", GUEST_ALLOWED)?,
                mode: text("mode", MODE_ALLOWED)?,
            };
            if let Err((field, _, allowed)) = sync.check() {
                let span = table.get(field).map_or(entry.span(), Spanned::span);
                return Err(self.wrong(span, name(field), allowed));
            }
            parsed.config.file_sync.push(sync);
            parsed.sync_lines.push(line);
        }
        Ok(())
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        ConfigError::Syntax {
            path: self.path.to_owned(),
            line: self.line(error.span().map_or(0, |span| span.start)),
            message: error.message().lines().collect::<Vec<_>>().join("; "),
        }
    }

    fn unknown(&self, span: Range<usize>, key: String, known: Vec<&'static str>) -> ConfigError {
        ConfigError::Key {
            path: self.path.to_owned(),
            line: self.line(span.start),
            key: shortened(&key),
            known,
        }
    }

    fn wrong(&self, span: Range<usize>, key: String, allowed: &'static str) -> ConfigError {
        let line = self.line(span.start);
        let found = shortened(self.text.get(span).unwrap_or_default());
        ConfigError::Value { path: self.path.to_owned(), line, key, found, allowed }
    }
}

/// A string; permissions may also be an octal number, such as 0o600.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    let octal = value.as_integer().filter(|integer| integer.radix() == 8);
    value.as_str().map(str::to_owned).or_else(|| octal.map(|integer| format!("{:0>3}", integer.as_str())))
}

/// What is told of a text: not all of it, where it is long, and nothing before an `@`, which may be a password.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    if let Some((_, rest)) = text.rsplit_once('@') {
        return shortened(&format!("…{rest}"));
    }
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// Takes the value of the environment variable of `key` over.
///
/// # Errors
/// [`ConfigError::Variable`].
pub fn apply_variable(config: &mut Config, key: &Key, value: &str) -> Result<(), ConfigError> {
    let switch = match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" | "t" => Some(true),
        "0" | "false" | "no" | "off" | "n" | "f" => Some(false),
        _ => None,
    };
    let as_string = DeValue::String(value.into());
    let candidates = [Some(as_string), switch.map(DeValue::Boolean)];
    let taken = candidates.iter().flatten().find_map(|value| (key.set)(config, value));
    taken.ok_or_else(|| ConfigError::Variable {
        variable: key.variable.unwrap_or(key.name),
        found: shortened(value),
        allowed: key.allowed,
    })
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file.
    Config,
    /// The environment.
    Environment,
}

/// One key and what holds for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    /// The value as it would stand in the file; `null`: whoever does the work decides, see `otherwise`.
    pub value: Value,
    /// What holds where the value is `null`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// The line of the file, or the environment variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// The answer to `banger config show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Always [`CONFIG_SCHEMA`].
    pub schema: String,
    /// The file.
    pub path: String,
    /// Whether it is there.
    pub exists: bool,
    /// Every key, in the order of the manual page.
    pub items: Vec<Setting>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_every_key_has_one() {
        let defaults = Config::default();
        for key in &KEYS {
            let value = (key.get)(&defaults);
            assert_eq!(value.is_null(), !key.otherwise.is_empty(), "{}", key.name);
            if value.is_null() {
                continue;
            }
            let (section, name) = key.name.split_once('.').unwrap();
            let text = format!("[{section}]\n{name} = {value}\n");
            let parsed = parse(Path::new("x"), &text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.config, defaults, "{text}");
            assert_eq!(parsed.lines[key.name], 2);
        }
    }

    #[test]
    fn times_and_sizes_come_back_as_they_are_shown() {
        let text = "[vm]\nttl = '1h 30m'\nmemory = '1536MiB'\n[vmm]\nready_timeout = '1m'\n";
        let config = parse(Path::new("x"), text).unwrap().config;
        assert_eq!((config.ttl_s, config.memory_mib, config.ready_timeout_s), (Some(5400), 1536, Some(60)));
        for name in ["vm.ttl", "vmm.ready_timeout", "vm.memory"] {
            let key = KEYS.iter().find(|key| key.name == name).unwrap();
            let mut again = config.clone();
            let shown = (key.get)(&config);
            (key.set)(&mut again, &DeValue::String(shown.as_str().unwrap().into())).unwrap();
            assert_eq!(again, config, "{shown}");
        }
    }
}
