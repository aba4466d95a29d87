//! Destinations that the operator took out of the mesh: captured pods dial them as if there were none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use ebpf_tests::door::local;
use ebpf_tests::family::{addr, plain};
use ebpf_tests::stage::{self, Stage};
use ebpf_tests::{Captured, Door, Family, Hand};
use lab::Pod;
use mesh_common::{Addr, ListenerKey, PodEntry, Settings, maps, programs};

const PORT: u16 = 80;
const NETS: u32 = Settings::EXCLUDED_NETS;
const PORTS: u32 = Settings::EXCLUDED_PORTS;

/// Passes as dialled: nothing is counted, and no note is left.
fn passes(stage: &Stage<'_>, by: &Hand, to: SocketAddr, door: &Door) -> Result<String> {
    let client = stage.counts(&[], || Ok(by.dial(to)??))?;
    let visitor = door.visitor()?;
    ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
    ensure!(stage.hooks.note(&client)?.is_none(), "a note was left");
    Ok(String::new())
}

fn captured(web: &Captured<'_>, to: SocketAddr, door: &Door) -> Result<String> {
    web.dials(to)?;
    door.nobody().map(|()| String::new())
}

/// A pod's own address, and how long a prefix of its family is when it is whole.
fn whole(pod: &Pod, family: Family) -> (u32, Addr) {
    (128, addr(family.of(pod, 0).ip().to_canonical()))
}

#[test]
fn what_is_excluded_passes_as_dialled() {
    stage::run("what_is_excluded_passes_as_dialled", |stage, table| {
        let (server, hand) = stage.outsider()?;
        let door = Door::dual(&hand, PORT)?;
        let web = stage.captured()?;
        for family in Family::ALL {
            let (name, to) = (family.name(), family.of(&server, PORT));
            let (bits, net) = whole(&server, family);
            table.row(&format!("{name}: nothing is excluded"), || captured(&web, to, &door));
            stage.hooks.exclude(bits, net, true)?;
            table.row(&format!("{name}: an entry that the settings do not name is not looked at"), || {
                captured(&web, to, &door)
            });
            stage.settings(true, false, NETS)?;
            table.row(&format!("{name}: an excluded address"), || passes(stage, &web.hand, to, &door));
            table.row(&format!("{name}: beside it"), || {
                captured(&web, family.either(Ipv4Addr::new(10, 99, 0, 1), "fd00:99::1".parse()?, PORT), &door)
            });
            table.row(&format!("{name}: a socket that was redirected before"), || {
                let other = family.either(Ipv4Addr::new(10, 99, 0, 1), "fd00:99::1".parse()?, PORT);
                let (socket, _agents) = web.dials(other)?;
                disconnect(&socket)?;
                stage.counts(&[], || Ok(web.hand.connect(&socket, to)??))?;
                drop(door.visitor()?);
                ensure!(stage.hooks.note(&socket)?.is_none(), "the old note was left");
                Ok(String::new())
            });
            table.row(&format!("{name}: without a world"), || {
                stage.settings(false, false, NETS)?;
                let passed = passes(stage, &web.hand, to, &door);
                stage.settings(true, false, NETS)?;
                passed
            });
            table.row(&format!("{name}: a pod that is pending"), || {
                let pod = stage.pod()?;
                let waits = Hand::in_pod(stage.lab, &pod)?;
                stage.record(&pod, PodEntry::STATE_PENDING)?;
                passes(stage, &waits, to, &door)
            });
            table.row(&format!("{name}: a pod that nobody has classified is refused all the same"), || {
                let unknown = Hand::in_pod(stage.lab, &*stage.pod()?)?;
                stage.refused("UnknownPod", || unknown.dial(to))?;
                door.nobody().map(|()| String::new())
            });
            stage.hooks.include(bits, net)?;
            table.row(&format!("{name}: no longer excluded"), || captured(&web, to, &door));
            stage.settings(true, false, 0)?;
        }
        Ok(())
    });
}

