//! `banger-disk image import`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;
use thiserror::Error;

use crate::cli::{SignalsError, StateArgs, to_value, users_of};
use crate::flatten::Limits;
use crate::import::{self, Format, ImportRequest, KernelFrom, Source};
use crate::oci::{Platform, Select};
use banger_cli::Failure;
use banger_cli::progress::ProgressArgs;
use banger_contract::types::{ImageName, KernelName, Size};
use banger_contract::{Coded, ErrorCode};
use banger_host::process::signal::Interrupts;

/// What `image import` takes; `banger image import` takes the same.
#[derive(Debug, Clone, Args)]
pub struct ImportSpec {
    /// An OCI image layout (directory or tar), an archive for "docker load", a tar of a root filesystem ("-": a tar from stdin; gzip,
    /// zstd and xz are unpacked), or an ext4 file
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// What to call the image
    pub name: ImageName,
    /// What the source is
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "auto")]
    pub format: FormatChoice,
    /// Which image of several: its name, tag or digest
    #[arg(long = "ref", value_name = "REF")]
    pub reference: Option<String>,
    /// Which platform of several [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH", value_parser = parse_platform)]
    pub platform: Option<Platform>,
    /// How it is made.
    #[command(flatten)]
    pub make: MakeSpec,
}

/// How an image is made of layers, wherever they come from.
#[derive(Debug, Clone, Args)]
pub struct MakeSpec {
    /// The image whose kernel, modules and initrd it gets [default: the newest that is there]
    #[arg(long, value_name = "IMAGE")]
    pub kernel_from: Option<ImageName>,
    /// The kernel it gets, one that is not part of an image [default: the newest that is there]
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel_from")]
    pub kernel: Option<KernelName>,
    /// How large a VM's root and work disk are by default, such as 20G; a bare number is bytes
    #[arg(long = "size", value_name = "SIZE", value_parser = parse_bytes, default_value = "8G")]
    pub size_bytes: u64,
    /// Add a label to the image (may be given more than once)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Refuse more files than this in all layers together [default: 500000]
    #[arg(long, value_name = "N")]
    pub max_entries: Option<u64>,
    /// Refuse layers that unpack to more than this [default: 64G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_unpacked: Option<u64>,
    /// Refuse a root filesystem larger than this [default: 64G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_size: Option<u64>,
}

/// What a source is, as a person says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatChoice {
    /// Find it out
    Auto,
    /// An OCI image layout: a directory or a tar
    Oci,
    /// An archive for "docker load"
    Docker,
    /// A tar of a root filesystem
    Tar,
    /// An ext4 filesystem
    Ext4,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    spec: ImportSpec,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(super) fn parse_platform(text: &str) -> Result<Platform, &'static str> {
    text.parse()
}

/// Bytes of a size such as `20G`; a bare number is bytes.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    Size::parse_in(text, 1).map(Size::bytes).map_err(|error| error.to_string())
}

fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.is_empty() || text.len() > 4096 {
        Err("write it as KEY=VALUE")
    } else {
        Ok((key.into(), value.into()))
    }
}

impl ImportSpec {
    /// The words that say this on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.map(|value| OsString::from(format!("--{name}={value}"))));
        };
        let format = self.format.to_possible_value().expect("none is hidden");
        option("format", Some(format.get_name().to_owned()));
        option("ref", self.reference.clone());
        option("platform", self.platform.as_ref().map(Platform::to_string));
        words.extend(self.make.words());
        // No "--": further options may follow. A path that looks like one does not when it begins with a directory.
        let looks =
            self.source.as_os_str().as_encoded_bytes().starts_with(b"-") && self.source != Path::new("-");
        let source = if looks { Path::new(".").join(&self.source) } else { self.source.clone() };
        words.extend([source.into_os_string(), self.name.to_string().into()]);
        words
    }

    fn source(&self) -> Result<Source, StdinError> {
        let format = match self.format {
            FormatChoice::Auto => None,
            FormatChoice::Oci | FormatChoice::Docker => Some(Format::Archive),
            FormatChoice::Tar => Some(Format::Tar),
            FormatChoice::Ext4 => Some(Format::Ext4),
        };
        if self.source == Path::new("-") {
            return match format {
                _ if std::io::stdin().is_terminal() => Err(StdinError::Terminal),
                Some(Format::Ext4) => Err(StdinError::Ext4),
                format => Ok(Source::Stream(Box::new(std::io::stdin()), format)),
            };
        }
        if self.source.is_dir() {
            return Ok(Source::Layout(self.source.clone()));
        }
        Ok(Source::File(self.source.clone(), format))
    }

    fn request(&self) -> ImportRequest {
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let select = Select { reference: self.reference.clone(), platform };
        self.make.request(self.name.clone(), self.source.to_string_lossy().into_owned(), select)
    }
}

