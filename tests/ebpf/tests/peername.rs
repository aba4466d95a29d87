//! `mesh_peername4` and `mesh_peername6`: what applications are told of their peers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ebpf_tests::door::{address, local};
use ebpf_tests::{Captured, Door, Family, stage};
use mesh_common::ListenerKey;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Protocol, Socket, Type};
use std::os::fd::AsFd;

/// Not listening anywhere: the agent's listener answers.
fn elsewhere(family: Family) -> SocketAddr {
    family.either([10, 99, 0, 1].into(), "fd00:99::1".parse().unwrap(), 5432)
}

/// getpeername(2) as it stands, IPv4-mapped as the socket has it.
fn told(socket: &Socket) -> Result<SocketAddr> {
    address(socket.peer_addr())
}

#[test]
fn a_captured_client_is_told_what_it_dialled() {
    stage::run("a_captured_client_is_told_what_it_dialled", |stage, table| {
        let web = stage.captured()?;
        for family in Family::ALL {
            let (name, to) = (family.name(), elsewhere(family));
            table.row(&format!("{name}: after a connect that blocks"), || {
                let socket = web.hand.tcp(family)?;
                web.hand.connect(&socket, to)??;
                expect(told(&socket)?, to)
            });
            table.row(&format!("{name}: after a connect that does not block"), || {
                let socket = web.hand.tcp(family)?;
                socket.set_nonblocking(true)?;
                let begun = web.hand.connect(&socket, to)?;
                ensure!(
                    begun.as_ref().err().is_none_or(|error| error.raw_os_error() == Some(libc::EINPROGRESS)),
                    "{begun:?}"
                );
                poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(2000_u16))?;
                ensure!(socket.take_error()?.is_none(), "it failed");
                expect(told(&socket)?, to)
            });
            table.row(&format!("{name}: getsockname is the pod's own address"), || {
                let socket = web.hand.tcp(family)?;
                web.hand.connect(&socket, to)??;
                let own = address(socket.local_addr())?;
                expect(SocketAddr::new(own.ip(), 0), family.of(&web.pod, 0))
            });
            table.row(&format!("{name}: a connection to the pod itself is told as it is"), || {
                let door = Door::open(&web.hand, family.unspecified(8080))?;
                let socket = web.hand.dial(family.of(&web.pod, 8080))??;
                expect(told(&socket)?, family.of(&web.pod, 8080))?;
                let visitor = door.visitor()?;
                expect(visitor.peer, address(socket.local_addr())?)
            });
        }
        for family in Family::ON_THE_WIRE {
            let row = format!("{}: MPTCP", family.name());
            match web.hand.open(family.domain(), Type::STREAM, Some(Protocol::MPTCP))? {
                Err(error) => table.skip(&row, &format!("no MPTCP in this kernel: {error}")),
                Ok(socket) => table.row(&row, || {
                    web.hand.connect(&socket, elsewhere(family))??;
                    expect(told(&socket)?, elsewhere(family))
                }),
            }
        }
        Ok(())
    });
}

#[test]
fn an_application_is_told_who_dialled() {
    stage::run("an_application_is_told_who_dialled", |stage, table| {
        let web = stage.captured()?;
        let apart = Door::open(&web.hand, Family::V4.unspecified(8080))?;
        let apart6 = {
            let socket = web.hand.tcp(Family::V6)?;
            socket.set_only_v6(true)?;
            Door::listen(socket, Family::V6.unspecified(8080))?
        };
        let dual = Door::dual(&web.hand, 8081)?;
        for (row, door, family, form) in [
            ("IPv4", &apart, Family::V4, Family::V4),
            ("IPv6", &apart6, Family::V6, Family::V6),
            ("a dual-stack listener, IPv4", &dual, Family::V4, Family::Mapped),
            ("a dual-stack listener, IPv6", &dual, Family::V6, Family::V6),
        ] {
            table.row(row, || {
                let port = address(door.socket().local_addr())?.port();
                let client = |family: Family| {
                    family.either([10, 77, 1, 2].into(), "fd00:77::2".parse().unwrap(), 40_000)
                };
                let socket = web.delivery(family.of(&web.pod, port), client(family))?;
                stage.agent.connect(&socket, family.of(&web.pod, port))??;
                let visitor = door.visitor()?;
                ensure!(visitor.peer == client(form), "accept says {}", visitor.peer);
                expect(told(&visitor.socket)?, client(form))?;
                expect(visitor.local, form.of(&web.pod, port))?;
                // The agent's own end is told as it is.
                expect(told(&socket)?, family.of(&web.pod, port))
            });
        }
        steered(&web, stage, table);
        Ok(())
    });
}

/// What was steered to the agent is told as it is: the agent has to know who that is.
fn steered(web: &Captured<'_>, stage: &stage::Stage<'_>, table: &mut lab::row::Table) {
    for family in Family::ON_THE_WIRE {
        table.row(&format!("{}: the agent itself, of a steered connection", family.name()), || {
            let (_, outsider) = stage.outsider()?;
            let client = outsider.dial(family.of(&web.pod, 80))??;
            let visitor = web.door(family, ListenerKey::PLAINTEXT).visitor()?;
            expect(visitor.peer, local(&client)?)?;
            expect(told(&visitor.socket).context("the agent's end")?, local(&client)?)
        });
    }
}

fn expect(found: SocketAddr, expected: SocketAddr) -> Result<String> {
    ensure!(found == expected, "told {found} and not {expected}");
    Ok(String::new())
}
