//! Kernels, for people.

use std::process::ExitCode;

use banger_lib::cli::kernel::SourceArgs;
use serde_json::Value;

use crate::args::KernelCommand;
use crate::context::{self, Context, Result};
use crate::image;
use crate::stage::Stage;
use crate::table;

pub fn dispatch(context: &Context, command: KernelCommand) -> Result<ExitCode> {
    let plain = |verb: &str| Stage::new("banger-disk", "kernel").arg(verb);
    let stage = match &command {
        KernelCommand::Import(args) => with_source(plain("import"), &args.source),
        KernelCommand::Pull(args) => {
            let stage = plain("pull").arg(args.name.as_str());
            let stage = args.catalog.words().into_iter().fold(stage, Stage::arg);
            image::with_catalog(context, stage, &args.catalog)
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
        KernelCommand::Ls => context::print(&kernels(&answer)),
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

fn kernels(answer: &Value) -> String {
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = items.iter().map(|item| {
        ["name", "version", "source", "created_at"]
            .map(|key| item[key].as_str().unwrap_or("-").to_owned())
            .to_vec()
    });
    table::table(&["NAME", "VERSION", "SOURCE", "CREATED"], rows)
}
