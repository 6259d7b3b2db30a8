//! Archives and image layouts, made byte by byte, so that they can be wrong in any way.

use std::path::Path;

use banger_host::digest::sha256;
use serde_json::{Value, json};

/// A tar that is being made.
#[derive(Default, Clone)]
pub struct Tar {
    pub bytes: Vec<u8>,
}

/// A header, with its checksum right when it is taken.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

impl Header {
    pub fn new(path: &[u8], kind: u8, size: u64) -> Self {
        let mut header = Self([0; 512]);
        header.set(0, &path[..path.len().min(100)]);
        let mode: &[u8] = if kind == b'5' { b"0000755" } else { b"0000644" };
        header.set(100, mode).set(108, b"0000000").set(116, b"0000000");
        header.set(124, format!("{size:011o}").as_bytes()).set(136, b"14000000000");
        header.set(156, &[kind]).set(257, b"ustar\x0000").set(329, b"0000000").set(337, b"0000000");
        header
    }

    pub fn set(&mut self, at: usize, value: &[u8]) -> &mut Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }

    pub fn link(mut self, target: &[u8]) -> Self {
        self.set(157, target);
        self
    }
}

impl Tar {
    pub fn put(mut self, mut header: Header, data: &[u8]) -> Self {
        header.set(148, b"        ");
        let sum: u32 = header.0.iter().map(|byte| u32::from(*byte)).sum();
        header.set(148, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header.0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.put(Header::new(path.as_bytes(), b'0', data.len() as u64), data)
    }

    pub fn directory(self, path: &str) -> Self {
        self.put(Header::new(path.as_bytes(), b'5', 0), b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.put(Header::new(path.as_bytes(), b'2', 0).link(target.as_bytes()), b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.put(Header::new(path.as_bytes(), b'1', 0).link(target.as_bytes()), b"")
    }

    /// PAX records for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            // The length counts its own digits.
            let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
            data.extend_from_slice(length.to_string().as_bytes());
            data.extend_from_slice(&rest);
        }
        self.put(Header::new(b"PaxHeaders/x", b'x', data.len() as u64), &data)
    }

    /// With the end marker.
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// `bytes` through a compressor.
pub fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let output = super::run(super::command(program).arg("-c"), bytes);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What kind of layer a file is.
fn layer_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x1f, 0x8b, ..] => "layer.v1.tar+gzip",
        [0x28, 0xb5, ..] => "layer.v1.tar+zstd",
        _ => "layer.v1.tar",
    }
}

/// Writes an OCI image layout of layers: the files, and what is in them. Gives the manifest's digest.
pub fn layout(dir: &Path, layers: &[(Vec<u8>, Vec<u8>)]) -> String {
    layout_to_run(dir, layers, &json!({ "Labels": { "from": "the image" } }))
}

/// The same of an image that wants to be run so.
pub fn layout_to_run(dir: &Path, layers: &[(Vec<u8>, Vec<u8>)], run: &Value) -> String {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        let kind = format!("application/vnd.oci.image.{kind}");
        let digest = sha256(bytes);
        std::fs::write(blobs.join(&digest), bytes).unwrap();
        json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let described: Vec<_> = layers.iter().map(|(packed, _)| blob(layer_type(packed), packed)).collect();
    let diff_ids: Vec<String> = layers.iter().map(|(_, tar)| format!("sha256:{}", sha256(tar))).collect();
    let config = json!({
        "os": "linux", "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "config": run, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": described });
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
    let digest = manifest["digest"].as_str().unwrap().to_owned();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    digest
}
