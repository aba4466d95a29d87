//! `mesh_sk_lookup`: who gets what arrives at a captured pod.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::mem::MaybeUninit;

use anyhow::{Context, Result, ensure};
use ebpf_tests::captured::delivery_source;
use ebpf_tests::door::local;
use ebpf_tests::family::plain;
use ebpf_tests::stage::{self, Stage};
use ebpf_tests::{Captured, Door, Family, Hand};
use lab::row::Table;
use mesh_common::{AddrEntry, CapturePorts, ListenerKey};
use socket2::Socket;

const OUTBOUND: u16 = ListenerKey::OUTBOUND as u16;
const PLAINTEXT: u16 = ListenerKey::PLAINTEXT as u16;
const HBONE: u16 = ListenerKey::HBONE as u16;
const FIRST_CAPTURE: u16 = CapturePorts::FIRST as u16;
const LAST_CAPTURE: u16 = CapturePorts::LAST as u16;
/// The port of the listener, and those at which redirected connects arrive.
const NOTED: [(u16, &str); 3] =
    [(OUTBOUND, "NoOriginalDst"), (FIRST_CAPTURE, "NoOriginalDst"), (LAST_CAPTURE, "NoOriginalDst")];

/// A captured pod with an application, and somebody outside the mesh.
struct Scene<'a> {
    stage: &'a Stage<'a>,
    web: Captured<'a>,
    /// Port 80, both families.
    application: Door,
    outside: Hand,
}

impl<'a> Scene<'a> {
    fn set(stage: &'a Stage<'a>) -> Result<Self> {
        let web = stage.captured()?;
        let application = Door::dual(&web.hand, 80)?;
        let (_, outside) = stage.outsider()?;
        Ok(Self { stage, web, application, outside })
    }

    /// From outside to a port: the agent's listener of this kind has it, with the address that was dialled.
    fn steered(&self, family: Family, port: u16, to: u32, counter: &str) -> Result<String> {
        let dialled = family.of(&self.web.pod, port);
        let (client, visitor) = self.stage.counts(&[(counter, 1)], || {
            let client = self.outside.dial(dialled)?.with_context(|| format!("connect to {dialled}"))?;
            Ok((client, self.web.door(family, to).visitor()?))
        })?;
        ensure!(plain(visitor.local) == plain(dialled), "getsockname says {}", visitor.local);
        ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
        ensure!(self.stage.hooks.note(&visitor.socket)?.is_none(), "it carries a note");
        talk(&client, &visitor.socket)?;
        self.nobody()
    }

    /// From outside to a port: a RST, counted once for this reason.
    fn outside_is_reset(&self, family: Family, port: u16, reason: &str) -> Result<String> {
        self.stage.reset(reason, || self.outside.dial(family.of(&self.web.pod, port)))?;
        self.nobody()
    }

    /// From outside to a port: the application has it, and nothing is counted.
    fn reaches_application(&self, family: Family) -> Result<String> {
        let client = self.stage.counts(&[], || Ok(self.outside.dial(family.of(&self.web.pod, 80))??))?;
        let visitor = self.application.visitor()?;
        ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
        self.web.nobody().map(|()| String::new())
    }

    fn nobody(&self) -> Result<String> {
        self.web.nobody()?;
        self.application.nobody().map(|()| String::new())
    }
}

/// Bytes go both ways.
fn talk(client: &Socket, server: &Socket) -> Result<()> {
    for (mut from, mut to) in [(client, server), (server, client)] {
        from.write_all(b"hello")?;
        let mut bytes = [0; 5];
        to.set_read_timeout(Some(ebpf_tests::hand::CONNECT_TIMEOUT))?;
        to.read_exact(&mut bytes)?;
        ensure!(&bytes == b"hello", "garbled: {bytes:?}");
    }
    Ok(())
}

#[test]
fn what_comes_from_outside_is_the_agents() {
    stage::run("what_comes_from_outside_is_the_agents", |stage, table| {
        let scene = Scene::set(stage)?;
        for family in Family::ALL {
            let name = family.name();
            table.row(&format!("{name}: a port of the application's"), || {
                scene.steered(family, 80, ListenerKey::PLAINTEXT, "SteeredPlaintext")
            });
            table.row(&format!("{name}: a port where nobody listens"), || {
                scene.steered(family, 81, ListenerKey::PLAINTEXT, "SteeredPlaintext")
            });
            table.row(&format!("{name}: the port of HBONE"), || {
                scene.steered(family, HBONE, ListenerKey::HBONE, "SteeredHbone")
            });
            for port in [FIRST_CAPTURE - 1, LAST_CAPTURE + 1] {
                table.row(&format!("{name}: port {port}, beside the capture ports"), || {
                    scene.steered(family, port, ListenerKey::PLAINTEXT, "SteeredPlaintext")
                });
            }
            for (port, reason) in [(PLAINTEXT, "AgentPort")].into_iter().chain(NOTED) {
                table.row(&format!("{name}: port {port} is reset"), || {
                    scene.outside_is_reset(family, port, reason)
                });
            }
        }
        for family in Family::ON_THE_WIRE {
            for port in [80, OUTBOUND, HBONE] {
                table.row(&format!("{}: a datagram to port {port} passes", family.name()), || {
                    datagram(&scene, family, port)
                });
            }
        }
        without_listeners(&scene, table);
        leaving(&scene, table)?;
        Ok(())
    });
}

