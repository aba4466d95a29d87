//! The object in this kernel: the verifier takes it, its maps can be read by name, and take what they may.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use ebpf_tests::Hooks;
use ebpf_tests::hooks::CGROUP_PROGRAMS;
use lab::row::Table;
use mesh_common::{
    CgroupEntry, DeliveryKey, Endpoint16, NoteKey, Original, PodEntry, Settings, maps, programs,
};

const MIB: u64 = 1 << 20;
/// As in `layout`, where it is reckoned from the file.
const MOST_AT_START: u64 = 34 * MIB;

/// A line of `/proc/self/fdinfo`.
fn fdinfo(fd: &OwnedFd, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.with_context(|| format!("no {key} in {text}"))?.trim().parse().context("a number")
}

#[test]
fn the_kernel_takes_every_program() {
    const TEST: &str = "the_kernel_takes_every_program";
    if !lab::ready(TEST) {
        return;
    }
    let hooks = Hooks::load(None).unwrap();
    let mut table = Table::new(TEST);
    for name in CGROUP_PROGRAMS.into_iter().chain([programs::SK_LOOKUP]) {
        table.row(name, || {
            let id = fdinfo(&hooks.program(name)?, "prog_id")?;
            let info =
                loaded_programs().flatten().find(|info| u64::from(info.id()) == id).context("not loaded")?;
            ensure!(info.name_as_str() == Some(name), "the kernel calls it {:?}", info.name_as_str());
            ensure!(info.gpl_compatible() == Some(true), "it may not call what is GPL only");
            ensure!(info.btf_id().is_some(), "it has no BTF");
            Ok(format!("{} instructions verified", info.verified_instruction_count().unwrap_or(0)))
        });
    }
    table.finish();
}

#[test]
fn the_kernel_s_own_figure_of_the_maps_is_within_bounds() {
    const TEST: &str = "the_kernel_s_own_figure_of_the_maps_is_within_bounds";
    if !lab::ready(TEST) {
        return;
    }
    let hooks = Hooks::load(None).unwrap();
    let mut table = Table::new(TEST);
    table.row("memory at start", || {
        let mut sum = 0;
        let mut each = Vec::new();
        for (name, map) in hooks.all_maps()? {
            let bytes = fdinfo(&map, "memlock")?;
            sum += bytes;
            each.push((bytes, name));
        }
        each.sort();
        ensure!(sum <= MOST_AT_START, "{sum} bytes: {each:?}");
        Ok(format!("{:.1} MiB", sum as f64 / MIB as f64))
    });
    table.finish();
}

#[test]
fn bpftool_prints_the_maps_with_the_names_of_their_fields() {
    const TEST: &str = "bpftool_prints_the_maps_with_the_names_of_their_fields";
    if !lab::ready(TEST) {
        return;
    }
    let mut table = Table::new(TEST);
    if !Command::new("bpftool").arg("version").output().is_ok_and(|output| output.status.success()) {
        table.skip("all", "bpftool is not installed: run `cargo xtask setup`");
        return table.finish();
    }
    let hooks = Hooks::load(None).unwrap();
    hooks.put(maps::PODS, 7_u64, PodEntry::default()).unwrap();
    hooks.put(maps::CGROUPS, 7_u64, CgroupEntry::default()).unwrap();
    hooks.put(maps::ORIGINALS, NoteKey::default(), Original::default()).unwrap();
    hooks.put(maps::DELIVERY, DeliveryKey::default(), Endpoint16::default()).unwrap();
    hooks.set(Settings::default()).unwrap();
    for (map, fields) in [
        (maps::SETTINGS, &["abi", "world_complete", "allow_unknown", "host_cookie"][..]),
        (maps::PODS, &["state", "addr4", "addr6", "words"]),
        (maps::CGROUPS, &["netns_cookie", "state"]),
        (maps::ORIGINALS, &["netns_cookie", "addr", "port", "target"]),
        (maps::DELIVERY, &["src", "dst", "src_port", "dst_port"]),
    ] {
        table.row(map, || {
            let id = fdinfo(&hooks.map(map)?, "map_id")?.to_string();
            let dump = Command::new("bpftool")
                .args(["map", "dump", "id", &id])
                .current_dir(Path::new("/"))
                .output()?;
            let text = String::from_utf8_lossy(&dump.stdout);
            for field in fields {
                ensure!(text.contains(&format!("\"{field}\"")), "no {field:?} in {text}");
            }
            Ok(String::new())
        });
    }
    table.finish();
}
