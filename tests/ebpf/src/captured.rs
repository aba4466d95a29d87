//! A pod as the agent would have captured it, with the agent's listeners in the test's hands.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aya::programs::links::FdLink;
use lab::Pod;
use mesh_common::{Addr, AddrEntry, CapturePorts, ListenerKey, NoteKey, Original, PodEntry, SockNote, maps};
use socket2::Socket;

use crate::door::{Door, Visitor, local, peer};
use crate::family::{Family, addr, ip, plain};
use crate::hand::Hand;
use crate::stage::{Stage, cookie};

/// A captured pod.
#[derive(Debug)]
pub struct Captured<'a> {
    stage: &'a Stage<'a>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// A process of the pod's.
    pub hand: Hand,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// The agent's listeners, by "is it IPv6" and port.
    doors: BTreeMap<(bool, u32), Door>,
    /// Of `sk_lookup`.
    link: Option<FdLink>,
}

impl<'a> Captured<'a> {
    /// Captures a pod as the agent does: listeners, then the hooks' maps.
    pub fn capture(stage: &'a Stage<'a>, pod: Arc<Pod>) -> Result<Self> {
        let hand = Hand::in_pod(stage.lab, &pod)?;
        Self::capture_with(stage, pod, hand)
    }

    /// The same with a hand that is in the pod already.
    pub fn capture_with(stage: &'a Stage<'a>, pod: Arc<Pod>, hand: Hand) -> Result<Self> {
        stage.agent.enter(&pod.netns_path())?;
        let prefix = format!("{}/{}", ip(Addr::DELIVERY_PREFIX), Addr::DELIVERY_PREFIX_BITS);
        // A pod that is captured again has it already.
        let route = ["ip", "-6", "route", "replace", "local", &prefix, "dev", "lo"];
        pod.run_in_namespace_only(route)?.run()?.ok()?;
        let mut doors = BTreeMap::new();
        for family in Family::ON_THE_WIRE {
            for port in ListenerKey::ALL {
                let at = family.of(&pod, port as u16);
                let socket = stage.agent.tcp(family)?;
                if family.is_v6() {
                    socket.set_only_v6(true)?;
                }
                let door = Door::listen(socket, at)?;
                stage.hooks.set_listener(ListenerKey { addr: addr(at.ip()), port }, door.socket())?;
                doors.insert((family.is_v6(), port), door);
            }
        }
        let link = Some(stage.hooks.attach_lookup(&pod.netns_path())?);
        let cookie = cookie(&pod)?;
        stage.record_addresses(&pod, AddrEntry::CAPTURED)?;
        stage.record(&pod, PodEntry::STATE_CAPTURED)?;
        Ok(Self { stage, pod, hand, cookie, doors, link })
    }

    /// Takes the link of `sk_lookup` out, for a test that pins it.
    pub fn take_link(&mut self) -> Result<FdLink> {
        self.link.take().context("the link was taken before")
    }

    /// One of the agent's listeners.
    pub fn door(&self, family: Family, port: u32) -> &Door {
        &self.doors[&(family.is_v6(), port)]
    }

    /// Takes one of the agent's listeners out of the hooks' hands; it goes on listening.
    pub fn unlist(&self, family: Family, port: u32) -> Result<()> {
        self.stage.hooks.remove_listener(self.key(family, port))
    }

    /// Puts it back.
    pub fn list(&self, family: Family, port: u32) -> Result<()> {
        self.stage.hooks.set_listener(self.key(family, port), self.door(family, port).socket())
    }

    fn key(&self, family: Family, port: u32) -> ListenerKey {
        ListenerKey { addr: addr(family.of(&self.pod, 0).ip().to_canonical()), port }
    }

    /// Closes all of the agent's listeners, as its death does.
    pub fn close(&mut self) {
        self.doors.clear();
    }

    /// An error if anybody has come to any of the agent's listeners.
    pub fn nobody(&self) -> Result<()> {
        self.doors.values().try_for_each(Door::nobody)
    }

