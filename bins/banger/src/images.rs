//! Images as other verbs need them: the default one made on first use, limits, trust, catalog.

use std::process::ExitCode;

use banger_cli::Failure;
use banger_contract::types::ImageName;
use banger_contract::{ErrorCode, Fault};
use banger_disk::cli::catalog::CatalogSpec;
use banger_disk::cli::trust::TrustSpec;
use banger_disk::image::{self, ImageError};
use banger_disk::seed;
use serde_json::Value;

use crate::context::{self, Context, Result};
use crate::stage::Stage;
use crate::table;

/// The image that is built when it is asked for and not there.
const DEFAULT_IMAGE: &str = "debian";

/// What is said when a build begins.
pub const BUILDING: &str = "building the image; this is done once and takes a minute or two";

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

/// The configuration's limits, but for those that are `given`.
pub fn with_limits(context: &Context, stage: Stage, given: &[(&str, Option<u64>)]) -> Stage {
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
pub fn with_trust(context: &Context, stage: Stage, spec: &TrustSpec) -> Stage {
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

/// The list that `ls` of images or of kernels gave; why something of it cannot be read goes to stderr.
pub fn list(context: &Context, answer: &Value, columns: [(&str, &str); 4]) -> ExitCode {
    for damaged in answer["damaged"].as_array().into_iter().flatten() {
        if let Ok(fault) = serde_json::from_value::<Fault>(damaged["error"].clone()) {
            context.say(fault.human_line());
        }
    }
    context::print(&table::inventory(answer, columns))
}