fn datagram(scene: &Scene<'_>, family: Family, port: u16) -> Result<String> {
    let receiver = scene.web.hand.udp(family)?;
    receiver.bind(&family.unspecified(port).into())?;
    receiver.set_read_timeout(Some(ebpf_tests::hand::CONNECT_TIMEOUT))?;
    let sender = scene.outside.udp(family)?;
    scene.stage.counts(&[], || {
        sender.send_to(b"datagram", &family.of(&scene.web.pod, port).into())?;
        let (length, _) = receiver.recv_from(&mut [MaybeUninit::uninit(); 64])?;
        ensure!(length == 8, "{length} bytes");
        Ok(String::new())
    })
}

fn without_listeners(scene: &Scene<'_>, table: &mut Table) {
    for family in Family::ON_THE_WIRE {
        for (kind, port) in [(ListenerKey::PLAINTEXT, 80), (ListenerKey::HBONE, HBONE)] {
            table.row(
                &format!("{}: port {port} without a listener of the agent's is reset", family.name()),
                || {
                    scene.web.unlist(family, kind)?;
                    let result = scene.outside_is_reset(family, port, "NoListener");
                    scene.web.list(family, kind)?;
                    result
                },
            );
        }
        table.row(&format!("{}: the pod's own connect without a listener is reset", family.name()), || {
            scene.web.unlist(family, ListenerKey::OUTBOUND)?;
            let to = family.either([10, 99, 0, 1].into(), "fd00:99::1".parse()?, 80);
            let result = scene.stage.counts(&[("Redirected", 1), ("NoListener", 1)], || {
                let error = scene.web.hand.dial(to)?.err().context("it connected")?;
                ensure!(error.raw_os_error() == Some(libc::ECONNREFUSED), "connect said {error}");
                scene.nobody()
            });
            scene.web.list(family, ListenerKey::OUTBOUND)?;
            result
        });
    }
}

fn leaving(scene: &Scene<'_>, table: &mut Table) -> Result<()> {
    scene.stage.record_addresses(&scene.web.pod, AddrEntry::LEAVING)?;
    for family in Family::ON_THE_WIRE {
        let name = family.name();
        table.row(&format!("{name}: a leaving pod's application has its port back"), || {
            scene.reaches_application(family)
        });
        table.row(&format!("{name}: a leaving pod's HBONE is still the agent's"), || {
            scene.steered(family, HBONE, ListenerKey::HBONE, "SteeredHbone")
        });
        for (port, reason) in [(PLAINTEXT, "AgentPort")].into_iter().chain(NOTED) {
            table.row(&format!("{name}: a leaving pod's port {port} is reset"), || {
                scene.outside_is_reset(family, port, reason)
            });
        }
    }
    scene.stage.record_addresses(&scene.web.pod, AddrEntry::CAPTURED)
}

#[test]
fn what_comes_from_the_pod_itself_is_judged_by_its_source() {
    stage::run("what_comes_from_the_pod_itself_is_judged_by_its_source", |stage, table| {
        let scene = Scene::set(stage)?;
        let web = &scene.web;
        for family in Family::ALL {
            let name = family.name();
            table.row(&format!("{name}: from its own address to the application"), || {
                let client = stage.counts(&[], || Ok(web.hand.dial(family.of(&web.pod, 80))??))?;
                let visitor = scene.application.visitor()?;
                ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
                scene.nobody()
            });
            for (port, reason) in [(PLAINTEXT, "AgentPort"), (HBONE, "AgentPort")].into_iter().chain(NOTED) {
                table.row(&format!("{name}: from its own address to port {port} is reset"), || {
                    stage.reset(reason, || web.hand.dial(family.of(&web.pod, port)))?;
                    scene.nobody()
                });
            }
            for (port, reason) in [
                (80, "LoopbackSource"),
                (81, "LoopbackSource"),
                (PLAINTEXT, "AgentPort"),
                (HBONE, "AgentPort"),
                (OUTBOUND, "NoOriginalDst"),
                (LAST_CAPTURE, "NoOriginalDst"),
            ] {
                table.row(&format!("{name}: from loopback without a note to port {port} is reset"), || {
                    let socket = web.hand.tcp(family)?;
                    socket.bind(&family.loopback(0).into())?;
                    let to = family.of(&web.pod, port);
                    stage.reset_on_loopback(family, &[(reason, 1)], &socket, |socket| {
                        web.hand.connect(socket, to)
                    })?;
                    scene.nobody()
                });
            }
        }
        delivery_prefix(&scene, table);
        table.row("IPv4: from another loopback address without a note is reset", || {
            let socket = web.hand.tcp(Family::V4)?;
            socket.bind(&std::net::SocketAddr::from(([127, 3, 2, 1], 0)).into())?;
            stage.reset("LoopbackSource", || web.hand.connect(&socket, Family::V4.of(&web.pod, 80)))?;
            scene.nobody()
        });
        Ok(())
    });
}