impl MakeSpec {
    /// The words that say this on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: String| words.push(OsString::from(format!("--{name}={value}")));
        if let Some(image) = &self.kernel_from {
            option("kernel-from", image.to_string());
        }
        if let Some(kernel) = &self.kernel {
            option("kernel", kernel.to_string());
        }
        option("size", self.size_bytes.to_string());
        for (key, value) in &self.labels {
            option("label", format!("{key}={value}"));
        }
        for (name, limit) in self.limits() {
            if let Some(limit) = limit {
                option(name, limit.to_string());
            }
        }
        words
    }

    /// The options that keep an archive from filling the host, and what was given.
    pub fn limits(&self) -> [(&'static str, Option<u64>); 3] {
        [("max-entries", self.max_entries), ("max-unpacked", self.max_unpacked), ("max-size", self.max_size)]
    }

    /// Whose kernel it gets, where that is said.
    pub(super) fn kernel_from(&self) -> Option<KernelFrom> {
        KernelFrom::choice(self.kernel_from.clone(), self.kernel.clone())
    }

    /// What is to be made: the image `name` of what `select` says of `origin`.
    pub(super) fn request(&self, name: ImageName, origin: String, select: Select) -> ImportRequest {
        let limits = Limits::default();
        ImportRequest {
            name,
            origin,
            select,
            kernel_from: self.kernel_from(),
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            size_bytes: self.size_bytes,
            limits: Limits {
                entries: self.max_entries.unwrap_or(limits.entries),
                unpacked_bytes: self.max_unpacked.unwrap_or(limits.unpacked_bytes),
                image_bytes: self.max_size.unwrap_or(limits.image_bytes),
                ..limits
            },
        }
    }
}

/// What stdin cannot be.
#[derive(Debug, Error)]
enum StdinError {
    #[error("stdin is a terminal, and an archive is expected there")]
    Terminal,
    #[error("an ext4 can be imported from a file, not from stdin")]
    Ext4,
}

impl Coded for StdinError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
}

pub(super) fn import(args: &ImportArgs) -> Result<Value, Failure> {
    let mut progress = args.progress.open()?;
    let (state, lock) = args.state.lock_images("banger-disk image import")?;
    let users = users_of(&state, &args.spec.name)?;
    // An import that is interrupted removes what it has made.
    let interrupts = Interrupts::catch().map_err(SignalsError)?;
    let interrupted = || interrupts.pending();
    let request = args.spec.request();
    let source = args.spec.source()?;
    let mut tell = |step: &str, message: &str| progress.tell(step, message);
    let image = import::import(&state, &lock, source, &request, &users, &interrupted, &mut tell)?;
    Ok(to_value(&image.record()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{build, registry};
    use banger_contract::config::KEYS;

    #[derive(Parser)]
    struct Made {
        #[command(flatten)]
        make: MakeSpec,
    }

    #[derive(Parser)]
    struct Pulled {
        #[command(flatten)]
        pull: crate::cli::pull::PullSpec,
    }

    #[test]
    fn what_help_and_configuration_say_of_limits_is_what_holds() {
        assert_eq!(Made::parse_from(["x"]).make.size_bytes, build::DEFAULT_SIZE_BYTES);
        let pulled = Pulled::parse_from(["x", "a"]).pull;
        assert!(
            pulled.max_download.is_none() && pulled.make.limits().iter().all(|(_, given)| given.is_none())
        );
        let limits = Limits::default();
        let defaults = [
            ("max-entries", limits.entries),
            ("max-unpacked", limits.unpacked_bytes),
            ("max-size", limits.image_bytes),
            ("max-download", registry::DEFAULT_MAX_BYTES),
        ];
        for (option, default) in defaults {
            let command = Pulled::command();
            let argument = command.get_arguments().find(|a| a.get_long() == Some(option)).unwrap();
            let help = argument.get_help().unwrap().to_string();
            let told = help.rsplit_once("[default: ").unwrap().1.trim_end_matches(']').to_owned();
            assert_eq!(parse_bytes(&told), Ok(default), "{option}: {help}");
            let key =
                KEYS.iter().find(|key| key.name == format!("images.{}", option.replace('-', "_"))).unwrap();
            assert_eq!(key.default_text(), told, "{option}");
        }
    }
}
