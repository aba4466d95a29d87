//! `cgroup/getpeername4` and `getpeername6`: the address that an application is told, also by `accept(2)`.
//!
//! A captured client is told what it dialled, not the agent's listener; a server that the agent delivered to is told who
//! dialled, not loopback. Everybody else's answer stays as it is.

use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::{Addr, NoteKey, SockNote};

use crate::maps::{NOTES, ORIGINALS};

const ALLOW: i32 = 1;
const IPPROTO_MPTCP: u32 = 262;
const AF_INET: u32 = 2;

#[cgroup_sock_addr(getpeername4)]
fn mesh_peername4(ctx: SockAddrContext) -> i32 {
    if let Some(note) = note(&ctx)
        && note.addr.is_v4()
    {
        let [_, _, _, v4] = note.addr.words;
        // SAFETY: fields of the kernel's context that this program type may write.
        unsafe {
            (*ctx.sock_addr).user_ip4 = v4;
            (*ctx.sock_addr).user_port = u32::from((note.port as u16).to_be());
        }
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
fn mesh_peername6(ctx: SockAddrContext) -> i32 {
    if let Some(note) = note(&ctx) {
        let [a, b, c, d] = note.addr.words;
        // SAFETY: fields of the kernel's context that this program type may write.
        unsafe {
            (*ctx.sock_addr).user_ip6[0] = a;
            (*ctx.sock_addr).user_ip6[1] = b;
            (*ctx.sock_addr).user_ip6[2] = c;
            (*ctx.sock_addr).user_ip6[3] = d;
            (*ctx.sock_addr).user_port = u32::from((note.port as u16).to_be());
        }
    }
    ALLOW
}

#[inline(always)]
fn note(ctx: &SockAddrContext) -> Option<SockNote> {
    // SAFETY: the storage of the socket that the call is about; a null pointer means none.
    match unsafe { NOTES.get_ptr_mut(ctx).as_ref() } {
        Some(note) => {
            matches!(note.kind, SockNote::DIALLED | SockNote::CLIENT | SockNote::DIRECT | SockNote::LEFT)
                .then_some(*note)
        }
        None => dialled_by_mptcp(ctx),
    }
}

/// An MPTCP socket connects through a subflow of its own, which carries the note; the two share the addresses and
/// ports, by which the note was filed. Only for MPTCP: an old note of a port must not answer for another connection.
#[inline(always)]
fn dialled_by_mptcp(ctx: &SockAddrContext) -> Option<SockNote> {
    // SAFETY: readable fields of the kernel's context, whose socket is not null (the verifier knows).
    let (protocol, sk) = unsafe { (read!(ctx.sock_addr, protocol), (*ctx.sock_addr).__bindgen_anon_1.sk) };
    if protocol != IPPROTO_MPTCP || sk.is_null() {
        return None;
    }
    // SAFETY: as above; every field is read, whatever the family, and chosen from afterwards (see `sk_lookup`).
    let (family, v4, v6, port, redirected, netns_cookie) = unsafe {
        (
            read!(sk, family),
            read!(sk, src_ip4),
            [read!(sk, src_ip6[0]), read!(sk, src_ip6[1]), read!(sk, src_ip6[2]), read!(sk, src_ip6[3])],
            read!(sk, src_port),
            // What the answer would be without this hook: the port that was really dialled.
            read!(ctx.sock_addr, user_port),
            bpf_get_netns_cookie(ctx.sock_addr.cast()),
        )
    };
    let addr = if family == AF_INET { Addr::v4_word(v4) } else { Addr { words: v6 } };
    let capture_port = u32::from(u16::from_be(redirected as u16));
    let key = NoteKey { netns_cookie, addr, port, capture_port };
    // SAFETY: values of this map are replaced whole.
    let dialled = unsafe { ORIGINALS.get(key) }?;
    Some(SockNote::of(SockNote::DIALLED, dialled.addr, dialled.port))
}
