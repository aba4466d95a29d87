//! Kubelet's connections: from its cgroup and the host's namespace they pass to the application; nobody else's do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebpf_tests::door::local;
use ebpf_tests::family::{addr, plain};
use ebpf_tests::stage::{self, NODE, Stage};
use ebpf_tests::{Captured, Door, Family, Hand};
use lab::eventually;
use lab::row::Table;
use mesh_common::{ListenerKey, ProbeKey, maps};
use socket2::Socket;

const PORT: u16 = 80;
/// The source port of whoever pretends to be kubelet.
const SOURCE: u16 = 30_250;

/// A captured pod with an application, kubelet, and others on the node.
struct Scene<'a> {
    stage: &'a Stage<'a>,
    web: Captured<'a>,
    application: Door,
    kubelet: Hand,
    neighbour: Hand,
}

impl<'a> Scene<'a> {
    fn set(stage: &'a Stage<'a>) -> Result<Self> {
        let web = stage.captured()?;
        let application = Door::dual(&web.hand, PORT)?;
        let kubelet = Hand::on_node_in(stage.lab, NODE, "kubelet.service")?;
        let neighbour = Hand::on_node_in(stage.lab, NODE, "neighbour.service")?;
        stage.hooks.put(maps::KUBELET, kubelet.cgroup_id()?, 1_u32)?;
        Ok(Self { stage, web, application, kubelet, neighbour })
    }

    fn at(&self, family: Family) -> SocketAddr {
        family.of(&self.web.pod, PORT)
    }

    /// The application has the connection, as dialled, and the agent has nothing.
    fn reaches_application(&self, family: Family) -> Result<(Socket, Socket)> {
        let client = self.stage.counts(&[("Probed", 1)], || Ok(self.kubelet.dial(self.at(family))??))?;
        let visitor = self.application.visitor()?;
        ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
        self.web.nobody()?;
        Ok((client, visitor.socket))
    }

    /// It is a connection from outside the mesh.
    fn is_steered(&self, family: Family, dial: impl FnOnce() -> Result<Socket>) -> Result<String> {
        let _client = self.stage.counts(&[("SteeredPlaintext", 1)], dial)?;
        let _visitor = self.web.door(family, ListenerKey::PLAINTEXT).visitor()?;
        self.application.nobody().map(|()| String::new())
    }

    fn probes(&self) -> Result<Vec<ProbeKey>> {
        self.stage.hooks.keys::<ProbeKey, u32>(maps::PROBES)
    }

    /// Nothing is noted any more.
    fn forgotten(&self) -> Result<()> {
        eventually(Duration::from_secs(5), || {
            let probes = self.probes().map_err(|error| format!("{error:#}"))?;
            if probes.is_empty() { Ok(()) } else { Err(format!("{probes:?}")) }
        })
    }
}

