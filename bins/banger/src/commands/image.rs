//! `banger image`.

use std::path::PathBuf;
use std::process::ExitCode;

use banger_contract::types::{ImageName, KernelName};
use banger_disk::cli::build::BuildSpec;
use banger_disk::cli::import::ImportSpec;
use banger_disk::cli::pull::PullSpec;
use banger_disk::distribution;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::context::{self, Context, Result};
use crate::images::{self, BUILDING};
use crate::stage::Stage;
use crate::{setup, table};

#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image
    Build(Box<ImageBuild>),
    /// Make an image out of a container image, a root filesystem's tar, or an ext4
    Import(Box<ImportSpec>),
    /// Make an image out of one in a registry
    Pull(Box<PullSpec>),
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Make an image of an ext4 that stays where it is
    Register(ImageRegister),
    /// Let a registered image own its root filesystem
    Promote(ImageOne),
    /// Delete images that lack files, or all that no VM uses
    Prune(ImagePrune),
    /// Show one image
    Show(ImageOne),
    /// Delete an image
    #[command(visible_alias = "rm")]
    Delete(ImageOne),
}

#[derive(Debug, Args)]
pub struct ImageBuild {
    #[command(flatten)]
    pub spec: BuildSpec,
    /// Install what this host lacks for it first, without asking
    #[arg(long)]
    pub setup: bool,
}

#[derive(Debug, Args)]
pub struct ImageRegister {
    /// The root filesystem: an ext4 that was unmounted cleanly and that nobody changes any more
    #[arg(value_name = "FILE")]
    pub rootfs: PathBuf,
    /// What to call the image
    #[arg(value_name = "IMAGE")]
    pub name: ImageName,
    /// The image whose kernel it gets [default: the newest]
    #[arg(long, value_name = "IMAGE")]
    pub kernel_from: Option<ImageName>,
    /// The kernel it gets, one that is not part of an image [default: the newest]
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel_from")]
    pub kernel: Option<KernelName>,
}

#[derive(Debug, Args)]
pub struct ImagePrune {
    /// Delete whole images as well
    #[arg(short, long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct ImageOne {
    /// The image's name
    #[arg(value_name = "IMAGE")]
    pub name: ImageName,
}

fn build_stage(context: &Context, args: &BuildSpec) -> Stage {
    let stage = Stage::new("banger-disk", "image").arg("build").arg("--state-dir").arg(context.state.root());
    let stage = images::with_trust(context, args.words().into_iter().fold(stage, Stage::arg), &args.trust);
    // Packages have no limits: they are signed.
    if args.file.is_some() { images::with_limits(context, stage, &args.make.limits()) } else { stage }
}

fn import_stage(context: &Context, args: &ImportSpec) -> Stage {
    let stage = Stage::new("banger-disk", "image").arg("import").arg("--state-dir").arg(context.state.root());
    let stage = args.words().into_iter().fold(stage, Stage::arg);
    images::with_limits(context, stage, &args.make.limits()).with_stdin(args.source.as_os_str() == "-")
}

fn pull_stage(context: &Context, args: &PullSpec) -> Stage {
    let stage = Stage::new("banger-disk", "image").arg("pull").arg("--state-dir").arg(context.state.root());
    let stage = args.words().into_iter().fold(stage, Stage::arg);
    let stage = match context.config.max_download_bytes.filter(|_| args.max_download.is_none()) {
        Some(limit) => stage.arg(format!("--max-download={limit}")),
        None => stage,
    };
    images::with_catalog(context, images::with_limits(context, stage, &args.make.limits()), &args.catalog)
}

pub fn dispatch(context: &Context, command: ImageCommand) -> Result<ExitCode> {
    let plain = |verb: &str| Stage::new("banger-disk", "image").arg(verb);
    let state = context.state.root();
    let stage = match &command {
        ImageCommand::Build(args) => build_stage(context, &args.spec),
        ImageCommand::Import(args) => import_stage(context, args),
        ImageCommand::Pull(args) => pull_stage(context, args),
        ImageCommand::Ls => plain("ls").arg("--state-dir").arg(state),
        ImageCommand::Register(args) => {
            let stage = plain("register").arg("--state-dir").arg(state);
            let stage = args
                .kernel_from
                .iter()
                .fold(stage, |stage, image| stage.arg("--kernel-from").arg(image.as_str()));
            let stage =
                args.kernel.iter().fold(stage, |stage, kernel| stage.arg("--kernel").arg(kernel.as_str()));
            stage.arg("--").arg(&args.rootfs).arg(args.name.as_str())
        }
        ImageCommand::Promote(one) => plain("promote").arg(one.name.as_str()).arg("--state-dir").arg(state),
        ImageCommand::Prune(args) => {
            let stage = plain("prune").arg("--state-dir").arg(state);
            if args.all { stage.arg("--all") } else { stage }
        }
        ImageCommand::Show(one) => plain("show").arg(one.name.as_str()).arg("--state-dir").arg(state),
        ImageCommand::Delete(one) => plain("delete").arg(one.name.as_str()).arg("--state-dir").arg(state),
    };
    if context.explain {
        return Ok(context::print(&format!("{}\n", stage.shown())));
    }
    if let ImageCommand::Build(args) = &command
        && args.setup
    {
        let is_ubuntu = args.spec.file.is_none() && args.spec.distribution()? == &distribution::UBUNTU;
        setup::install(context, if is_ubuntu { &[setup::UBUNTU_KEYS] } else { &[] })?;
    }
    let answer = match &command {
        ImageCommand::Build(_) => stage.run_long(context, BUILDING)?,
        ImageCommand::Import(_) => stage.run_long(context, "importing the image")?,
        ImageCommand::Pull(_) => stage.run_long(context, "pulling the image")?,
        _ => stage.run(context, b"", None)?,
    };
    if context.json {
        return Ok(context::emit(&answer));
    }
    Ok(match command {
        ImageCommand::Ls => images::list(
            context,
            &answer,
            [("NAME", "name"), ("SUITE", "suite"), ("KERNEL", "kernel_version"), ("CREATED", "created_at")],
        ),
        ImageCommand::Show(_) | ImageCommand::Register(_) | ImageCommand::Promote(_) => {
            context::print(&table::pretty(&answer))
        }
        // A layout is not an image: what was downloaded, and where it is.
        ImageCommand::Pull(args) if args.layout.is_some() => context::print(&table::pretty(&answer)),
        ImageCommand::Build(_) | ImageCommand::Import(_) | ImageCommand::Pull(_) => {
            for note in answer["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                context.say(format!("note: {note}"));
            }
            let name = answer["name"].as_str().unwrap_or_default();
            context.say(format!("to run a command in it: banger vm run --image {name} -- COMMAND"));
            ExitCode::SUCCESS
        }
        ImageCommand::Prune(_) => {
            for (key, what) in [("removed", "deleted"), ("in_use", "in use, not deleted:")] {
                for name in answer[key].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    context.say(format!("{what} the image {name}"));
                }
            }
            ExitCode::SUCCESS
        }
        ImageCommand::Delete(one) => {
            context.say(format!("deleted the image {}", one.name));
            ExitCode::SUCCESS
        }
    })
}
