//! Promise: when a map of the kernel half is full, whoever needs room in it is refused and told so, nobody else notices,
//! and with room again it goes on by itself.
//!
//! The kernel half of this, map by map, is in `tests/ebpf` (capacity); here are the agents, the log and what `meshctl` shows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exhaustion::cast::{Cast, PORT};
use exhaustion::maps::{Full, FullOfListeners, filler};
use exhaustion::seen;
use lab::row::Table;
use lab::{Lab, Pod, eventually};
use mesh_common::{
    AddrEntry, CgroupEntry, DeliveryKey, Endpoint16, PodEntry, ServiceKey16, ServiceState, maps,
};
use serde_json::Value;

/// A full map is looked at again every second.
const SOON: Duration = Duration::from_secs(10);
/// Ids and cookies that nothing has.
const FAR: u64 = 1 << 60;

fn connects(from: &Pod, to: SocketAddr) -> Result<()> {
    let report = seen::burst(from, to, 1, 1, false)?;
    ensure!(report["ok"] == 1, "{report}");
    Ok(())
}

fn eventually_connects(from: &Pod, to: SocketAddr) -> Result<()> {
    eventually(SOON, || connects(from, to).map_err(|error| format!("{error:#}")))
}

fn server(cast: &Cast) -> SocketAddr {
    SocketAddr::new(cast.server.v4().into(), PORT)
}

#[test]
fn a_pod_for_which_a_map_has_no_room_is_refused_and_others_go_on() {
    const TEST: &str = "a_pod_for_which_a_map_has_no_room_is_refused_and_others_go_on";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        table.row(maps::CGROUPS, || {
            let full = Full::fill(lab, "a", maps::CGROUPS, maps::CGROUPS_MAX, CgroupEntry::default(), |n| {
                FAR + n as u64
            })?;
            late_pod(lab, &cast, "shop/late-cgroups", full)
        });
        table.row(maps::PODS, || {
            let full =
                Full::fill(lab, "a", maps::PODS, maps::PODS_MAX, PodEntry::default(), |n| FAR + n as u64)?;
            late_pod(lab, &cast, "shop/late-pods", full)
        });
        table.row(maps::ADDRS, || {
            let full = Full::fill(lab, "a", maps::ADDRS, maps::ADDRS_MAX, AddrEntry::default(), filler)?;
            late_pod(lab, &cast, "shop/late-addrs", full)
        });
        table.row(maps::LISTENERS, || {
            late_pod(lab, &cast, "shop/late-listeners", FullOfListeners::fill(lab, "a")?)
        });
        table.finish();
        Ok(())
    });
}

