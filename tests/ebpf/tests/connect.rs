//! `mesh_connect4` and `mesh_connect6`: whose connects go to the agent, whose are refused, whose pass.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use ebpf_tests::door::{local, peer};
use ebpf_tests::family::{addr, plain};
use ebpf_tests::stage::{self, NODE, Stage};
use ebpf_tests::{Captured, Door, Family, Hand};
use mesh_common::{PodEntry, ServiceKey16, ServiceState, SockNote, maps};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Where the destination listens.
const PORT: u16 = 80;

/// A destination outside the mesh, and its listener.
struct Server {
    pod: std::sync::Arc<lab::Pod>,
    door: Door,
}

impl Server {
    fn open(stage: &Stage<'_>) -> Result<Self> {
        let (pod, hand) = stage.outsider()?;
        let door = Door::dual(&hand, PORT)?;
        Ok(Self { pod, door })
    }

    fn at(&self, family: Family) -> SocketAddr {
        family.of(&self.pod, PORT)
    }

    /// A connect that goes where it was dialled, with nothing counted and no note left.
    fn passes(&self, stage: &Stage<'_>, family: Family, by: &Hand) -> Result<()> {
        let to = self.at(family);
        let client = stage.counts(&[], || by.dial(to)?.with_context(|| format!("connect to {to}")))?;
        let visitor = self.door.visitor()?;
        ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
        ensure!(stage.hooks.note(&client)?.is_none(), "a note was left");
        Ok(())
    }

    /// A connect that is refused for this reason and leaves nothing.
    fn refuses(&self, stage: &Stage<'_>, family: Family, by: &Hand, reason: &str) -> Result<()> {
        stage.refused(reason, || by.dial(self.at(family)))?;
        self.door.nobody()
    }
}

