//! The arguments of `banger-ws`.

use std::path::PathBuf;

use banger_cli::plumbing::Input;
use banger_contract::record::WorkspaceMode;
use banger_contract::types::Size;
use clap::{Parser, Subcommand, ValueEnum};

use crate::cli::command::CommandOptions;
use crate::survey;

/// How much of git travels, as a person asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeChoice {
    /// The history reachable from HEAD
    Full,
    /// One commit of history
    Shallow,
    /// No git at all: nothing can tell what changed
    Files,
}

impl ModeChoice {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        WorkspaceMode::from(self).as_str()
    }
}

impl From<ModeChoice> for WorkspaceMode {
    fn from(choice: ModeChoice) -> Self {
        match choice {
            ModeChoice::Full => Self::Full,
            ModeChoice::Shallow => Self::Shallow,
            ModeChoice::Files => Self::Files,
        }
    }
}

/// Copy a git checkout into a VM, run commands in the copy, and take what changed back as a patch
///
/// A stage of a banger pipeline: reads a record on stdin, writes its section "workspace", prints the record on stdout.
#[derive(Debug, Parser)]
#[command(name = super::TOOL, version, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Say what of a checkout would travel, without any VM
    Inspect(InspectArgs),
    /// Copy a checkout into the guest
    Prepare(PrepareArgs),
    /// Run a command in the workspace
    Exec(ExecArgs),
    /// Write what changed in the workspace as a patch
    Export(ExportArgs),
    /// prepare, exec and export over one connection
    Run(RunArgs),
    /// Throw away what changed in the workspace
    Reset(ResetArgs),
    /// Apply a patch to a checkout of the host, all of it or nothing
    Apply(ApplyArgs),
    /// Make the guest's commits a branch of the repository that the workspace was copied from
    Fetch(FetchArgs),
    /// What fetch runs apart from itself, since it talks to the guest
    #[command(hide = true)]
    Receive(ReceiveArgs),
    /// Say what export would find: result.changed and result.files
    Status(Input),
    /// Compare the record with the guest
    Check(Input),
    /// Remove what transfers that were killed left in a state directory
    Gc(GcArgs),
    /// Say which version this is and which schemas it speaks
    Version,
}

/// What travels.
#[derive(Debug, clap::Args)]
pub(super) struct Choice {
    /// How much of git travels with the files
    #[arg(long, value_enum, value_name = "MODE", default_value = "full")]
    pub mode: ModeChoice,
    /// Take untracked files along; ignored ones never travel
    #[arg(long)]
    pub include_untracked: bool,
    /// End each path of a list with a NUL byte and print nothing else
    #[arg(long)]
    pub null: bool,
}

impl Choice {
    pub(super) fn of(&self) -> survey::Choice {
        survey::Choice { mode: self.mode.into(), include_untracked: self.include_untracked }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A directory in the checkout
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// List the files as well
    #[arg(long)]
    pub files: bool,
    #[command(flatten)]
    pub choice: Choice,
}

/// What goes in, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// A directory in the checkout; all of the checkout travels, and a command runs in that directory
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub repo: PathBuf,
    /// Where it goes in the guest [default: /root/NAME]
    #[arg(long, value_name = "PATH")]
    pub guest_path: Option<String>,
    /// Throw away what the guest has changed, but for ignored files, and replace what cannot be compared
    #[arg(long)]
    pub force: bool,
    /// Say what would travel, for people on stderr, and do nothing; needs no record
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub choice: Choice,
}

#[derive(Debug, clap::Args)]
pub(super) struct PrepareArgs {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub source: Source,
}

/// What a patch is made against, and how large it may be.
#[derive(Debug, clap::Args)]
pub(super) struct Comparison {
    /// Compare with this commit of the guest's instead of with what was sent
    #[arg(long, value_name = "COMMIT")]
    pub base_commit: Option<String>,
    /// Leave the largest changes out of a patch that would be larger than this many bytes (K, M and G are understood); git applies none
    /// that is larger than 1023M
    #[arg(long, value_name = "SIZE", default_value = "1023M", value_parser = parse_size)]
    pub max_patch_size: u64,
}

/// Bytes from a size such as `64M`; a bare number is bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let size = Size::parse_in(text, 1).map_err(|error| error.to_string())?;
    if size.bytes() > 0 { Ok(size.bytes()) } else { Err("it must be more than nothing".to_owned()) }
}

