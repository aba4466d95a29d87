//! `tc`, on the host's side of a pod's device: what comes out of a pod is the pod's.
//!
//! ```text
//! device of a captured pod ─▶ only its own addresses: IPv4 and IPv6 source, ARP sender, neighbour advertisements
//!                          ─▶ no VLAN, no router advertisement, no ethertype that is not one of these
//!                          ─▶ no SYN to the mesh but to 15008, and those of direct connections that stay on the node
//! device of another pod ────▶ no captured pod's address, whatever tag is before it
//! ```
//!
//! `sk_lookup` admits by addresses alone, so an address must be somebody's. And a pod that rewrites its own packets behind the
//! connect hook (iptables, raw sockets) must not reach the mesh in plain text. Own link-local addresses, `::` and 0.0.0.0 pass, for
//! duplicate address detection, multicast listener reports and DHCP. Not here: packets to a pod, and what is not a pod's device.

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::helpers::bpf_fib_lookup;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use mesh_common::{Addr, DirectKey, GuardedDevice, ListenerKey, Refusal, Settings};

use crate::maps::{ADDRS, DESTINATIONS, DEVICES, DIRECT, SETTINGS, refused};
use crate::tables::is_excluded;

/// Goes on to whatever else is attached.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are walked over.
const HEADERS: u32 = 6;

const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