#[test]
fn prefixes_and_ports_are_of_one_family_or_of_both() {
    stage::run("prefixes_and_ports_are_of_one_family_or_of_both", |stage, table| {
        let (server, hand) = stage.outsider()?;
        let door = Door::dual(&hand, PORT)?;
        let web = stage.captured()?;
        let [v4, v6, mapped] = Family::ALL.map(|family| family.of(&server, PORT));
        let every_v4 = addr(Ipv4Addr::UNSPECIFIED.into());
        let every_v6 = addr(Ipv6Addr::UNSPECIFIED.into());
        stage.settings(true, false, NETS)?;
        stage.hooks.exclude(96, every_v4, true)?;
        table.row("0.0.0.0/0: IPv4", || passes(stage, &web.hand, v4, &door));
        table.row("0.0.0.0/0: IPv4-mapped", || passes(stage, &web.hand, mapped, &door));
        table.row("0.0.0.0/0: not IPv6", || captured(&web, v6, &door));
        stage.hooks.exclude(96, every_v4, false)?;
        stage.hooks.exclude(0, every_v6, true)?;
        table.row("::/0 with IPv4 marked out: IPv6", || passes(stage, &web.hand, v6, &door));
        table.row("::/0 with IPv4 marked out: not IPv4", || captured(&web, v4, &door));
        table.row("::/0 with IPv4 marked out: not IPv4-mapped", || captured(&web, mapped, &door));
        stage.settings(true, false, PORTS)?;
        stage.hooks.put(maps::EXCLUDED_PORTS, u32::from(PORT), 1_u32)?;
        for (family, to) in Family::ALL.into_iter().zip([v4, v6, mapped]) {
            table
                .row(&format!("{}: an excluded port", family.name()), || passes(stage, &web.hand, to, &door));
            table.row(&format!("{}: the port beside it", family.name()), || {
                captured(&web, SocketAddr::new(to.ip(), PORT + 1), &door)
            });
        }
        stage.settings(true, false, 0)?;
        table.row("excluded addresses and ports that the settings do not name", || {
            captured(&web, v4, &door)?;
            captured(&web, v6, &door)
        });
        Ok(())
    });
}

/// Prints what a run of the hook takes, as the kernel measures it. Not a promise: a figure to look at.
#[test]
#[ignore = "long: measures"]
fn what_the_connect_hook_costs() {
    const DIALS: u32 = 5000;
    stage::run("what_the_connect_hook_costs", |stage, table| {
        let web = stage.captured()?;
        let _measured = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
        let to = SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), PORT));
        let filler = |number: u32| addr(Ipv4Addr::from(0x0b00_0000 | number << 8).into());
        let measure = |exclusions: u32| -> Result<String> {
            stage.settings(true, false, exclusions)?;
            let (before, runs) = stage.hooks.run_time(programs::CONNECT4)?;
            for _ in 0..DIALS {
                let client = web.hand.dial(to)??;
                client.set_linger(Some(std::time::Duration::ZERO))?;
                drop((client, web.door(Family::V4, ListenerKey::OUTBOUND).visitor()?));
            }
            let (after, ran) = stage.hooks.run_time(programs::CONNECT4)?;
            Ok(format!("{:.0} ns a run", (after - before).as_nanos() as f64 / (ran - runs) as f64))
        };
        for number in 0..1024 {
            stage.hooks.exclude(120, filler(number), true)?;
        }
        for number in 0..1024 {
            stage.hooks.put(maps::EXCLUDED_PORTS, 20_000 + number, 1_u32)?;
        }
        for round in 1..=3 {
            for (name, exclusions) in
                [("nothing", 0), ("1,024 ports", PORTS), ("1,024 networks", NETS), ("both", NETS | PORTS)]
            {
                table.row(&format!("round {round}, {name} excluded"), || measure(exclusions));
            }
        }
        stage.settings(true, false, 0)
    });
}

/// connect(2) with AF_UNSPEC.
fn disconnect(socket: &socket2::Socket) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: a live address of the length that is given.
    let result = unsafe {
        libc::connect(socket.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
