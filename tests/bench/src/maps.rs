//! An agent's pinned maps: the memory that the kernel has set aside for them, and what is in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// Types of maps whose entries are worth counting: arrays are always full, sockets cannot be read.
const COUNTED: [&str; 4] = ["hash", "lru_hash", "lpm_trie", "percpu_hash"];

/// A map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedMap {
    /// Its name.
    pub name: String,
    /// Memory that the kernel has set aside for it.
    pub bytes: u64,
    path: PathBuf,
    kind: String,
}

/// What `bpftool map show` says of one.
#[derive(Debug, Deserialize)]
struct Shown {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    bytes_memlock: u64,
}

/// All maps pinned below a directory, by name.
pub fn pinned(directory: &Path) -> Result<Vec<PinnedMap>> {
    let mut maps = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                maps.extend(show(entry.path())?);
            }
        }
    }
    if maps.is_empty() {
        bail!("no map is pinned below {}", directory.display());
    }
    maps.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(maps)
}

impl PinnedMap {
    /// How many entries there are; `None` of what is not counted.
    pub fn entries(&self) -> Result<Option<usize>> {
        if !COUNTED.contains(&self.kind.as_str()) {
            return Ok(None);
        }
        let dumped = bpftool("dump", &self.path)?;
        let entries = serde_json::from_slice::<Vec<Value>>(&dumped);
        Ok(Some(entries.with_context(|| format!("what bpftool dumps of {}", self.name))?.len()))
    }
}

/// `None`: it is no map, but a program or link.
fn show(path: PathBuf) -> Result<Option<PinnedMap>> {
    Ok(parse(path.clone(), &bpftool("show", &path)?))
}

fn parse(path: PathBuf, shown: &[u8]) -> Option<PinnedMap> {
    let Shown { name, kind, bytes_memlock } = serde_json::from_slice(shown).ok()?;
    Some(PinnedMap { name, bytes: bytes_memlock, path, kind })
}

fn bpftool(verb: &str, path: &Path) -> Result<Vec<u8>> {
    let output = Command::new("bpftool").args(["-j", "map", verb, "pinned"]).arg(path).output();
    Ok(output.context("bpftool does not start: run `cargo xtask setup`")?.stdout)
}

#[cfg(test)]
mod tests;
