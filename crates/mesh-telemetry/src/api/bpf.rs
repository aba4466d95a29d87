//! Answers of `/v1/bpf` and `/v1/bpf/entries`: what the agent has in the kernel.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Timestamp;

/// Every pinned map and every program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfSummary {
    /// The directory of the pins.
    pub pins: String,
    /// Every map that the agent knows.
    pub maps: Vec<BpfMapRow>,
    /// Every program that the agent knows.
    pub programs: Vec<BpfProgramRow>,
}

/// A map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfMapRow {
    /// As bpftool shows it.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// The kernel's word for its type; `null` where it is not pinned.
    pub kind: Option<String>,
    /// The kernel's number of it; `null` likewise.
    pub id: Option<u32>,
    /// Bytes of a key; `null` likewise.
    pub key_bytes: Option<u32>,
    /// Bytes of a value; `null` likewise.
    pub value_bytes: Option<u32>,
    /// How many entries it holds; `null` where that cannot be counted (rings, socket storage).
    pub entries: Option<u64>,
    /// How many it may hold; `null` where there is no such bound.
    pub max_entries: Option<u64>,
    /// Where it is pinned.
    pub path: String,
    /// What shows the same.
    pub bpftool: String,
    /// Why something of this is not known; `null` where all is.
    pub error: Option<String>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfProgramRow {
    /// As bpftool shows it.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// What it is attached to, in words.
    pub attached_to: String,
    /// How many pinned links run it.
    pub links: u64,
    /// The kernel's numbers of the programs that these run: more than one where an agent was replaced and one link still
    /// runs its predecessor's.
    pub ids: Vec<u32>,
    /// The program's hash, as bpftool shows it; `null` where nothing runs it.
    pub tag: Option<String>,
    /// Bytes after translation; `null` likewise.
    pub bytes: Option<u32>,
    /// When it was loaded; `null` likewise.
    pub loaded: Option<Timestamp>,
    /// Where its links are pinned.
    pub path: String,
    /// What shows the same.
    pub bpftool: String,
}

/// What a map holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfEntries {
    /// The map.
    pub name: String,
    /// What shows the same.
    pub bpftool: String,
    /// Decoded, in the order of the map, which is none.
    pub entries: Vec<BpfEntry>,
    /// There are more than were asked for.
    pub more: bool,
}

/// A key and its value, field by field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfEntry {
    /// A number, an address, or an object of them.
    pub key: Value,
    /// Likewise; summed over processors where each has its own.
    pub value: Value,
}
