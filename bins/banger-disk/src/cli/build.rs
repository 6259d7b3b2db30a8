//! `banger-disk image build`: from a distribution's packages, or from a Dockerfile.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use banger_cli::Failure;
use banger_cli::plumbing::UsageError;
use banger_cli::progress::ProgressArgs;
use banger_contract::types::{ImageName, ParseNameError};
use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::find_program;
use banger_host::process::signal::Interrupts;
use banger_state::lock::{CacheLock, ImagesLock};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use serde_json::Value;
use thiserror::Error;

use crate::build::{self, BuildError, BuildRequest, Builder, Mise};
use crate::build_error::MAX_SCRIPT_BYTES;
use crate::cli::import::MakeSpec;
use crate::cli::trust::{self, TrustSpec};
use crate::cli::{SignalsError, StateArgs, to_value, users_of};
use crate::distribution::{DISTRIBUTIONS, Distribution};
use crate::dockerfile::Tool;
use crate::image;
use crate::import::{self, Format, Source};
use crate::oci::{Platform, Select};
use crate::recipe::{RECIPES, Recipe};

/// What `image build` takes; `banger image build` takes the same.
#[derive(Debug, Clone, Args)]
pub struct BuildSpec {
    /// The distribution to install, debian or ubuntu [default: debian]; with --file: the directory that COPY takes from [default: the
    /// working directory]
    #[arg(value_name = "DISTRIBUTION|DIR")]
    pub target: Option<OsString>,
    /// Build it from a Dockerfile, by whichever of buildah, podman and docker is there
    #[arg(long, short, value_name = "DOCKERFILE", conflicts_with_all = ["suite", "mirror", "keyring", "recipe", "mise", "packages", "script"])]
    pub file: Option<PathBuf>,
    /// What to call the image [default: as the distribution, with the recipe behind it, or as the directory]
    #[arg(long, value_name = "NAME")]
    pub name: Option<ImageName>,
    /// The release [default: bookworm of Debian, noble of Ubuntu]
    #[arg(long)]
    pub suite: Option<String>,
    /// The package archive [default: the one of the host's apt if it has the release, else the distribution's]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// The keys that sign the archive [default: the distribution's, from /usr/share/keyrings]
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
    /// Install a ready set of packages and tools; dev is build tools, tmux and mise
    #[arg(long, value_enum, value_name = "RECIPE")]
    pub recipe: Option<RecipeChoice>,
    /// With --recipe dev: the mise to install [default: the one in PATH where it runs in the image, else that of mise's package archive]
    #[arg(long, value_name = "FILE", requires = "recipe")]
    pub mise: Option<PathBuf>,
    /// Install one more package (may be given more than once)
    #[arg(long = "package", value_name = "PACKAGE")]
    pub packages: Vec<String>,
    /// Run this script as root in the finished system: an executable text that begins with #!
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Whom to trust.
    #[command(flatten)]
    pub trust: TrustSpec,
    /// How it is made.
    #[command(flatten)]
    pub make: MakeSpec,
}

/// A recipe, as a person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipeChoice(&'static Recipe);

impl ValueEnum for RecipeChoice {
    fn value_variants<'a>() -> &'a [Self] {
        static CHOICES: [RecipeChoice; RECIPES.len()] = [RecipeChoice(RECIPES[0])];
        &CHOICES
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name).help(self.0.about))
    }
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    spec: BuildSpec,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// A directory or a word of which no name can be made.
#[derive(Debug, Error)]
#[error("{target:?} makes no name for an image")]
struct NameError {
    target: OsString,
    #[source]
    source: ParseNameError,
}

impl Coded for NameError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Usage
    }
}

/// A file that is named and cannot be read.
#[derive(Debug, Error)]
#[error("cannot read {path:?}")]
struct ReadError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Coded for ReadError {
    fn code(&self) -> ErrorCode {
        match self.source.kind() {
            std::io::ErrorKind::NotFound => ErrorCode::NotFound,
            _ => ErrorCode::BadInput,
        }
    }
}

impl BuildSpec {
    /// The words that say this on a command line.
    pub fn words(&self) -> Vec<OsString> {
        let mut words = self.make.words();
        words.extend(self.trust.words());
        words.extend(self.name.as_ref().map(|name| format!("--name={name}").into()));
        match &self.file {
            Some(file) => {
                words.extend(["--file".into(), file.clone().into_os_string()]);
            }
            None => {
                words.extend(self.suite.as_ref().map(|suite| format!("--suite={suite}").into()));
                words.extend(self.mirror.as_ref().map(|mirror| format!("--mirror={mirror}").into()));
                words.extend(self.recipe.map(|recipe| format!("--recipe={}", recipe.0.name).into()));
                for (option, path) in [("--keyring", &self.keyring), ("--mise", &self.mise)] {
                    words.extend(path.iter().flat_map(|path| [option.into(), path.clone().into_os_string()]));
                }
                words.extend(self.packages.iter().map(|package| format!("--package={package}").into()));
                if let Some(script) = &self.script {
                    words.extend(["--script".into(), script.clone().into_os_string()]);
                }
            }
        }
        words.extend(self.target.clone());
        words
    }

