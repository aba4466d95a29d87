//! A full map is a refused connection and a counter, never a bypass; for who writes it from user space it is an error.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use aya::maps::MapError;
use ebpf_tests::stage;
use ebpf_tests::{Captured, Door, Family, Hand, Hooks};
use lab::row::Table;
use mesh_common::{
    Addr, AddrEntry, CgroupEntry, DeliveryKey, Endpoint16, ListenerKey, NoteKey, Original, PodEntry,
    ServiceKey16, ServiceState, maps,
};

/// An address that no pod of the lab has.
fn filler(number: usize) -> Addr {
    let [_, b, c, d] = (number as u32).to_be_bytes();
    Addr::v4([11, b, c, d])
}

fn filler_delivery(number: usize) -> DeliveryKey {
    DeliveryKey { src: filler(number), dst: filler(number), src_port: 1, dst_port: 1 }
}

fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<MapError>() {
        // A trie says ENOSPC.
        Some(MapError::SyscallError(error)) => {
            matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
        }
        _ => false,
    })
}

/// Writes entries until the map takes no more; how many it took, counting from `first`.
fn fill(first: usize, most: usize, mut put: impl FnMut(usize) -> Result<()>) -> Result<usize> {
    for number in first..=most {
        match put(number) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Ok(number),
            Err(error) => return Err(error),
        }
    }
    anyhow::bail!("it took {most} and more")
}

fn elsewhere(family: Family) -> SocketAddr {
    family.either([10, 99, 0, 1].into(), "fd00:99::1".parse().unwrap(), 5432)
}

#[test]
fn a_full_map_refuses_the_delivery_and_disturbs_nothing_else() {
    stage::run("a_full_map_refuses_the_delivery_and_disturbs_nothing_else", |stage, table| {
        let web = stage.captured()?;
        let application = Door::dual(&web.hand, 8080)?;
        fill(0, maps::DELIVERY_MAX, |number| {
            stage.hooks.put(maps::DELIVERY, filler_delivery(number), Endpoint16::default())
        })?;
        for family in Family::ON_THE_WIRE {
            let name = family.name();
            let (to, client) = (
                family.of(&web.pod, 8080),
                family.either([10, 77, 1, 2].into(), "fd00:77::2".parse()?, 4000),
            );
            table.row(&format!("{name}: a delivery is refused and counted"), || {
                let socket = web.delivery(to, client)?;
                let counted = [("MapFull", 1), ("LoopbackSource", 1)];
                stage
                    .reset_on_loopback(family, &counted, &socket, |socket| stage.agent.connect(socket, to))?;
                application.nobody().map(|()| String::new())
            });
            table.row(&format!("{name}: captured connects and steering go on"), || {
                web.dials(elsewhere(family))?;
                let (_, outside) = stage.outsider()?;
                let _client = outside.dial(family.of(&web.pod, 80))??;
                web.door(family, ListenerKey::PLAINTEXT).visitor().map(|_| String::new())
            });
            table.row(&format!("{name}: with room for one more it is delivered"), || {
                stage.hooks.remove::<_, Endpoint16>(maps::DELIVERY, filler_delivery(7))?;
                let socket = web.delivery(to, client)?;
                stage.counts(&[("Delivered", 1)], || Ok(stage.agent.connect(&socket, to)??))?;
                let visitor = application.visitor()?;
                ensure!(ebpf_tests::family::plain(visitor.peer) == client, "accept says {}", visitor.peer);
                // Its own note is gone again, so there is room.
                stage.hooks.put(maps::DELIVERY, filler_delivery(7), Endpoint16::default())?;
                Ok(String::new())
            });
        }
        Ok(())
    });
}

#[test]
fn more_clients_than_notes_lose_the_oldest_note() {
    stage::run("more_clients_than_notes_lose_the_oldest_note", |stage, table| {
        let web = stage.captured()?;
        for number in 0..maps::ORIGINALS_MAX + maps::ORIGINALS_MAX / 8 {
            let key = NoteKey { netns_cookie: 1, addr: filler(number), port: 1, capture_port: 1 };
            stage.hooks.put(maps::ORIGINALS, key, Original::default())?;
        }
        for family in Family::ALL {
            table.row(&format!("{}: a connect finds room, and its note is found", family.name()), || {
                for _ in 0..20 {
                    web.dials(elsewhere(family))?;
                }
                Ok(String::new())
            });
        }
        Ok(())
    });
}