#[classifier]
fn mesh_guard(ctx: TcContext) -> i32 {
    match judge(&ctx) {
        Ok(()) => TC_ACT_UNSPEC,
        Err(refusal) => {
            refused(refusal);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn judge(ctx: &TcContext) -> Result<(), Refusal> {
    // SAFETY: readable fields of the kernel's context.
    let (ifindex, vlan) = unsafe { (read!(ctx.skb.skb, ifindex), read!(ctx.skb.skb, vlan_present)) };
    // SAFETY: the agent replaces values whole.
    let Some(device) = (unsafe { DEVICES.get(ifindex) }) else { return Ok(()) };
    let captured = device.guard != GuardedDevice::OTHERS;
    // The tag is gone from the frame by now. With number 0 it is no VLAN's, and the frame goes on as if there were none.
    if vlan != 0 && captured {
        return Err(Refusal::Spoofed);
    }
    let ethertype = u16::from_be(load::<u16>(ctx, 12)?);
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(ctx, device, captured),
        ETHERTYPE_IPV6 => ipv6(ctx, device, captured),
        ETHERTYPE_ARP => own(device, captured, Addr::v4_word(load(ctx, ETHERNET + 14)?)),
        // One more inside: nobody looks further.
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => Err(Refusal::Spoofed),
        _ if captured => Err(Refusal::Spoofed),
        _ => Ok(()),
    }
}

/// A packet too short to be what it says is nobody's.
#[inline(always)]
fn load<T>(ctx: &TcContext, at: usize) -> Result<T, Refusal> {
    ctx.load(at).map_err(|_too_short| Refusal::Spoofed)
}

/// Whether an address may come from the device.
#[inline(always)]
fn own(device: &GuardedDevice, captured: bool, from: Addr) -> Result<(), Refusal> {
    let is_own = from.words == device.addr4.words || from.words == device.addr6.words;
    if is_own || from.is_unspecified() {
        return Ok(());
    }
    if captured {
        return if !from.is_v4() && from.is_link_local() { Ok(()) } else { Err(Refusal::Spoofed) };
    }
    // SAFETY: the agent replaces values whole.
    match unsafe { ADDRS.get(from) } {
        Some(other) if other.netns_cookie != device.netns_cookie => Err(Refusal::Spoofed),
        _ => Ok(()),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext, device: &GuardedDevice, captured: bool) -> Result<(), Refusal> {
    let from = Addr::v4_word(load(ctx, ETHERNET + 12)?);
    own(device, captured, from)?;
    if !captured || load::<u8>(ctx, ETHERNET + 9)? != TCP {
        return Ok(());
    }
    let offset = u16::from_be(load::<u16>(ctx, ETHERNET + 6)?) & 0x1fff;
    let length = usize::from(load::<u8>(ctx, ETHERNET)? & 0x0f) * 4;
    let to = Addr::v4_word(load(ctx, ETHERNET + 16)?);
    tcp(ctx, device, from, to, offset, ETHERNET + length)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, device: &GuardedDevice, captured: bool) -> Result<(), Refusal> {
    let from = Addr { words: load(ctx, ETHERNET + 8)? };
    own(device, captured, from)?;
    let mut next = load::<u8>(ctx, ETHERNET + 6)?;
    let mut at = ETHERNET + 40;
    let mut offset = 0;
    let mut walked = 0;
    while walked < HEADERS && matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        let header: [u8; 2] = load(ctx, at)?;
        if next == FRAGMENT {
            offset = u16::from_be(load::<u16>(ctx, at + 2)?) >> 3;
            at += 8;
        } else {
            at += (usize::from(header[1]) + 1) * 8;
        }
        next = header[0];
        walked += 1;
    }
    match next {
        ICMPV6 if offset == 0 => neighbour(ctx, device, captured, at),
        TCP if captured => {
            let to = Addr { words: load(ctx, ETHERNET + 24)? };
            tcp(ctx, device, from, to, offset, at)
        }
        // More headers than anybody needs.
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS => Err(Refusal::Spoofed),
        _ => Ok(()),
    }
}

/// A pod says of its own addresses where they are, and nothing of routes.
#[inline(always)]
fn neighbour(ctx: &TcContext, device: &GuardedDevice, captured: bool, at: usize) -> Result<(), Refusal> {
    match load::<u8>(ctx, at)? {
        ROUTER_ADVERTISEMENT | REDIRECT if captured => Err(Refusal::Spoofed),
        NEIGHBOUR_ADVERTISEMENT => own(device, captured, Addr { words: load(ctx, at + 8)? }),
        _ => Ok(()),
    }
}

/// A connection that begins leads into the mesh through a tunnel, or is a direct one that the connect hook noted.
#[inline(always)]
fn tcp(
    ctx: &TcContext,
    device: &GuardedDevice,
    src: Addr,
    dst: Addr,
    offset: u16,
    at: usize,
) -> Result<(), Refusal> {
    const SYN_AND_ACK: u8 = 0x12;
    const SYN: u8 = 0x02;
    if device.guard != GuardedDevice::STRICT {
        return Ok(());
    }
    // A second fragment so early would overwrite the flags of the first (RFC 1858).
    if offset == 1 {
        return Err(Refusal::Bypass);
    }
    if offset != 0 {
        return Ok(());
    }
    if load::<u8>(ctx, at + 13)? & SYN_AND_ACK != SYN {
        return Ok(());
    }
    let (src_port, dst_port) =
        (u32::from(u16::from_be(load(ctx, at)?)), u32::from(u16::from_be(load(ctx, at + 2)?)));
    // SAFETY: the agent replaces values whole.
    if dst_port == ListenerKey::HBONE || unsafe { DESTINATIONS.get(dst) }.is_none() {
        return Ok(());
    }
    // SAFETY: values of this map are replaced whole, but for one word.
    let noted = unsafe { DIRECT.get(DirectKey { src, dst, src_port, dst_port }) };
    let is_own = noted.is_some_and(|entry| entry.netns_cookie == device.netns_cookie);
    if (is_own && stays_here(ctx, src, dst)) || excluded(dst, dst_port) {
        return Ok(());
    }
    Err(Refusal::Bypass)
}

/// Whether the host would lead a packet to a pod's device. The address may be another node's by now, and what was noted as direct
/// would be on the wire in plain text.
#[inline(always)]
fn stays_here(ctx: &TcContext, src: Addr, dst: Addr) -> bool {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    /// linux/bpf.h. Who the neighbour is does not matter (Linux 6.3; without TCX nobody runs this).
    const SKIP_NEIGH: u32 = 1 << 2;
    const SUCCESS: i64 = 0;
    /// Blackhole, unreachable, prohibited, local, and a device from which nothing is forwarded: it does not leave the node.
    const BLACKHOLE: i64 = 1;
    const FWD_DISABLED: i64 = 5;
    // SAFETY: integers and arrays of them.
    let mut asked: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    // SAFETY: a readable field of the kernel's context.
    asked.ifindex = unsafe { read!(ctx.skb.skb, ifindex) };
    asked.l4_protocol = TCP;
    if dst.is_v4() {
        asked.family = AF_INET;
        asked.__bindgen_anon_3.ipv4_src = src.words[3];
        asked.__bindgen_anon_4.ipv4_dst = dst.words[3];
    } else {
        asked.family = AF_INET6;
        asked.__bindgen_anon_3.ipv6_src = src.words;
        asked.__bindgen_anon_4.ipv6_dst = dst.words;
    }
    let size = core::mem::size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the kernel's own context, and a question of the size that is said.
    let answer = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut asked, size, SKIP_NEIGH) };
    match answer {
        // SAFETY: the agent replaces values whole.
        SUCCESS => unsafe { DEVICES.get(asked.ifindex) }.is_some(),
        BLACKHOLE..=FWD_DISABLED => true,
        _ => false,
    }
}

#[inline(always)]
fn excluded(dst: Addr, port: u32) -> bool {
    SETTINGS.get(0).is_some_and(|settings: &Settings| is_excluded(settings, dst, port))
}
