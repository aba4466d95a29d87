//! What an object was made from: a fingerprint of the sources, the manifests, the compiler and the linker.

use crate::paths::{Workspace, files_below};
use crate::setup::Ebpf;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// To be raised when the way of building changes.
const RECIPE: &str = "1";

/// A fingerprint; equal means that the same object would come out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(String);

impl Stamp {
    /// Of what would be built now.
    pub(super) fn of(workspace: &Workspace, ebpf: &Ebpf) -> Result<Self> {
        let mut print = Fingerprint::new();
        print.add(RECIPE.as_bytes());
        print.add(ebpf.toolchain.identity.as_bytes());
        print.add(ebpf.linker.to_string().as_bytes());
        print.add(ebpf.linker.path.metadata().map(|file| file.len()).unwrap_or(0).to_string().as_bytes());
        let mut files = vec![workspace.root.join("Cargo.toml"), workspace.root.join("Cargo.lock")];
        for directory in ["mesh-ebpf", "mesh-common"] {
            files.extend(files_below(&workspace.root.join(directory))?);
        }
        for path in files {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(&workspace.root).unwrap_or(&path);
            print.add(name.as_os_str().as_encoded_bytes());
            print.add(&bytes);
        }
        Ok(Self(print.finish()))
    }

    fn path(object: &Path) -> PathBuf {
        object.with_extension("stamp")
    }

    /// Is it the one that the object was made with?
    pub(super) fn is_at(&self, object: &Path) -> bool {
        fs::read_to_string(Self::path(object)).is_ok_and(|stored| stored.trim() == self.0)
    }

    /// Stores it beside the object.
    pub(super) fn write_at(&self, object: &Path) -> Result<()> {
        let path = Self::path(object);
        fs::write(&path, &self.0).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// FNV-1a with 128 bits: no adversary here, and no dependency.
pub(crate) struct Fingerprint(u128);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds a part; its length goes in too, so that parts cannot run into each other.
    pub(crate) fn add(&mut self, part: &[u8]) {
        for byte in part.len().to_le_bytes().iter().chain(part) {
            self.0 ^= u128::from(*byte);
            self.0 = self.0.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    pub(crate) fn finish(&self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests;
