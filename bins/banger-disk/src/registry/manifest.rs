//! What a registry says an image is: an index for several platforms, or the manifest of one (OCI image specification; docker's
//! schema 2 says the same in other words).

use serde::Deserialize;
use serde_json::error::Category;

use super::error::PullError;
use super::reference::is_digest;
use super::session::Session;
use crate::oci::{Listed, Platform};

/// What is asked for.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];

const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// The largest index, manifest or configuration, bytes: registries take manifests of 4 MiB.
pub(super) const MAX_JSON_BYTES: u64 = 4 << 20;

/// The most layers; overlayfs, for which images are made, takes 500.
const MAX_LAYERS: usize = 500;

/// A file by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

/// An index or a manifest, by what it has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    media_type: Option<String>,
    manifests: Option<Listed<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Listed<Descriptor>>,
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// Either of the two.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Image(Manifest),
}

/// Reads the index or manifest `bytes`, which came as `content_type`. `Err`: what is wrong with it.
pub(super) fn read(bytes: &[u8], content_type: &str) -> Result<(String, Document), String> {
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    let Either { media_type, manifests, config, layers } =
        serde_json::from_slice(bytes).map_err(|error| match error.classify() {
            Category::Data => format!("has no index's or manifest's shape: {:?}", shown(&error.to_string())),
            _ => "is not JSON".to_owned(),
        })?;
    let outside = content_type.split(';').next().unwrap_or_default().trim();
    let media_type = media_type.unwrap_or_else(|| outside.to_owned());
    // One document must not be two things to two readers.
    if manifests.is_some() && (layers.is_some() || config.is_some()) {
        return Err("is both an index and a manifest".into());
    }
    let wrong = || "is not of the shape that its media type has".to_owned();
    let document = if INDEXES.contains(&media_type.as_str()) {
        let list = manifests.ok_or_else(wrong)?.0;
        if let Some(bad) = list.iter().find(|d| !is_digest(&d.digest)) {
            return Err(format!("names {:?}, which is not a digest that can be checked", shown(&bad.digest)));
        }
        Document::Index(list)
    } else if MANIFESTS.contains(&media_type.as_str()) {
        let (config, layers) = (config.ok_or_else(wrong)?, layers.ok_or_else(wrong)?.0);
        let manifest = Manifest { config, layers };
        check(&manifest)?;
        Document::Image(manifest)
    } else {
        return Err(format!("is {:?}, which is not an image", shown(&media_type)));
    };
    Ok((media_type, document))
}

/// What of a manifest can be known without its files.
fn check(manifest: &Manifest) -> Result<(), String> {
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    if manifest.layers.len() > MAX_LAYERS {
        return Err(format!("has {} layers, and {MAX_LAYERS} are the most", manifest.layers.len()));
    }
    if manifest.layers.is_empty() {
        return Err("has no layers".into());
    }
    if !CONFIGS.contains(&manifest.config.media_type.as_str()) {
        return Err(format!(
            "has the configuration {:?}, so it is not an image",
            shown(&manifest.config.media_type)
        ));
    }
    if manifest.config.size > MAX_JSON_BYTES {
        return Err(format!("has a configuration of {} bytes", manifest.config.size));
    }
    for layer in &manifest.layers {
        if !LAYERS.contains(&layer.media_type.as_str()) {
            return Err(format!("has a layer {:?}, which is not known", shown(&layer.media_type)));
        }
    }
    match manifest.layers.iter().chain([&manifest.config]).find(|file| !is_digest(&file.digest)) {
        Some(bad) => {
            Err(format!("names {:?}, which is not a digest that can be checked", shown(&bad.digest)))
        }
        None => Ok(()),
    }
}

/// The image of an index for `platform`: the first that fits, as others choose.
pub(super) fn choose<'a>(
    session: &Session,
    list: &'a [Descriptor],
    platform: &Platform,
) -> Result<&'a Descriptor, PullError> {
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| platform.accepts(p));
    if let Some(found) = list.iter().find(fits) {
        return Ok(found);
    }
    // What BuildKit adds about an image has the platform "unknown/unknown".
    let known = list.iter().filter_map(|d| d.platform.as_ref()).filter(|p| p.os != "unknown");
    let names: Vec<String> = known.take(20).map(|p| p.to_string().chars().take(60).collect()).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(PullError::Platform { reference: session.shown(), wanted: platform.to_string(), found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layer: &str) -> String {
        let digest = format!("sha256:{}", "0".repeat(64));
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{config}","digest":"{digest}","size":2}},
            "layers":[{{"mediaType":"{layer}","digest":"{digest}","size":3}}]}}"#,
            MANIFESTS[0]
        )
    }

    #[test]
    fn manifests_of_images_are_read_and_others_refused() {
        let good = manifest(CONFIGS[0], LAYERS[2]);
        assert!(matches!(read(good.as_bytes(), ""), Ok((_, Document::Image(_)))));
        // Without a media type of its own the header tells.
        let bare = good.replacen(&format!(r#""mediaType":"{}","#, MANIFESTS[0]), "", 1);
        assert!(read(bare.as_bytes(), &format!("{}; charset=utf-8", MANIFESTS[1])).is_ok());
        let table = [
            (bare.clone(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
            (bare, ""),
            (manifest("application/vnd.cncf.helm.config.v1+json", LAYERS[0]), ""),
            (manifest(CONFIGS[0], "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), ""),
            (good.replace("sha256:", "sha512:"), ""),
            (good.replace("[{", "[{},{"), ""),
            (good.replacen("layers\":[", "layers\":[],\"x\":[", 1), ""),
            (good.replacen('{', r#"{"manifests":[],"#, 1), ""),
            (good.replace("\"size\":2", "\"size\":99999999"), ""),
            (good.replace("\"size\":2", "\"size\":-1"), ""),
            ("[]".into(), MANIFESTS[0]),
            ("{".into(), MANIFESTS[0]),
        ];
        for (text, content_type) in table {
            assert!(read(text.as_bytes(), content_type).is_err(), "{text}");
        }
    }
}
