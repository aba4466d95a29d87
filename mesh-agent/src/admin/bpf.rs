//! `GET /v1/bpf` and `/v1/bpf/entries`: what the agent has in the kernel, decoded, with the bpftool line that shows the same.
//!
//! It is read by the pins, as bpftool would, so that what is shown is what the node has and not what the agent believes:
//! a map that somebody has unpinned is a row with an error. Looking only: nothing here writes to a map. A count of a map's
//! entries walks over its keys, a system call each, so all of this is for a thread that may block.

mod entries;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_programs};
use mesh_common::{maps, paths, programs};
use mesh_telemetry::api::{BpfEntries, BpfMapRow, BpfProgramRow, BpfSummary};
use mesh_telemetry::http::Response;

use super::query;
use crate::metrics::Fill;

/// Entries of an answer, unless it is asked for fewer …
const ENTRIES: usize = 100;
/// … or more; never more than these.
const MOST_ENTRIES: usize = 10_000;

/// What a map is for.
fn purpose(name: &str) -> &'static str {
    match name {
        maps::SETTINGS => "what the hooks must know of the node",
        maps::SELF => "cgroups that pass every hook: the agent's own",
        maps::PODS => "what each pod's network namespace is",
        maps::CGROUPS => "what each pod's cgroup is",
        maps::ADDRS => "addresses of captured pods",
        maps::SERVICES => "Services' addresses and ports",
        maps::LISTENERS => "the agent's listening sockets in pods",
        maps::ORIGINALS => "where redirected connections were going",
        maps::DELIVERY => "on whose behalf the agent delivers",
        maps::NOTES => "what a socket carries with it",
        maps::REFUSED => "refusals by reason",
        maps::COUNTED => "events of the hooks",
        maps::KUBELET => "kubelet's cgroup",
        maps::PROBES => "kubelet's open connections to pods",
        maps::EXCLUDED_NETS => "destinations outside the mesh by setting",
        maps::EXCLUDED_PORTS => "destination ports outside the mesh by setting",
        maps::DESTINATIONS => "addresses of the mesh and their classes",
        maps::SOURCES => "classes of this node's pods as clients",
        maps::PAIRS => "who may talk to whom, by class",
        maps::PORTS => "verdicts by port",
        maps::ENDPOINTS => "endpoints that Services may choose",
        maps::MEMBERS => "endpoints of Services with affinity",
        maps::AFFINITY => "which endpoint a client had last",
        maps::DIRECT => "open connections that no agent carries",
        maps::LEFT => "open connections to what is outside the mesh",
        maps::FLOWS => "what connections without an agent amount to",
        maps::DEVICES => "whose the host's devices are",
        maps::EVENTS => "ring of refusals for the agent",
        maps::ENDED => "ring of ends of connections, for the agent's access log",
        _ => "",
    }
}

/// What each program is for, what it is attached to, and where its links are pinned.
const PROGRAMS: [(&str, &str, &str, Pins); 7] = [
    (programs::CONNECT4, "redirects, admits or refuses IPv4 connects", "the cgroup root", Pins::Own),
    (programs::CONNECT6, "the same for IPv6", "the cgroup root", Pins::Own),
    (
        programs::PEERNAME4,
        "shows the address that was dialled, or that dialled (IPv4)",
        "the cgroup root",
        Pins::Own,
    ),
    (programs::PEERNAME6, "the same for IPv6", "the cgroup root", Pins::Own),
    (programs::SOCKOPS, "files and hands over notes on connections", "the cgroup root", Pins::Own),
    (
        programs::SK_LOOKUP,
        "steers what arrives at a pod",
        "each captured pod's network namespace",
        Pins::All(paths::PODS),
    ),
    (
        programs::GUARD,
        "lets out of a pod's device only what is the pod's",
        "the host's side of each pod's device",
        Pins::All(paths::GUARDS),
    ),
];

/// Where a program's links are pinned.
#[derive(Clone, Copy)]
enum Pins {
    /// One, by its name.
    Own,
    /// All of a directory.
    All(&'static str),
}

/// All maps and programs.
pub(super) fn summary(bpffs: &Path) -> BpfSummary {
    let pins = bpffs.join(paths::ROOT);
    let maps = maps::ALL.iter().map(|name| map_row(&pins, name)).collect();
    BpfSummary { maps, programs: program_rows(&pins), pins: pins.display().to_string() }
}

/// How full the maps are that fill up. By walking over every key, as the kernel has no number to ask for: to be done now and
/// then. One that cannot be opened is left out.
pub(super) fn fill(bpffs: &Path) -> Vec<Fill> {
    let pins = bpffs.join(paths::ROOT);
    let of = |map: &&'static str| {
        let path = map_path(&pins, map);
        let max_entries = MapInfo::from_pin(&path).ok()?.max_entries().into();
        Some(Fill { map, entries: entries::count(map, &path).ok()??, max_entries })
    };
    // Arrays are as large as they are.
    let fills_up = |name: &&&str| ![maps::SETTINGS, maps::REFUSED, maps::COUNTED].contains(name);
    maps::ALL.iter().filter(fills_up).filter_map(of).collect()
}