/// What comes out.
#[derive(Debug, clap::Args)]
pub(super) struct Products {
    /// Write what changed as a patch to FILE ("-": stdout, and the command's output to stderr)
    #[arg(long, value_name = "FILE")]
    pub patch: Option<PathBuf>,
    /// Write what changed in each repository, the checkout and its submodules, as a patch of its own to the directory DIR, with a README of how
    /// they are applied; DIR is made, or empty
    #[arg(long, value_name = "DIR", conflicts_with_all = ["patch", "base_commit"])]
    pub patch_dir: Option<PathBuf>,
    /// Write the record to FILE, and leave stdout and stderr to the command
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    #[command(flatten)]
    pub comparison: Comparison,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub products: Products,
    #[command(flatten)]
    pub options: CommandOptions,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub source: Source,
    #[command(flatten)]
    pub products: Products,
    #[command(flatten)]
    pub options: CommandOptions,
    /// The command and its arguments
    #[arg(last = true, required_unless_present = "dry_run", value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub input: Input,
    /// Where the patch goes ("-": stdout)
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Write what changed in each repository, the checkout and its submodules, as a patch of its own to the directory DIR, with a README of how
    /// they are applied; DIR is made, or empty
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "name_only", "stat", "submodule", "base_commit", "paths"])]
    pub patch_dir: Option<PathBuf>,
    /// Write the record to FILE instead of to stdout
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Compare with what was copied first, instead of with what both sides have now: what was copied or applied since is in it as well
    #[arg(long, conflicts_with = "base_commit")]
    pub all: bool,
    /// Write the names of the changed files instead of the patch
    #[arg(long, conflicts_with = "stat")]
    pub name_only: bool,
    /// Write how much changed in each file instead of the patch
    #[arg(long)]
    pub stat: bool,
    #[command(flatten)]
    pub comparison: Comparison,
    /// Write what changed in the submodule at PATH, and not what changed around it
    #[arg(long, value_name = "PATH")]
    pub submodule: Option<String>,
    /// Only what changed in these files and directories, named from the root of the checkout
    #[arg(last = true, value_name = "PATH")]
    pub paths: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResetArgs {
    #[command(flatten)]
    pub input: Input,
    /// Throw away ignored files as well
    #[arg(long)]
    pub clean: bool,
    /// Only what changed in these files and directories, named from the root of the checkout; HEAD and index stay then
    #[arg(last = true, value_name = "PATH")]
    pub paths: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    pub input: Input,
    /// The patch, as export writes it
    #[arg(long, value_name = "FILE")]
    pub patch: PathBuf,
    /// A directory in the checkout [default: the one that was copied]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Say whether it applies, and change nothing
    #[arg(long)]
    pub check: bool,
    /// Refuse a patch that is larger than this many bytes (K, M and G are understood)
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub max_patch_size: u64,
}

/// What the guest's commits become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FetchFormat {
    /// A branch of the host's repository
    Branch,
    /// Mails, as git am takes them; the repository stays as it is
    Mbox,
}

// What the guest's commits become; of `banger vm fetch` as well.
#[derive(Debug, clap::Args)]
#[expect(missing_docs, reason = "clap would take it for the verb's description")]
pub struct FetchSpec {
    /// The branch [default: banger/<the VM's name>/<the guest's branch, or HEAD>]
    #[arg(long = "as", value_name = "BRANCH")]
    pub branch: Option<String>,
    /// Move a branch that has other commits than the guest's
    #[arg(long)]
    pub force: bool,
    /// What the commits become
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "branch")]
    pub format: FetchFormat,
    /// Refuse commits that take more bytes than this, packed or as mails [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,
}

impl FetchSpec {
    /// The most bytes that the commits may take.
    pub fn limit(&self) -> u64 {
        self.max_size.unwrap_or(1 << 30)
    }

    /// The words that say this on a command line, each an option with its value: that may begin with a dash.
    pub fn words(&self) -> Vec<String> {
        let branch = self.branch.iter().map(|branch| format!("--as={branch}"));
        let size = self.max_size.iter().map(|size| format!("--max-size={}", Size::from_bytes(*size)));
        let force = self.force.then(|| "--force".to_owned());
        let mails = (self.format == FetchFormat::Mbox).then(|| "--format=mbox".to_owned());
        branch.chain(size).chain(force).chain(mails).collect()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct FetchArgs {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub spec: FetchSpec,
    /// Where mails go ("-": stdout)
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Write the record to FILE instead of to stdout
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ReceiveArgs {
    #[command(flatten)]
    pub input: Input,
    /// The file, which is there, that the answer goes to
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// How many bytes of it are taken
    #[arg(long, value_name = "BYTES")]
    pub max_size: u64,
    /// Commits that the host has
    #[arg(value_name = "COMMIT")]
    pub have: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct GcArgs {
    /// The state directory
    #[arg(long, env = "BANGER_STATE_DIR", value_name = "DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
}
