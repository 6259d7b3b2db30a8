//! Images, for people; and the default image made on first use.

use std::process::ExitCode;

use banger_cli::Failure;
use banger_contract::types::ImageName;
use banger_contract::{ErrorCode, Fault};
use banger_disk::cli::build::BuildSpec;
use banger_disk::cli::catalog::CatalogSpec;
use banger_disk::cli::import::ImportSpec;
use banger_disk::cli::pull::PullSpec;
use banger_disk::cli::trust::TrustSpec;
use banger_disk::distribution;
use banger_disk::image::{self, ImageError};
use banger_disk::seed;
use serde_json::Value;

use crate::args::ImageCommand;
use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{setup, table};

/// The image that is built when it is asked for and not there.
const DEFAULT_IMAGE: &str = "debian";

/// What is said when a build begins.
const BUILDING: &str = "building the image; this is done once and takes a minute or two";

/// Makes sure that the image is there: one of the catalog's is got from it, the default one is built else, any other is the caller's
/// to make.
pub fn ensure(context: &Context, name: &ImageName) -> Result<()> {
    seed::heal(&context.state, name)?;
    match image::load(&context.state, name) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {}
        // A damaged default image is made again; the error would only say so.
        Err(ImageError::MissingFile { .. }) if name.as_str() == DEFAULT_IMAGE => {}
        Err(error) => return Err(error.into()),
    }
    let is_default = name.as_str() == DEFAULT_IMAGE;
    if let Some(catalog) = &context.config.catalog {
        let stage = Stage::new("banger-disk", "image").arg("pull").arg(name.as_str());
        let stage = stage.arg("--state-dir").arg(context.state.root()).arg("--catalog").arg(catalog);
        let stage = with_trust(context, with_limits(context, stage, &[]), &TrustSpec::default());
        match stage.run_long(context, "getting the image from the catalog") {
            Ok(_) => return Ok(()),
            // Without the catalog, or without that in it, the default image can be had all the same.
            Err(Failure::Passed(fault))
                if is_default && matches!(fault.code, ErrorCode::NotFound | ErrorCode::Failed) =>
            {
                context.say(format!("{}; building the image instead", fault.human_line()));
            }
            Err(failure) => return Err(failure),
        }
    }
    if !is_default {
        return Err(ImageError::Unknown(name.clone()).into());
    }
    let stage = Stage::new("banger-disk", "image").arg("build").arg(name.as_str());
    with_trust(context, stage, &TrustSpec::default())
        .arg("--state-dir")
        .arg(context.state.root())
        .run_long(context, BUILDING)
        .map(drop)
}

fn build_stage(context: &Context, args: &BuildSpec) -> Stage {
    let stage = Stage::new("banger-disk", "image").arg("build").arg("--state-dir").arg(context.state.root());
    let stage = with_trust(context, args.words().into_iter().fold(stage, Stage::arg), &args.trust);
    // Packages have no limits: they are signed.
    if args.file.is_some() { with_limits(context, stage, &args.make.limits()) } else { stage }
}

fn import_stage(context: &Context, args: &ImportSpec) -> Stage {
    let stage = Stage::new("banger-disk", "image").arg("import").arg("--state-dir").arg(context.state.root());
    let stage = args.words().into_iter().fold(stage, Stage::arg);
    with_limits(context, stage, &args.make.limits()).with_stdin(args.source.as_os_str() == "-")
}

fn pull_stage(context: &Context, args: &PullSpec) -> Stage {
    let stage = Stage::new("banger-disk", "image").arg("pull").arg("--state-dir").arg(context.state.root());
    let stage = args.words().into_iter().fold(stage, Stage::arg);
    let stage = match context.config.max_download_bytes.filter(|_| args.max_download.is_none()) {
        Some(limit) => stage.arg(format!("--max-download={limit}")),
        None => stage,
    };
    with_catalog(context, with_limits(context, stage, &args.make.limits()), &args.catalog)
}

/// The configuration's limits, but for those that are `given`.
fn with_limits(context: &Context, stage: Stage, given: &[(&str, Option<u64>)]) -> Stage {
    let config = &context.config;
    let limits = [
        ("max-entries", config.max_entries),
        ("max-unpacked", config.max_unpacked_bytes),
        ("max-size", config.max_image_bytes),
    ];
    let is_given = |name: &str| given.iter().any(|(other, limit)| *other == name && limit.is_some());
    let limits = limits.into_iter().filter(|(name, _)| !is_given(name));
    limits.fold(stage, |stage, (name, limit)| match limit {
        Some(limit) => stage.arg(format!("--{name}={limit}")),
        None => stage,
    })
}

/// Whom the configuration trusts, where the command does not say.
fn with_trust(context: &Context, stage: Stage, spec: &TrustSpec) -> Stage {
    spec.configured(context.config.host_ca).into_iter().fold(stage, Stage::arg)
}

/// The configuration's catalog, where none is named.
pub fn with_catalog(context: &Context, stage: Stage, spec: &CatalogSpec) -> Stage {
    let stage = with_trust(context, stage, &spec.trust);
    match &context.config.catalog {
        Some(catalog) if spec.catalog.is_none() => stage.arg("--catalog").arg(catalog),
        _ => stage,
    }
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
        ImageCommand::Ls => list(
            context,
            &answer,
            [("NAME", "name"), ("SUITE", "suite"), ("KERNEL", "kernel_version"), ("CREATED", "created_at")],
        ),
        ImageCommand::Show(_) | ImageCommand::Register(_) | ImageCommand::Promote(_) => {
            context::print(&table::pretty(&answer))
        }
        // A layout is no image: what was downloaded, and where it is.
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

/// The list that `ls` of images or of kernels gave; why something of it cannot be read goes to stderr.
pub fn list(context: &Context, answer: &Value, columns: [(&str, &str); 4]) -> ExitCode {
    for damaged in answer["damaged"].as_array().into_iter().flatten() {
        if let Ok(fault) = serde_json::from_value::<Fault>(damaged["error"].clone()) {
            context.say(fault.human_line());
        }
    }
    context::print(&table::inventory(answer, columns))
}