    /// The agent's end of a client that was redirected: it comes from that very client, and both the accepted socket and
    /// the hash say what was dialled.
    pub fn redirected(&self, client: &Socket, dialled: SocketAddr) -> Result<Visitor> {
        let family = if plain(dialled).is_ipv4() { Family::V4 } else { Family::V6 };
        let visitor = self.door(family, ListenerKey::OUTBOUND).visitor()?;
        let from = local(client)?;
        ensure!(plain(visitor.peer) == from, "the agent sees {} and not {from}", visitor.peer);
        let at = plain(visitor.local);
        ensure!(
            at.ip() == family.of(&self.pod, 0).ip() && CapturePorts::holds(at.port().into()),
            "the agent was dialled at {at}"
        );
        self.expect_note(&visitor.socket, SockNote::ORIGINAL, dialled)?;
        let key = NoteKey {
            netns_cookie: self.cookie,
            addr: addr(from.ip()),
            port: from.port().into(),
            capture_port: at.port().into(),
        };
        let original: Option<Original> = self.stage.hooks.read(maps::ORIGINALS, key)?;
        let original = original.context("no note in the hash")?;
        let found = SocketAddr::new(ip(original.addr), original.port as u16);
        ensure!(found == plain(dialled), "the hash says {found} and not {dialled}");
        Ok(visitor)
    }

    /// The note that a socket of the agent's carries.
    pub fn note(&self, socket: &Socket) -> Result<SockNote> {
        self.stage.hooks.note(socket)?.context("the socket carries no note")
    }

    /// A socket carries this note.
    pub fn expect_note(&self, socket: &Socket, kind: u32, what: SocketAddr) -> Result<()> {
        let note = self.stage.hooks.note(socket)?.context("the socket carries no note")?;
        let found = SocketAddr::new(ip(note.addr), note.port as u16);
        ensure!(note.kind == kind, "the note is of kind {} and not {kind}", note.kind);
        ensure!(found == plain(what), "the note says {found} and not {what}");
        Ok(())
    }

    /// Lets the pod's process dial, and finds the connection at the agent's listener with all that belongs to it: the
    /// note, one count, and the client's own view. Returns both ends.
    pub fn dials(&self, to: SocketAddr) -> Result<(Socket, Visitor)> {
        let socket = self.hand.tcp(if to.is_ipv4() { Family::V4 } else { Family::V6 })?;
        self.captures(socket, to, |socket| self.hand.connect(socket, to))
    }

    /// The same for a socket and a connect of the caller's.
    pub fn captures(
        &self,
        socket: Socket,
        to: SocketAddr,
        connect: impl FnOnce(&Socket) -> Result<std::io::Result<()>>,
    ) -> Result<(Socket, Visitor)> {
        let (socket, visitor) = self.redirects(socket, to, connect)?;
        let told = peer(&socket)?;
        ensure!(told == plain(to), "the client is told {told} and dialled {to}");
        Ok((socket, visitor))
    }

    /// The same without a look at what the client is told.
    pub fn redirects(
        &self,
        socket: Socket,
        to: SocketAddr,
        connect: impl FnOnce(&Socket) -> Result<std::io::Result<()>>,
    ) -> Result<(Socket, Visitor)> {
        let visitor = self.stage.counts(&[("Redirected", 1)], || {
            connect(&socket)?.with_context(|| format!("connect to {to}"))?;
            self.redirected(&socket, to)
        })?;
        Ok((socket, visitor))
    }

    /// Opens a socket of the agent's in the pod that delivers on behalf of a client: bound to where the agent delivers from,
    /// the note on it.
    pub fn delivery(&self, to: SocketAddr, client: SocketAddr) -> Result<Socket> {
        let source = if to.is_ipv4() { Family::V4.loopback(0) } else { delivery_source(1) };
        self.delivery_from(source, to, client)
    }

    /// The same from another source.
    pub fn delivery_from(&self, source: SocketAddr, to: SocketAddr, client: SocketAddr) -> Result<Socket> {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        self.stage.agent.enter(&self.pod.netns_path())?;
        let socket = self.stage.agent.tcp(family)?;
        let note = SockNote::of(SockNote::DELIVERS, addr(client.ip()), client.port().into());
        self.stage.hooks.set_note(&socket, note)?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        if source.is_ipv6() {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&source.into())?;
        Ok(socket)
    }
}

/// One of the addresses from which the agent delivers over IPv6.
pub fn delivery_source(number: u8) -> SocketAddr {
    let mut octets = Addr::DELIVERY_PREFIX.octets();
    octets[15] = number;
    SocketAddr::new(std::net::IpAddr::from(octets), 0)
}