/// The answer to a query as it was sent: what one map holds.
pub(super) fn entries_of(bpffs: &Path, asked: Option<&str>) -> Response {
    let known = query(asked, "map").and_then(|wanted| maps::ALL.iter().find(|name| **name == wanted));
    let limit = query(asked, "limit").map(str::parse::<usize>).transpose();
    let (Some(name), Ok(limit)) = (known, limit) else {
        return Response::bad_request(format!(
            "the query is map=NAME&limit=N; maps: {}",
            maps::ALL.join(", ")
        ));
    };
    let limit = limit.unwrap_or(ENTRIES).min(MOST_ENTRIES);
    let path = map_path(&bpffs.join(paths::ROOT), name);
    // One more, to know whether there is one.
    match entries::read(name, &path, limit + 1) {
        Ok(Some(mut entries)) => {
            let more = entries.len() > limit;
            entries.truncate(limit);
            let bpftool = dump_line(&path);
            Response::json(&BpfEntries { name: (*name).into(), bpftool, entries, more })
        }
        Ok(None) => Response::bad_request(format!("{name} has no entries that can be listed")),
        Err(error) => Response::unavailable(format!("cannot read {}: {}", path.display(), in_words(&error))),
    }
}

fn map_path(pins: &Path, name: &str) -> PathBuf {
    pins.join(paths::MAPS).join(name)
}

fn dump_line(path: &Path) -> String {
    format!("bpftool map dump pinned {}", path.display())
}

fn map_row(pins: &Path, name: &str) -> BpfMapRow {
    let path = map_path(pins, name);
    let info = MapInfo::from_pin(&path);
    let count = info.as_ref().ok().map(|_| entries::count(name, &path));
    let error = match (&info, &count) {
        (Err(error), _) | (_, Some(Err(error))) => Some(in_words(error)),
        _ => None,
    };
    let info = info.ok();
    let known = |number: fn(&MapInfo) -> u32| info.as_ref().map(number);
    let kind = info.as_ref().and_then(|info| info.map_type().ok()).map(word);
    // A socket's storage is bounded by the number of sockets.
    let max = known(MapInfo::max_entries).filter(|max| *max > 0);
    BpfMapRow {
        name: name.into(),
        purpose: purpose(name).into(),
        id: known(MapInfo::id),
        key_bytes: known(MapInfo::key_size),
        value_bytes: known(MapInfo::value_size),
        entries: count.and_then(Result::ok).flatten(),
        max_entries: max.map(u64::from),
        bpftool: match kind.as_deref() {
            Some("ringbuf" | "sk_storage") => format!("bpftool map show pinned {}", path.display()),
            _ => dump_line(&path),
        },
        kind,
        path: path.display().to_string(),
        error,
    }
}

/// The kernel's word for a type, as bpftool has it.
fn word(kind: MapType) -> String {
    match kind {
        MapType::Hash => "hash".into(),
        MapType::Array => "array".into(),
        MapType::PerCpuHash => "percpu_hash".into(),
        MapType::PerCpuArray => "percpu_array".into(),
        MapType::LruHash => "lru_hash".into(),
        MapType::LpmTrie => "lpm_trie".into(),
        MapType::SockHash => "sockhash".into(),
        MapType::SkStorage => "sk_storage".into(),
        MapType::RingBuf => "ringbuf".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn program_rows(pins: &Path) -> Vec<BpfProgramRow> {
    let running: Vec<(PathBuf, Vec<u32>)> =
        PROGRAMS.iter().map(|(name, _, _, at)| run_by(pins, name, *at)).collect();
    let wanted: BTreeSet<u32> = running.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    // What goes while it is looked at is no error.
    let loaded: BTreeMap<u32, ProgramInfo> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| wanted.contains(&program.id()))
        .map(|program| (program.id(), program))
        .collect();
    let rows = PROGRAMS.iter().zip(running).map(|((name, purpose, attached_to, _), (path, all))| {
        let ids: BTreeSet<u32> = all.iter().copied().collect();
        // The newest: an agent's successor loads anew.
        let newest = ids.last().and_then(|id| loaded.get(id));
        BpfProgramRow {
            name: (*name).into(),
            purpose: (*purpose).into(),
            attached_to: (*attached_to).into(),
            links: all.len() as u64,
            bpftool: match ids.last() {
                Some(id) => format!("bpftool prog show id {id}"),
                None => format!("bpftool prog show name {name}"),
            },
            ids: ids.into_iter().collect(),
            tag: newest.map(|program| format!("{:016x}", program.tag())),
            bytes: newest.and_then(ProgramInfo::size_translated),
            loaded: newest.and_then(ProgramInfo::loaded_at).map(Into::into),
            path: path.display().to_string(),
        }
    });
    rows.collect()
}

/// Where a program's links are pinned, and the programs that they run, one a link.
fn run_by(pins: &Path, name: &str, at: Pins) -> (PathBuf, Vec<u32>) {
    let (path, links) = match at {
        Pins::Own => {
            let path = pins.join(paths::LINKS).join(name);
            (path.clone(), vec![path])
        }
        Pins::All(directory) => {
            let path = pins.join(directory);
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            let links = entries.map(|entry| entry.path()).collect();
            (path, links)
        }
    };
    let program = |link: &PathBuf| {
        let link = FdLink::from(PinnedLink::from_pin(link).ok()?);
        link.info().ok().map(|info| info.program_id())
    };
    let ids = links.iter().filter_map(program).collect();
    (path, ids)
}

/// An error with all its causes, in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}