/// Closes with a RST, so that the port is free at once.
fn reset(socket: Socket) -> Result<()> {
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// A socket with the given source port, which another one may have had before.
fn from_port(hand: &Hand, family: Family, port: u16) -> Result<Socket> {
    let socket = hand.tcp(family)?;
    socket.set_reuse_address(true)?;
    socket.bind(&family.unspecified(port).into())?;
    Ok(socket)
}

fn host_netns(stage: &Stage<'_>) -> PathBuf {
    Path::new("/run/netns").join(stage.lab.node(NODE).netns())
}

#[test]
fn kubelets_connections_pass_to_the_application() {
    stage::run("kubelets_connections_pass_to_the_application", |stage, table| {
        let mut scene = Scene::set(stage)?;
        for family in Family::ALL {
            let name = family.name();
            table.row(
                &format!("{name}: to the application, which sees kubelet; the note goes with the socket"),
                || {
                    let (client, server) = scene.reaches_application(family)?;
                    let noted = scene.probes()?.len();
                    ensure!(noted == 1, "{noted} notes");
                    drop((client, server));
                    scene.forgotten().map(|()| String::new())
                },
            );
            table.row(&format!("{name}: a socket that is connected again after its end"), || {
                let port = SOURCE + 10 + family as u16;
                for _ in 0..3 {
                    let socket = from_port(&scene.kubelet, family, port)?;
                    stage.counts(&[("Probed", 1)], || {
                        Ok(scene.kubelet.connect(&socket, scene.at(family))??)
                    })?;
                    let visitor = scene.application.visitor()?;
                    reset(socket)?;
                    drop(visitor);
                    scene.forgotten()?;
                }
                scene.web.nobody().map(|()| String::new())
            });
            table.row(&format!("{name}: where nobody listens, the pod's own answer"), || {
                let to = family.of(&scene.web.pod, PORT + 1);
                let error = stage
                    .counts(&[("Probed", 1)], || scene.kubelet.dial(to)?.err().context("it connected"))?;
                ensure!(error.raw_os_error() == Some(libc::ECONNREFUSED), "connect said {error}");
                scene.forgotten()?;
                scene.web.nobody().map(|()| String::new())
            });
            table.row(&format!("{name}: to who is not captured nothing is noted"), || {
                let (pod, hand) = stage.outsider()?;
                let door = Door::dual(&hand, PORT)?;
                let _client = stage.counts(&[], || Ok(scene.kubelet.dial(family.of(&pod, PORT))??))?;
                let _visitor = door.visitor()?;
                scene.forgotten().map(|()| String::new())
            });
        }
        scene.web.close();
        for family in Family::ALL {
            table.row(&format!("{}: with no agent that listens", family.name()), || {
                scene.reaches_application(family).map(|_| String::new())
            });
        }
        Ok(())
    });
}

#[test]
fn nobody_else_passes_as_kubelet() {
    stage::run("nobody_else_passes_as_kubelet", |stage, table| {
        let scene = Scene::set(stage)?;
        for family in Family::ALL {
            rows(&scene, family, table)?;
        }
        Ok(())
    });
}

fn rows(scene: &Scene<'_>, family: Family, table: &mut Table) -> Result<()> {
    let (stage, name) = (scene.stage, family.name());
    let to = scene.at(family);
    table.row(&format!("{name}: a process of the host's in another cgroup"), || {
        scene.is_steered(family, || Ok(scene.neighbour.dial(to)??))
    });
    table.row(&format!("{name}: a pod on the host's network"), || {
        let (_, pod) = stage.outsider()?;
        pod.enter(&host_netns(stage))?;
        scene.is_steered(family, || Ok(pod.dial(to)??))
    });
    table.row(&format!("{name}: a process in kubelet's cgroup with a pod's socket"), || {
        let (pod, _) = stage.outsider()?;
        let nested = Hand::on_node_in(stage.lab, NODE, "kubelet.service")?;
        nested.enter(&pod.netns_path())?;
        scene.is_steered(family, || Ok(nested.dial(to)??))
    });
    table.row(&format!("{name}: a pod, from kubelet's port while kubelet's connection is open"), || {
        let socket = from_port(&scene.kubelet, family, SOURCE)?;
        scene.kubelet.connect(&socket, to)??;
        let _visitor = scene.application.visitor()?;
        let (_, outside) = stage.outsider()?;
        let steered = scene.is_steered(family, || {
            let copy = from_port(&outside, family, SOURCE)?;
            outside.connect(&copy, to)??;
            Ok(copy)
        });
        reset(socket)?;
        steered
    });
    table.row(
        &format!("{name}: another cgroup of the host's, from kubelet's port after kubelet's connection"),
        || {
            let socket = from_port(&scene.kubelet, family, SOURCE + 1)?;
            scene.kubelet.connect(&socket, to)??;
            drop(scene.application.visitor()?);
            reset(socket)?;
            scene.forgotten()?;
            scene.is_steered(family, || {
                let copy = from_port(&scene.neighbour, family, SOURCE + 1)?;
                scene.neighbour.connect(&copy, to)??;
                Ok(copy)
            })
        },
    );
    table.row(&format!("{name}: another cgroup of the host's, from a port that has a note still"), || {
        // What is left where sockops was detached when kubelet closed: the source is learned from a first connection.
        let first = scene.neighbour.dial(to)??;
        let source = local(&first)?.ip();
        drop(scene.web.door(family, ListenerKey::PLAINTEXT).visitor()?);
        let key = ProbeKey {
            src: addr(source),
            dst: addr(plain(to).ip()),
            src_port: u32::from(SOURCE) + 2,
            dst_port: u32::from(PORT),
        };
        stage.hooks.put(maps::PROBES, key, 1_u32)?;
        scene.is_steered(family, || {
            let copy = from_port(&scene.neighbour, family, SOURCE + 2)?;
            scene.neighbour.connect(&copy, to)??;
            Ok(copy)
        })
    });
    for port in [ListenerKey::PLAINTEXT, ListenerKey::HBONE] {
        let before = format!("{name}: kubelet itself at port {port} of the agent's");
        table.row(&before, || {
            let dialled = scene.kubelet.dial(family.of(&scene.web.pod, port as u16))?;
            match port {
                ListenerKey::HBONE => {
                    dialled?;
                    scene.web.door(family, port).visitor()?;
                }
                _ => ensure!(dialled.is_err(), "it connected"),
            }
            scene.application.nobody().map(|()| String::new())
        });
    }
    Ok(())
}