/// 100::/64 is for the agent's deliveries: nobody else comes from there, and nobody is reached there.
fn delivery_prefix(scene: &Scene<'_>, table: &mut Table) {
    let (stage, web) = (scene.stage, &scene.web);
    let bound = |hand: &Hand, number: u8| -> Result<Socket> {
        let socket = hand.tcp(Family::V6)?;
        socket.set_freebind_v6(true)?;
        socket.bind(&delivery_source(number).into())?;
        Ok(socket)
    };
    for (port, reason) in [(80, "LoopbackSource"), (81, "LoopbackSource"), (HBONE, "AgentPort")] {
        for number in [1, 77] {
            table.row(&format!("IPv6: from 100::{number:x} without a note to port {port} is reset"), || {
                let socket = bound(&web.hand, number)?;
                stage.reset(reason, || web.hand.connect(&socket, Family::V6.of(&web.pod, port)))?;
                scene.nobody()
            });
        }
    }
    table.row("IPv6: from 100::1 on the wire is dropped, and nobody hears of it", || {
        // What another pod sends from there gets no answer: the RST goes to the pod's own loopback, where nobody is reached
        // at that address, which is counted too.
        let socket = bound(&scene.outside, 1)?;
        socket.set_write_timeout(Some(std::time::Duration::from_millis(500)))?;
        let to = Family::V6.of(&web.pod, 80);
        let error = stage.counts(&[("LoopbackSource", 2)], || {
            scene.outside.connect(&socket, to)?.err().context("it connected")
        })?;
        ensure!(error.raw_os_error() == Some(libc::EINPROGRESS), "connect said {error}");
        scene.nobody()
    });
    for port in [80, 81] {
        table.row(&format!("IPv6: to 100::1 port {port} inside the pod is reset"), || {
            // As the agent's own socket, which no connect hook redirects.
            stage.agent.enter(&web.pod.netns_path())?;
            let socket = stage.agent.tcp(Family::V6)?;
            let ip = delivery_source(1).ip();
            let to = std::net::SocketAddr::new(ip, port);
            stage.reset("LoopbackSource", || stage.agent.connect(&socket, to))?;
            scene.nobody()
        });
    }
}

#[test]
fn capture_begins_and_ends_with_new_connections() {
    stage::run("capture_begins_and_ends_with_new_connections", |stage, table| {
        for family in Family::ON_THE_WIRE {
            table.row(
                &format!("{}: established connections go on when a pod is captured", family.name()),
                || {
                    let pod = stage.pod()?;
                    let hand = Hand::in_pod(stage.lab, &pod)?;
                    let application = Door::dual(&hand, 80)?;
                    let (_, outside) = stage.outsider()?;
                    let client = outside.dial(family.of(&pod, 80))??;
                    let server = application.visitor()?.socket;
                    talk(&client, &server)?;
                    let web = Captured::capture_with(stage, pod, hand)?;
                    stage.counts(&[], || talk(&client, &server))?;
                    let scene = Scene { stage, web, application, outside };
                    scene.steered(family, 80, ListenerKey::PLAINTEXT, "SteeredPlaintext")
                },
            );
            table.row(
                &format!("{}: steered connections go on when the agent's listeners close", family.name()),
                || {
                    let mut scene = Scene::set(stage)?;
                    let client = scene.outside.dial(family.of(&scene.web.pod, 80))??;
                    let server = scene.web.door(family, ListenerKey::PLAINTEXT).visitor()?.socket;
                    scene.web.close();
                    stage.counts(&[], || talk(&client, &server))?;
                    // New ones are reset: a closed listener is no way to the application.
                    scene.outside_is_reset(family, 80, "NoListener")?;
                    scene.outside_is_reset(family, HBONE, "NoListener")
                },
            );
            table.row(&format!("{}: a released pod's application has its port back", family.name()), || {
                let mut scene = Scene::set(stage)?;
                scene.steered(family, 80, ListenerKey::PLAINTEXT, "SteeredPlaintext")?;
                drop(scene.web.take_link()?);
                scene.reaches_application(family)
            });
        }
        Ok(())
    });
}
