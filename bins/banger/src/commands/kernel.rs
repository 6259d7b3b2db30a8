//! `banger kernel`.

use std::process::ExitCode;

use banger_contract::types::KernelName;
use banger_disk::cli::catalog::CatalogSpec;
use banger_disk::cli::kernel::SourceArgs;
use clap::{Args, Subcommand};

use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::{images, table};

#[derive(Debug, Args)]
pub struct Kernel {
    #[command(subcommand)]
    pub command: KernelCommand,
}

#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Import a kernel: from Debian packages, from a vmlinuz and its modules, or from an image
    Import(KernelImport),
    /// Get a kernel from a catalog
    Pull(KernelPull),
    /// List kernels
    #[command(visible_alias = "list")]
    Ls,
    /// Show one kernel
    Show(KernelOne),
    /// Delete a kernel
    #[command(visible_alias = "rm")]
    Delete(KernelOne),
}

#[derive(Debug, Args)]
pub struct KernelImport {
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, Args)]
pub struct KernelPull {
    /// The kernel's short name
    #[arg(value_name = "KERNEL")]
    pub name: KernelName,
    #[command(flatten)]
    pub catalog: CatalogSpec,
}

#[derive(Debug, Args)]
pub struct KernelOne {
    /// The kernel's name
    #[arg(value_name = "KERNEL")]
    pub name: KernelName,
}

pub fn dispatch(context: &Context, command: KernelCommand) -> Result<ExitCode> {
    let plain = |verb: &str| Stage::new("banger-disk", "kernel").arg(verb);
    let stage = match &command {
        KernelCommand::Import(args) => with_source(plain("import"), &args.source),
        KernelCommand::Pull(args) => {
            let stage = plain("pull").arg(args.name.as_str());
            let stage = args.catalog.words().into_iter().fold(stage, Stage::arg);
            images::with_catalog(context, stage, &args.catalog)
        }
        KernelCommand::Ls => plain("ls"),
        KernelCommand::Show(one) => plain("show").arg(one.name.as_str()),
        KernelCommand::Delete(one) => plain("delete").arg(one.name.as_str()),
    };
    let stage = stage.arg("--state-dir").arg(context.state.root());
    if context.explain {
        return Ok(context::print(&format!("{}\n", stage.shown())));
    }
    let answer = match &command {
        KernelCommand::Import(_) => stage.run_long(context, "importing the kernel")?,
        KernelCommand::Pull(_) => stage.run_long(context, "getting the kernel from the catalog")?,
        _ => stage.run(context, b"", None)?,
    };
    if context.json {
        return Ok(context::emit(&answer));
    }
    Ok(match command {
        KernelCommand::Ls => images::list(
            context,
            &answer,
            [("NAME", "name"), ("VERSION", "version"), ("SOURCE", "source"), ("CREATED", "created_at")],
        ),
        KernelCommand::Import(_) | KernelCommand::Pull(_) | KernelCommand::Show(_) => {
            context::print(&table::pretty(&answer))
        }
        KernelCommand::Delete(one) => {
            context.say(format!("deleted the kernel {}", one.name));
            ExitCode::SUCCESS
        }
    })
}

fn with_source(mut stage: Stage, source: &SourceArgs) -> Stage {
    let paths = [("--modules", &source.modules), ("--kconfig", &source.kconfig)];
    for (option, path) in paths {
        if let Some(path) = path {
            stage = stage.arg(option).arg(path);
        }
    }
    let names = [
        ("--image", source.image.as_ref().map(ToString::to_string)),
        ("--name", source.name.as_ref().map(ToString::to_string)),
    ];
    for (option, name) in names {
        if let Some(name) = name {
            stage = stage.arg(option).arg(name);
        }
    }
    source.files.iter().fold(stage, |stage, file| stage.arg(file))
}
