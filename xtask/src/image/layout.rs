//! An OCI image layout in a tar archive: blobs by digest, an index that names them.
//!
//! ```text
//! index.json ─► manifest (one platform), or index ─► manifests (several)
//!                  └─► config, layers          all in blobs/sha256/DIGEST
//! ```
//!
//! Layers are not compressed: registries compress nothing themselves, but the bytes are then the same whoever makes them.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// When everything was made: always then.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What an image runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Platform {
    /// linux/amd64
    Amd64,
    /// linux/arm64
    Arm64,
}

impl Platform {
    /// From `linux/amd64`, for clap.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "linux/amd64" => Ok(Self::Amd64),
            "linux/arm64" => Ok(Self::Arm64),
            _ => Err("linux/amd64 or linux/arm64".to_owned()),
        }
    }

    /// This machine's.
    pub(super) fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => anyhow::bail!("no image for {other}: Weft runs on amd64 and arm64"),
        }
    }

    /// As OCI has it.
    pub(super) fn arch(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust has it.
    pub(super) fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// As distributions name directories after it.
    pub(super) fn multiarch(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// As ELF files have it.
    pub(super) fn machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.arch())
    }
}

/// How an image starts, and what it says of itself.
pub(super) struct Config {
    pub(super) title: String,
    pub(super) about: String,
    pub(super) version: String,
    pub(super) entrypoint: String,
    pub(super) user: String,
}

/// An archive in the making.
pub(super) struct Archive {
    /// Host and path, without a tag.
    name: String,
    tag: String,
    /// Digest (hex) to content.
    blobs: BTreeMap<String, Vec<u8>>,
    /// A descriptor for each platform.
    manifests: Vec<Value>,
}

impl Archive {
    pub(super) fn new(name: &str, tag: &str) -> Self {
        Self { name: name.to_owned(), tag: tag.to_owned(), blobs: BTreeMap::new(), manifests: Vec::new() }
    }

    /// Adds one platform's image.
    pub(super) fn add(&mut self, platform: Platform, layers: &[Vec<u8>], config: &Config) -> Result<()> {
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, layer.clone())).collect();
        let config = json!({
            "created": CREATED,
            "architecture": platform.arch(),
            "os": "linux",
            "config": {
                "User": config.user,
                "Entrypoint": [config.entrypoint],
                "Env": ["PATH=/usr/bin"],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": config.title,
                    "org.opencontainers.image.description": config.about,
                    "org.opencontainers.image.version": config.version,
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            },
            // Not compressed, so a layer's digest is also that of its content.
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| layer["digest"].clone()).collect::<Vec<_>>(),
            },
            "history": layers
                .iter()
                .map(|_| json!({"created": CREATED, "created_by": "cargo xtask image"}))
                .collect::<Vec<_>>(),
        });
        let config = self.blob(CONFIG, serde_json::to_vec(&config)?);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut manifest = self.blob(MANIFEST, serde_json::to_vec(&manifest)?);
        manifest["platform"] = json!({"os": "linux", "architecture": platform.arch()});
        self.manifests.push(manifest);
        Ok(())
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        let index =
            |manifests: &[Value]| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let mut top = match self.manifests.as_slice() {
            [one] => one.clone(),
            several => {
                let several = serde_json::to_vec(&index(several))?;
                self.blob(INDEX, several)
            }
        };
        // containerd goes by the first, everybody else by the second.
        top["annotations"] = json!({
            "io.containerd.image.name": format!("{}:{}", self.name, self.tag),
            "org.opencontainers.image.ref.name": self.tag,
        });
        let mut tar = tar::Builder::new(Vec::new());
        let mut append = |path: &str, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content).with_context(|| format!("cannot write {path}"))
        };
        append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append("index.json", &serde_json::to_vec(&index(&[top]))?)?;
        for (digest, content) in &self.blobs {
            append(&format!("blobs/sha256/{digest}"), content)?;
        }
        Ok(tar.into_inner()?)
    }

    /// Stores content, once, and describes it.
    fn blob(&mut self, kind: &str, content: Vec<u8>) -> Value {
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        let size = content.len();
        let descriptor = json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size});
        self.blobs.insert(digest, content);
        descriptor
    }
}