fn ok(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

#[test]
fn a_captured_pods_connects_go_to_the_agent() {
    stage::run("a_captured_pods_connects_go_to_the_agent", |stage, table| {
        let server = Server::open(stage)?;
        let web = stage.captured()?;
        let elsewhere = |family: Family| server.at(family);
        for family in Family::ALL {
            let name = family.name();
            table.row(&format!("{name}: redirected to the pod's own address, with a note"), || {
                let (client, _) = web.dials(elsewhere(family))?;
                web.expect_note(&client, SockNote::DIALLED, elsewhere(family))?;
                ok(server.door.nobody())
            });
            table.row(&format!("{name}: a socket bound to the pod's interface"), || {
                let socket = web.hand.tcp(family)?;
                socket.bind_device(Some(b"eth0"))?;
                web.captures(socket, elsewhere(family), |socket| {
                    web.hand.connect(socket, elsewhere(family))
                })?;
                ok(server.door.nobody())
            });
            table.row(&format!("{name}: a socket bound to the pod's address and a port"), || {
                let socket = web.hand.tcp(family)?;
                socket.bind(&family.of(&web.pod, 20_000 + family as u16).into())?;
                web.captures(socket, elsewhere(family), |socket| {
                    web.hand.connect(socket, elsewhere(family))
                })?;
                ok(server.door.nobody())
            });
            table.row(&format!("{name}: data sent with the SYN (MSG_FASTOPEN)"), || {
                let socket = web.hand.tcp(family)?;
                let fast = |socket: &Socket| {
                    let to = SockAddr::from(elsewhere(family));
                    Ok(socket.send_to_with_flags(b"early", &to, libc::MSG_FASTOPEN).map(drop))
                };
                web.captures(socket, elsewhere(family), fast)?;
                ok(server.door.nobody())
            });
            table.row(&format!("{name}: a socket connected again after AF_UNSPEC"), || {
                ok(reconnected(stage, &web, &server, family))
            });
            table.row(&format!("{name}: a socket handed to a process outside of every pod"), || {
                let socket = web.hand.tcp(family)?;
                // This very process: of no cgroup of the node's.
                web.captures(socket, elsewhere(family), |socket| {
                    Ok(socket.connect(&elsewhere(family).into()))
                })?;
                ok(server.door.nobody())
            });
        }
        table.row("a socket handed to a process of an excluded pod", || {
            let (_, other) = stage.outsider()?;
            let (socket, to) = (web.hand.tcp(Family::V4)?, elsewhere(Family::V4));
            web.captures(socket, to, |socket| other.connect(socket, to))?;
            ok(server.door.nobody())
        });
        table.row("a process of the node's in the pod's namespace", || {
            let intruder = Hand::in_namespace_only(stage.lab, &web.pod)?;
            let (socket, to) = (intruder.tcp(Family::V4)?, elsewhere(Family::V4));
            web.captures(socket, to, |socket| intruder.connect(socket, to))?;
            ok(server.door.nobody())
        });
        table.row("a process of another captured pod in the pod's namespace", || {
            let other = stage.captured()?;
            other.hand.enter(&web.pod.netns_path())?;
            let (socket, to) = (other.hand.tcp(Family::V4)?, elsewhere(Family::V4));
            web.captures(socket, to, |socket| other.hand.connect(socket, to))?;
            other.nobody()?;
            ok(server.door.nobody())
        });
        for family in Family::ON_THE_WIRE {
            let row = format!("{}: MPTCP", family.name());
            match web.hand.open(family.domain(), Type::STREAM, Some(Protocol::MPTCP))? {
                Err(error) => table.skip(&row, &format!("no MPTCP in this kernel: {error}")),
                Ok(socket) => table.row(&row, || {
                    web.redirects(socket, elsewhere(family), |socket| {
                        web.hand.connect(socket, elsewhere(family))
                    })?;
                    ok(server.door.nobody())
                }),
            }
        }
        table.row("a socket from before the pod was captured", || {
            let pod = stage.pod()?;
            let hand = Hand::in_pod(stage.lab, &pod)?;
            let sockets = Family::ALL.map(|family| hand.tcp(family));
            let late = Captured::capture_with(stage, pod, hand)?;
            for (socket, family) in sockets.into_iter().zip(Family::ALL) {
                late.captures(socket?, elsewhere(family), |socket| {
                    late.hand.connect(socket, elsewhere(family))
                })?;
            }
            ok(server.door.nobody())
        });
        Ok(())
    });
}

/// Connects a socket to the server, undoes that, and connects it elsewhere: every time the last destination counts.
fn reconnected(stage: &Stage<'_>, web: &Captured<'_>, server: &Server, family: Family) -> Result<()> {
    let (first, second) = (server.at(family), family.of(&server.pod, PORT + 1));
    let (socket, _first) = web.dials(first)?;
    disconnect(&socket)?;
    let (socket, _second) = web.captures(socket, second, |socket| web.hand.connect(socket, second))?;
    disconnect(&socket)?;
    // And then one that passes, which must not answer with the old address.
    let own = Door::open(&web.hand, family.unspecified(8080))?;
    let to = family.loopback(8080);
    stage.counts(&[], || Ok(web.hand.connect(&socket, to)??))?;
    let visitor = own.visitor()?;
    ensure!(plain(visitor.peer) == local(&socket)?, "somebody else came: {}", visitor.peer);
    let told = peer(&socket)?;
    ensure!(told == plain(to), "the client is told {told}");
    web.nobody()?;
    server.door.nobody()
}

/// connect(2) with AF_UNSPEC.
fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: a live address of the length that is given.
    let result = unsafe {
        libc::connect(socket.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn what_a_captured_pod_dials_may_pass_or_be_refused() {
    stage::run("what_a_captured_pod_dials_may_pass_or_be_refused", |stage, table| {
        let server = Server::open(stage)?;
        let web = stage.captured()?;
        for family in Family::ALL {
            let name = family.name();
            let inside = Door::open(&web.hand, family.unspecified(8080))?;
            let stays = |what: &str, to: SocketAddr| -> Result<String> {
                let client = stage.counts(&[], || Ok(web.hand.dial(to)??))?;
                let visitor = inside.visitor().context(what.to_owned())?;
                ensure!(plain(visitor.peer) == local(&client)?, "somebody else came: {}", visitor.peer);
                ensure!(stage.hooks.note(&client)?.is_none(), "a note was left");
                web.nobody().map(|()| String::new())
            };
            table.row(&format!("{name}: the pod's own address passes"), || {
                stays("own address", family.of(&web.pod, 8080))
            });
            table.row(&format!("{name}: loopback passes"), || stays("loopback", family.loopback(8080)));
            table.row(&format!("{name}: the unspecified address passes"), || {
                stays("unspecified", family.unspecified(8080))
            });
            table
                .row(&format!("{name}: UDP is not touched"), || ok(udp_passes(stage, &web, &server, family)));
        }
        link_local(stage, &web, table)?;
        services(stage, &web, &server, table);
        for family in Family::ALL {
            table.row(
                &format!("{}: a pod without an address of the family is refused", family.name()),
                || {
                    let entry = PodEntry {
                        state: PodEntry::STATE_CAPTURED,
                        addr4: if family.is_v6() {
                            addr(web.pod.v4().into())
                        } else {
                            addr(Ipv6Addr::UNSPECIFIED.into())
                        },
                        addr6: if family.is_v6() {
                            addr(Ipv6Addr::UNSPECIFIED.into())
                        } else {
                            addr(web.pod.v6().into())
                        },
                        reserved: 0,
                    };
                    stage.hooks.put(maps::PODS, web.cookie, entry)?;
                    let result = server.refuses(stage, family, &web.hand, "NoFamily");
                    stage.record(&web.pod, PodEntry::STATE_CAPTURED)?;
                    result?;
                    ok(web.nobody())
                },
            );
        }
        Ok(())
    });
}

fn udp_passes(stage: &Stage<'_>, web: &Captured<'_>, server: &Server, family: Family) -> Result<()> {
    let receiver = Hand::in_pod(stage.lab, &server.pod)?.udp(family)?;
    receiver.bind(&family.unspecified(PORT).into())?;
    receiver.set_read_timeout(Some(ebpf_tests::hand::CONNECT_TIMEOUT))?;
    let sender = web.hand.udp(family)?;
    stage.counts(&[], || Ok(web.hand.connect(&sender, server.at(family))??))?;
    ensure!(peer(&sender)? == plain(server.at(family)), "connected to {}", peer(&sender)?);
    stage.counts(&[], || {
        sender.send(b"datagram")?;
        let (_, from) = receiver.recv_from(&mut [std::mem::MaybeUninit::uninit(); 64])?;
        let from = plain(from.as_socket().context("no internet address")?);
        ensure!(from == local(&sender)?, "the datagram is from {from}");
        Ok(())
    })
}

/// Addresses of the link itself, which the node answers at.
fn link_local(stage: &Stage<'_>, web: &Captured<'_>, table: &mut lab::row::Table) -> Result<()> {
    let node = stage.lab.node(NODE);
    node.command(["ip", "address", "add", "169.254.7.7/32", "dev", "lo"])?.run()?.ok()?;
    let bridge = node.netns_thread(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))??;
    let bridge = bridge.lines().find(|line| line.starts_with("fe80") && line.ends_with("cni0"));
    let bridge =
        u128::from_str_radix(bridge.and_then(|line| line.get(..32)).context("cni0 has no fe80::")?, 16)?;
    // 2 is the number of eth0 in every pod.
    let v6 = SocketAddr::V6(std::net::SocketAddrV6::new(Ipv6Addr::from_bits(bridge), 8081, 0, 2));
    let v4 = SocketAddr::from((Ipv4Addr::new(169, 254, 7, 7), 8081));
    let mapped = SocketAddr::from((Ipv4Addr::new(169, 254, 7, 7).to_ipv6_mapped(), 8081));
    let door = Door::dual(&Hand::on_node(stage.lab, NODE)?, 8081)?;
    for (name, to) in [("IPv4", v4), ("IPv6", v6), ("IPv4-mapped", mapped)] {
        table.row(&format!("{name}: a link-local address passes"), || {
            let client = stage.counts(&[], || Ok(web.hand.dial(to)??))?;
            let visitor = door.visitor()?;
            ensure!(visitor.peer.port() == local(&client)?.port(), "somebody else came: {}", visitor.peer);
            ok(web.nobody())
        });
    }
    Ok(())
}

fn services(stage: &Stage<'_>, web: &Captured<'_>, server: &Server, table: &mut lab::row::Table) {
    let v4 = Ipv4Addr::new(10, 96, 0, 50);
    let v6 = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x50);
    // Port 0 stands for the address itself.
    for (port, no_endpoint) in [(0, 0), (80, 0), (81, ServiceState::NONE), (83, ServiceState::NONE_HERE)] {
        for address in [addr(v4.into()), addr(v6.into())] {
            let key = ServiceKey16 { addr: address, port };
            stage.hooks.put(maps::SERVICES, key, ServiceState::refusing(no_endpoint)).unwrap();
        }
    }
    for family in Family::ALL {
        let name = family.name();
        table.row(&format!("{name}: a service with an endpoint is captured"), || {
            web.dials(family.either(v4, v6, 80)).map(|_| String::new())
        });
        for (row, port, reason) in [
            ("a service's port without an endpoint", 81, "NoEndpoint"),
            ("a port that the service does not have", 82, "NoServicePort"),
            ("a service's port without an endpoint on the node", 83, "NoLocalEndpoint"),
        ] {
            table.row(&format!("{name}: {row} is refused"), || {
                stage.refused(reason, || web.hand.dial(family.either(v4, v6, port)))?;
                web.nobody()?;
                ok(server.door.nobody())
            });
        }
        table.row(&format!("{name}: a refused socket may go on to dial elsewhere"), || {
            let socket = web.hand.tcp(family)?;
            stage.refused("NoEndpoint", || web.hand.connect(&socket, family.either(v4, v6, 81)))?;
            web.captures(socket, server.at(family), |socket| web.hand.connect(socket, server.at(family)))?;
            ok(server.door.nobody())
        });
    }
}

#[test]
fn who_is_not_captured_passes_or_is_refused() {
    stage::run("who_is_not_captured_passes_or_is_refused", |stage, table| {
        let server = Server::open(stage)?;
        let fresh = || -> Result<_> {
            let pod = stage.pod()?;
            let hand = Hand::in_pod(stage.lab, &pod)?;
            Ok((pod, hand))
        };
        for family in Family::ALL {
            let name = family.name();
            table.row(&format!("{name}: an excluded pod passes"), || {
                let (_, hand) = stage.outsider()?;
                ok(server.passes(stage, family, &hand))
            });
            table.row(&format!("{name}: a pending pod is refused"), || {
                let (pod, hand) = fresh()?;
                stage.record(&pod, PodEntry::STATE_PENDING)?;
                ok(server.refuses(stage, family, &hand, "NotReady"))
            });
            table.row(&format!("{name}: an unknown pod is refused"), || {
                let (_, hand) = fresh()?;
                ok(server.refuses(stage, family, &hand, "UnknownPod"))
            });
            table.row(&format!("{name}: an unknown pod passes where that is allowed"), || {
                let (_, hand) = fresh()?;
                stage.world(true, true)?;
                let result = server.passes(stage, family, &hand);
                stage.world(true, false)?;
                ok(result)
            });
            table.row(&format!("{name}: an unknown pod reaches itself"), || {
                let (_, hand) = fresh()?;
                let inside = Door::open(&hand, family.unspecified(8080))?;
                stage.counts(&[], || Ok(hand.dial(family.loopback(8080))??))?;
                inside.visitor().map(|_| String::new())
            });
            table.row(&format!("{name}: the agent passes in a captured pod's namespace"), || {
                let web = stage.captured()?;
                stage.agent.enter(&web.pod.netns_path())?;
                server.passes(stage, family, &stage.agent)?;
                ok(web.nobody())
            });
            table.row(&format!("{name}: a captured pod is refused while the world is not complete"), || {
                let web = stage.captured()?;
                stage.world(false, true)?;
                let result = server.refuses(stage, family, &web.hand, "NoWorld");
                stage.world(true, false)?;
                result?;
                ok(web.nobody())
            });
        }
        table.row("a pod excluded by its cgroup alone passes", || {
            let (pod, hand) = fresh()?;
            stage.record_cgroup(&pod, PodEntry::STATE_EXCLUDED, 0)?;
            ok(server.passes(stage, Family::V4, &hand))
        });
        table.row("a pod pending by its cgroup alone is refused", || {
            let (pod, hand) = fresh()?;
            stage.record_cgroup(&pod, PodEntry::STATE_PENDING, 0)?;
            ok(server.refuses(stage, Family::V4, &hand, "NotReady"))
        });
        table.row("a pod captured by its cgroup alone is refused", || {
            let (pod, hand) = fresh()?;
            stage.record_cgroup(&pod, PodEntry::STATE_CAPTURED, stage::cookie(&pod)?)?;
            ok(server.refuses(stage, Family::V4, &hand, "ForeignNetns"))
        });
        table.row("a state that the hooks do not know is refused", || {
            let (pod, hand) = fresh()?;
            stage.record(&pod, 77)?;
            ok(server.refuses(stage, Family::V4, &hand, "NotReady"))
        });
        table.row("what the namespace is recorded as wins over the cgroup", || {
            let (pod, hand) = fresh()?;
            stage.record_cgroup(&pod, PodEntry::STATE_PENDING, 0)?;
            stage.record_namespace(&pod, PodEntry::STATE_EXCLUDED)?;
            ok(server.passes(stage, Family::V4, &hand))
        });
        table.row("an unrecorded pod on the host's network passes", || {
            let (_, hand) = fresh()?;
            hand.enter(&netns_of_node(stage))?;
            ok(server.passes(stage, Family::V4, &hand))
        });
        for (row, to_the_host) in [("an unknown", false), ("the host's", true)] {
            table.row(&format!("a captured pod's process in {row} namespace is refused"), || {
                let web = stage.captured()?;
                let foreign = if to_the_host { netns_of_node(stage) } else { stage.pod()?.netns_path() };
                web.hand.enter(&foreign)?;
                ok(server.refuses(stage, Family::V4, &web.hand, "ForeignNetns"))
            });
        }
        table.row("a process of the node's passes", || {
            let node = Hand::on_node(stage.lab, NODE)?;
            ok(server.passes(stage, Family::V4, &node))
        });
        table.row("an excluded pod passes while the world is not complete", || {
            let (_, hand) = stage.outsider()?;
            stage.world(false, false)?;
            let result = server.passes(stage, Family::V4, &hand);
            stage.world(true, false)?;
            ok(result)
        });
        table.row("a released pod passes from its next connect on", || {
            let web = stage.captured()?;
            web.dials(server.at(Family::V4))?;
            stage.record(&web.pod, PodEntry::STATE_EXCLUDED)?;
            ok(server.passes(stage, Family::V4, &web.hand))
        });
        table.row("an unknown pod's UDP is not touched", || {
            let (_, hand) = fresh()?;
            let socket = hand.open(Domain::IPV4, Type::DGRAM, None)??;
            stage.counts(&[], || Ok(hand.connect(&socket, server.at(Family::V4))??))?;
            Ok(String::new())
        });
        Ok(())
    });
}

fn netns_of_node(stage: &Stage<'_>) -> std::path::PathBuf {
    std::path::Path::new("/run/netns").join(stage.lab.node(NODE).netns())
}