/// A pod of the mesh that is started while a map is full.
fn late_pod(lab: &Lab, cast: &Cast, key: &str, full: impl Sized) -> Result<String> {
    let pod = lab.pod(key).node("a").start()?;
    let row = eventually(SOON, || match seen::row(lab, &pod).map_err(|error| format!("{error:#}"))? {
        Some(row) if row["reason"] == "map_full" => Ok(row),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(row["state"] != "captured" && row["state"] != "excluded", "{row}");
    // Neither to the mesh nor out of it: no plaintext of a pod that should be in the mesh.
    for to in [server(cast), SocketAddr::new(cast.stranger.v4().into(), PORT)] {
        let report = seen::burst(&pod, to, 1, 1, false)?;
        ensure!(report["by"]["connect:ECONNREFUSED"] == 1, "{report}");
    }
    connects(&cast.client, server(cast)).context("a pod that was captured before")?;
    drop(full);
    lab.await_captured(&pod)?;
    let row = seen::row(lab, &pod)?.context("no row")?;
    ensure!(row["reason"].is_null(), "{row}");
    eventually_connects(&pod, server(cast))?;
    pod.delete()?;
    Ok("map_full, refused, then captured".to_owned())
}

#[test]
fn a_delivery_for_which_the_map_has_no_room_is_reset_and_counted() {
    const TEST: &str = "a_delivery_for_which_the_map_has_no_room_is_reset_and_counted";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let agent = lab.agent("b");
        let mut table = Table::new(TEST);
        for (family, address) in [("IPv4", IpAddr::from(cast.server.v4())), ("IPv6", cast.server.v6().into())]
        {
            for (way, from) in [("through a tunnel", &cast.client), ("in plaintext", &cast.stranger)] {
                table.row(&format!("{family}, {way}"), || {
                    let to = SocketAddr::new(address, PORT);
                    let mut held = exhaustion::held::Held::start(from, &[to], 5)?;
                    held.all_open(5)?;
                    let (before, kernel) =
                        (seen::refused(agent, "map_full")?, seen::kernel_refused(agent, "map_full")?);
                    let key = |n| DeliveryKey { src: filler(n), dst: filler(n), src_port: 1, dst_port: 1 };
                    let full =
                        Full::fill(lab, "b", maps::DELIVERY, maps::DELIVERY_MAX, Endpoint16::default(), key)?;
                    let report = seen::burst(from, to, 10, 1, false)?;
                    ensure!(report["failed"] == 10, "{report}");
                    let reset = seen::resets(&report);
                    ensure!(reset == 10, "{report}");
                    let refused = seen::refused(agent, "map_full")? - before;
                    ensure!(refused == 10, "the agent counts {refused}");
                    let refused = seen::kernel_refused(agent, "map_full")? - kernel;
                    ensure!(refused >= 10, "the kernel half counts {refused}");
                    // To another node nothing is missing.
                    drop(full);
                    connects(from, to).context("with room again")?;
                    held.all_alive(5).context("connections that were open")?;
                    Ok("10 of 10 reset and counted".to_owned())
                });
            }
        }
        table.row("the log says so some five times a second, and not for each", || {
            let log = seen::log(lab, "b")?;
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("map_full")).collect();
            // Within a second that begins with a line; and what was left out of it is said once.
            let mut seconds = BTreeMap::<&str, usize>::new();
            for line in &lines {
                *seconds.entry(line.get(..19).unwrap_or_default()).or_default() += 1;
            }
            let most = seconds.values().copied().max().unwrap_or(0);
            // A second of the clock has the ends of two of the log's.
            ensure!((1..=2 * 6).contains(&most), "{most} lines in a second: {lines:#?}");
            Ok(format!("{} lines for 40 refusals", lines.len()))
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn a_service_for_which_the_map_has_no_room_is_refused_late_and_early_again() {
    const TEST: &str = "a_service_for_which_the_map_has_no_room_is_refused_late_and_early_again";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        table.row(maps::SERVICES, || {
            let key = |n| ServiceKey16 { addr: filler(n), port: 1 };
            let full =
                Full::fill(lab, "a", maps::SERVICES, maps::SERVICES_MAX, ServiceState::default(), key)?;
            // Nobody serves it.
            let service = lab.service("shop/nobody").select("app", "nobody").port(80, 80).create()?;
            let to = SocketAddr::new(service.v4().into(), 80);
            eventually(SOON, || {
                let log = seen::log(lab, "a").map_err(|error| format!("{error:#}"))?;
                match log.lines().filter(|line| line.contains("map_full")).count() {
                    1 => Ok(()),
                    lines => Err(format!("{lines} lines name map_full")),
                }
            })?;
            // The agent knows it and resets, the kernel does not know it and lets connect(2) succeed.
            eventually(SOON, || match seen::burst(&cast.client, to, 1, 1, false) {
                Ok(report) if seen::resets(&report) == 1 => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
            connects(&cast.client, server(&cast)).context("another destination")?;
            drop(full);
            eventually(SOON, || match seen::burst(&cast.client, to, 1, 1, false) {
                Ok(report) if report["by"]["connect:ECONNREFUSED"] == 1 => Ok(()),
                other => Err(format!("{other:?}")),
            })?;
            Ok("reset by the agent, then refused by connect(2)".to_owned())
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn an_agent_for_which_there_is_no_room_says_so_and_pods_stay_refused() {
    const TEST: &str = "an_agent_for_which_there_is_no_room_says_so_and_pods_stay_refused";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let agent = lab.agent("a");
        let mut table = Table::new(TEST);
        table.row(maps::SELF, || {
            let full = Full::fill(lab, "a", maps::SELF, maps::SELF_MAX, 1_u32, |n| FAR + n as u64)?;
            agent.kill();
            let error = agent.start().err().context("it starts")?;
            let said = format!("{error:#}");
            ensure!(said.contains(maps::SELF) && said.contains("no room"), "{said}");
            let report = seen::burst(&cast.client, server(&cast), 1, 1, false)?;
            ensure!(report["by"]["connect:ECONNREFUSED"] == 1, "{report}");
            drop(full);
            agent.restart()?;
            lab.await_captured(&cast.client)?;
            eventually_connects(&cast.client, server(&cast))?;
            let kept: Value = agent.status()?;
            ensure!(kept["world"]["complete"] == true, "{kept}");
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}