#[test]
fn a_pod_for_which_there_is_no_room_stays_refused() {
    stage::run("a_pod_for_which_there_is_no_room_stays_refused", |stage, table| {
        let web = stage.captured()?;
        let server = stage.outsider()?;
        let door = Door::dual(&server.1, 80)?;
        let to = Family::V4.of(&server.0, 80);
        let late = stage.pod()?;
        let hand = Hand::in_pod(stage.lab, &late)?;
        let held = stage.hooks.keys::<u64, PodEntry>(maps::PODS)?.len();
        // Cookies count up from 1; these are out of their reach.
        let far = 1_u64 << 60;
        let taken = fill(held, maps::PODS_MAX, |number| {
            stage.hooks.put(maps::PODS, far + number as u64, PodEntry::default())
        })?;
        table.row("its entry is an error for who writes it", || {
            ensure!(taken == maps::PODS_MAX, "the map took {taken}");
            let error =
                stage.record_namespace(&late, PodEntry::STATE_CAPTURED).err().context("it took one more")?;
            ensure!(is_full(&error), "{error:#}");
            Ok(String::new())
        });
        table.row("its connects are refused as an unknown pod's", || {
            stage.refused("UnknownPod", || hand.dial(to))?;
            door.nobody().map(|()| String::new())
        });
        table.row("its connects are refused also where its cgroup is known to be captured", || {
            stage.record_cgroup(&late, PodEntry::STATE_CAPTURED, stage::cookie(&late)?)?;
            stage.refused("ForeignNetns", || hand.dial(to))?;
            door.nobody().map(|()| String::new())
        });
        table.row("other pods go on", || web.dials(to).map(|_| String::new()));
        table.row("with room again it is captured", || {
            stage.hooks.remove::<_, PodEntry>(maps::PODS, far + held as u64)?;
            let late = Captured::capture_with(stage, late.clone(), hand)?;
            late.dials(to)?;
            door.nobody().map(|()| String::new())
        });
        Ok(())
    });
}

#[test]
fn every_map_that_is_written_from_outside_says_when_it_is_full() {
    const TEST: &str = "every_map_that_is_written_from_outside_says_when_it_is_full";
    if !lab::ready(TEST) {
        return;
    }
    let hooks = Hooks::load(None).unwrap();
    let mut table = Table::new(TEST);
    let mut row = |name: &str, most: usize, put: &dyn Fn(usize) -> Result<()>| {
        table.row(name, || {
            let took = fill(0, most, put)?;
            ensure!(took == most, "it took {took} and not {most}");
            Ok(format!("{most} entries"))
        });
    };
    row(maps::SELF, maps::SELF_MAX, &|number| hooks.put(maps::SELF, number as u64, 1_u32));
    row(maps::CGROUPS, maps::CGROUPS_MAX, &|number| {
        hooks.put(maps::CGROUPS, number as u64, CgroupEntry::default())
    });
    row(maps::ADDRS, maps::ADDRS_MAX, &|number| hooks.put(maps::ADDRS, filler(number), AddrEntry::default()));
    row(maps::SERVICES, maps::SERVICES_MAX, &|number| {
        hooks.put(maps::SERVICES, ServiceKey16 { addr: filler(number), port: 0 }, ServiceState::default())
    });
    row(maps::KUBELET, maps::KUBELET_MAX, &|number| hooks.put(maps::KUBELET, number as u64, 1_u32));
    row(maps::EXCLUDED_NETS, maps::EXCLUDED_NETS_MAX, &|number| hooks.exclude(128, filler(number), true));
    row(maps::EXCLUDED_PORTS, maps::EXCLUDED_PORTS_MAX, &|number| {
        hooks.put(maps::EXCLUDED_PORTS, number as u32, 1_u32)
    });
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.listen(1).unwrap();
    row(maps::LISTENERS, maps::LISTENERS_MAX, &|number| {
        hooks.set_listener(ListenerKey { addr: filler(number), port: 1 }, &listener)
    });
    table.finish();
}