    fn name(&self) -> Result<ImageName, Failure> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        if self.file.is_none() {
            let recipe = self.recipe.map(|recipe| format!("-{}", recipe.0.name)).unwrap_or_default();
            let text = format!("{}{recipe}", self.distribution()?.name);
            return Ok(text.parse().expect("the names of distributions and recipes make names of images"));
        }
        let target = absolute(&self.context())?.file_name().unwrap_or_default().to_owned();
        let text = target.to_string_lossy().to_lowercase().replace('_', "-");
        Ok(text.parse().map_err(|source| NameError { target, source })?)
    }

    /// What is to be installed.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn distribution(&self) -> Result<&'static Distribution, UsageError> {
        let Some(target) = &self.target else { return Ok(DISTRIBUTIONS[0]) };
        let known = target.to_str().and_then(Distribution::named);
        known.ok_or_else(|| {
            let names = DISTRIBUTIONS.map(|distribution| distribution.name).join(" and ");
            UsageError(format!("there is no distribution {target:?}: {names} can be built; --name says what to call the image"))
        })
    }

    /// The mise for the recipe: the one that is named, else the one in PATH.
    fn mise(&self) -> Option<Mise> {
        let named = self.mise.clone().map(|path| Mise { path, needed: true });
        named.or_else(|| find_program("mise".as_ref()).map(|path| Mise { path, needed: false }))
    }

    /// The directory that a Dockerfile's COPY takes from.
    fn context(&self) -> PathBuf {
        self.target.as_ref().map_or_else(|| PathBuf::from("."), PathBuf::from)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ReadError> {
    let absolute = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    absolute.map_err(|source| ReadError { path: path.to_owned(), source })
}

pub(super) fn build(args: &BuildArgs, guest: &[u8]) -> Result<Value, Failure> {
    let name = args.spec.name()?;
    match &args.spec.file {
        Some(file) => from_dockerfile(args, &name, file),
        None => from_packages(args, name, guest),
    }
}

fn from_packages(args: &BuildArgs, name: ImageName, guest: &[u8]) -> Result<Value, Failure> {
    let spec = &args.spec;
    let distribution = spec.distribution()?;
    if spec.make.kernel_from().is_some() {
        return Err(
            UsageError("an image of packages has its own kernel: --kernel is for --file".into()).into()
        );
    }
    let script = match &spec.script {
        Some(path) => Some(read_script(path)?),
        None => None,
    };
    let mut progress = args.progress.open()?;
    let (state, lock) = args.state.lock_images("banger-disk image build")?;
    let runs_inside = spec.recipe.is_some() || script.is_some();
    let request = BuildRequest {
        name,
        distribution,
        suite: spec.suite.clone().unwrap_or_else(|| distribution.default_suite.to_owned()),
        mirror: spec.mirror.clone(),
        keyring: spec.keyring.clone(),
        recipe: spec.recipe.map(|recipe| recipe.0),
        mise: spec.mise(),
        packages: spec.packages.clone(),
        script,
        proxies: trust::lower_case_proxies(),
        host_ca: if runs_inside { spec.trust.find("banger-disk").added } else { Vec::new() },
        labels: spec.make.labels.iter().cloned().collect(),
        size_bytes: spec.make.size_bytes,
    };
    let users = users_of(&state, &request.name)?;
    // A build that is interrupted removes what it has made.
    let interrupts = Interrupts::catch().map_err(SignalsError)?;
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let builder = Builder {
        guest,
        uid: uid.as_raw(),
        user: &user.map(|user| user.name).unwrap_or_default(),
        // Not TMPDIR, which may be private to the user, nor /tmp, which may be small.
        temp_dir: Path::new("/var/tmp"),
        etc_apt: Path::new("/etc/apt"),
        keyrings: Path::new("/usr/share/keyrings"),
        interrupted: &|| interrupts.pending(),
    };
    let image = build::build(&state, &lock, &request, &builder, &users, &mut |step, message| {
        progress.tell(step, message);
    })?;
    Ok(to_value(&image.record()))
}

/// A script, which travels to where it runs in the environment.
fn read_script(path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(MAX_SCRIPT_BYTES + 1).read_to_string(&mut text));
    read.map_err(|source| ReadError { path: path.to_owned(), source })?;
    Ok(text)
}

fn from_dockerfile(args: &BuildArgs, name: &ImageName, file: &Path) -> Result<Value, Failure> {
    let spec = &args.spec;
    let mut progress = args.progress.open()?;
    let mut tell = |step: &str, message: &str| progress.tell(step, message);
    let (file, context) = (absolute(file)?, absolute(&spec.context())?);
    for path in [&file, &context] {
        std::fs::metadata(path).map_err(|source| ReadError { path: path.clone(), source })?;
    }
    let tool = Tool::find()?;
    let state = args.state.made()?;
    if let Ok(Some(_)) = image::load(&state, name) {
        return Err(BuildError::Exists(name.clone()).into());
    }
    import::check_kernel(&state, name, spec.make.kernel_from().as_ref())?;
    let _cache = CacheLock::acquire(&state, "banger-disk image build")?;
    let downloads = state.downloads();
    let made = std::fs::create_dir_all(&downloads).and_then(|()| tempfile::tempdir_in(&downloads));
    let dir = made.map_err(|source| ReadError { path: downloads, source })?;
    let archive = dir.path().join("image.tar");
    tell("build", &format!("building {} with {}", file.display(), tool.program()));
    tool.build(&file, &context, &archive, &trust::proxy_names())?;
    let lock = ImagesLock::acquire(&state, "banger-disk image build")?;
    let interrupts = Interrupts::catch().map_err(SignalsError)?;
    let select = Select { reference: None, platform: Platform::host() };
    let request = spec.make.request(name.clone(), file.to_string_lossy().into_owned(), select);
    let users = users_of(&state, name)?;
    let interrupted = || interrupts.pending();
    let source = Source::File(archive, Some(Format::Archive));
    let image = import::import(&state, &lock, source, &request, &users, &interrupted, &mut tell)?;
    Ok(to_value(&image.record()))
}
