//! `sockops`: carries notes from one end of a local connection to the other.
//!
//! ```text
//! TCP_CONNECT (port known, SYN not sent)      PASSIVE_ESTABLISHED (other end)
//!   client: DIALLED  ─▶ mesh_originals ─────▶ agent's accepted socket: ORIGINAL
//!   agent:  DELIVERS ─▶ mesh_delivery ──────▶ application's accepted socket: CLIENT
//!   kubelet: KUBELET ─▶ mesh_probes           (sk_lookup asks there; gone with kubelet's socket)
//!   client: DIRECT   ─▶ mesh_direct           (likewise; gone with the client's socket)
//!   client: LEFT     ─▶ mesh_left             for whoever counts what is open; gone with the client's socket
//!   client: DIRECT, LEFT ─▶ mesh_flows        counted when established, and at the end
//! ```
//!
//! A client's note is never removed at its close: who connects, writes and closes would lose it before a busy agent
//! accepts; the map is an LRU. A delivery's note goes once it was handed over, or when the delivery's socket closes.

use aya_ebpf::bindings::{
    BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, bpf_sock,
};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sk_storage_get};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use mesh_common::{
    Addr, CapturePorts, Counter, DeliveryKey, DirectEntry, DirectKey, Endpoint16, NoteKey, Original,
    ProbeKey, Refusal, SockNote,
};

use crate::maps::{ADDRS, DELIVERY, DIRECT, LEFT, NOTES, ORIGINALS, PROBES, counted, refused};

mod flows;

const AF_INET: u32 = 2;
/// The program's answer is not read for these callbacks.
const DONE: u32 = 1;

#[sock_ops]
fn mesh_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => flows::established(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    DONE
}

/// Both addresses and ports of the socket: local, remote.
struct Ends {
    local: Endpoint16,
    remote: Endpoint16,
}

/// Every field is read, whatever the family, and chosen from afterwards (see `sk_lookup`). A v4-mapped socket has family
/// 10 here and mapped addresses; `local_ip4` of a real IPv6 socket is garbage.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> Ends {
    let ops = ctx.ops;
    // SAFETY: readable fields of the kernel's context.
    let (family, local4, remote4, local6, remote6, local_port, remote_port) = unsafe {
        (
            read!(ops, family),
            read!(ops, local_ip4),
            read!(ops, remote_ip4),
            [
                read!(ops, local_ip6[0]),
                read!(ops, local_ip6[1]),
                read!(ops, local_ip6[2]),
                read!(ops, local_ip6[3]),
            ],
            [
                read!(ops, remote_ip6[0]),
                read!(ops, remote_ip6[1]),
                read!(ops, remote_ip6[2]),
                read!(ops, remote_ip6[3]),
            ],
            read!(ops, local_port),
            read!(ops, remote_port),
        )
    };
    let (local, remote) = if family == AF_INET {
        (Addr::v4_word(local4), Addr::v4_word(remote4))
    } else {
        (Addr { words: local6 }, Addr { words: remote6 })
    };
    Ends {
        local: Endpoint16 { addr: local, port: local_port },
        // The remote port is a big-endian 16-bit value in the upper half of a word in network byte order.
        remote: Endpoint16 { addr: remote, port: u32::from_be(remote_port) & 0xffff },
    }
}

#[inline(always)]
fn delivery_key(agent: Endpoint16, application: Endpoint16) -> DeliveryKey {
    DeliveryKey { src: agent.addr, dst: application.addr, src_port: agent.port, dst_port: application.port }
}

#[inline(always)]
fn direct_key(ends: &Ends) -> DirectKey {
    let Ends { local, remote } = ends;
    DirectKey { src: local.addr, dst: remote.addr, src_port: local.port, dst_port: remote.port }
}

#[inline(always)]
fn probe_key(ends: &Ends) -> ProbeKey {
    let Ends { local, remote } = ends;
    ProbeKey { src: local.addr, dst: remote.addr, src_port: local.port, dst_port: remote.port }
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let ends = ends(ctx);
    let Some(stored) = storage(ctx) else { return disown(ctx, &ends) };
    // SAFETY: not null; the storage is of the socket that this callback is about, which is locked.
    let note = unsafe { *stored };
    let value = Endpoint16 { addr: note.addr, port: note.port };
    let filed = match note.kind {
        SockNote::LEFT => {
            let _flags = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            // SAFETY: as above.
            unsafe { (*stored).began = flows::halves(now()) };
            // What there is no room for is counted when it ends.
            let _or_later = LEFT.insert(direct_key(&ends), cookie(ctx), 0);
            Ok(())
        }
        SockNote::DIRECT => {
            let _flags = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            let began = now();
            // SAFETY: as above.
            unsafe { (*stored).began = flows::halves(began) };
            let entry = DirectEntry {
                netns_cookie: cookie(ctx),
                began,
                dialled: note.addr,
                dialled_port: note.port,
                admitted: 0,
            };
            // Without its note it arrives as a connection without identity, and the agent judges it.
            DIRECT.insert(direct_key(&ends), entry, 0)
        }
        SockNote::DIALLED => {
            let key = NoteKey {
                netns_cookie: cookie(ctx),
                addr: ends.local.addr,
                port: ends.local.port,
                capture_port: ends.remote.port,
            };
            let Endpoint16 { addr, port } = value;
            let (target, target_port) = (note.target, note.target_port);
            ORIGINALS.insert(key, Original { addr, port, target, target_port }, 0)
        }
        SockNote::DELIVERS => {
            // Only the agent's own sockets pay for the callback at close.
            let _flags = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            DELIVERY.insert(delivery_key(ends.local, ends.remote), value, 0)
        }
        SockNote::KUBELET => return probing(ctx, &ends),
        _ => Ok(()),
    };
    if filed.is_err() {
        // Without its note the connection is refused at the other end (`sk_lookup`), or by the agent, who is told here.
        if note.kind == SockNote::DELIVERS {
            // SAFETY: as above.
            unsafe { (*stored).kind = SockNote::LOST };
        }
        refused(Refusal::MapFull);
        warn!(ctx, "a note could not be filed: its map is full");
    }
}

/// Kubelet dials: what goes to a captured pod of this node is noted, for as long as the socket is open. Without its note
/// it is a connection from outside the mesh like any other.
#[inline(always)]
fn probing(ctx: &SockOpsContext, ends: &Ends) {
    // SAFETY: values of this map are replaced whole.
    if unsafe { ADDRS.get(ends.remote.addr) }.is_some() {
        let _flags = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        let _as_from_outside = PROBES.insert(probe_key(ends), 1, 0);
    }
}

/// A connection that was not redirected inherits no note: who dials a capture port from a source port of an earlier
/// connection gets nowhere, and nobody is kubelet because kubelet had the port before (its note goes with its socket, but
/// not while this program is detached).
#[inline(always)]
fn disown(ctx: &SockOpsContext, ends: &Ends) {
    if CapturePorts::holds(ends.remote.port) {
        let key = NoteKey {
            netns_cookie: cookie(ctx),
            addr: ends.local.addr,
            port: ends.local.port,
            capture_port: ends.remote.port,
        };
        let _there_was_none = ORIGINALS.remove(key);
        return;
    }
    // SAFETY: values of this map are replaced whole.
    if unsafe { ADDRS.get(ends.remote.addr) }.is_some() {
        let _there_was_none = PROBES.remove(probe_key(ends));
        let _there_was_none = DIRECT.remove(direct_key(ends));
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let port = ctx.local_port();
    if CapturePorts::holds(port) {
        let ends = ends(ctx);
        let key = NoteKey {
            netns_cookie: cookie(ctx),
            addr: ends.remote.addr,
            port: ends.remote.port,
            capture_port: port,
        };
        // SAFETY: values of this map are replaced whole.
        if let Some(original) = unsafe { ORIGINALS.get(key) } {
            let note = SockNote {
                addr: original.addr,
                port: original.port,
                kind: SockNote::ORIGINAL,
                target: original.target,
                target_port: original.target_port,
                began: [0; 2],
                audited: 0,
            };
            store(ctx, note);
        }
        return;
    }
    let ends = ends(ctx);
    // Where the agent delivers from; the pod's own address is for IPv6 without a route to the delivery sources.
    let from = ends.remote.addr;
    if !from.is_loopback() && !from.is_delivery_source() && from.words != ends.local.addr.words {
        return;
    }
    let key = delivery_key(ends.remote, ends.local);
    // SAFETY: as above.
    if let Some(client) = unsafe { DELIVERY.get(key) } {
        store(ctx, SockNote::of(SockNote::CLIENT, client.addr, client.port));
        let _gone_already = DELIVERY.remove(key);
        counted(Counter::Delivered);
    }
}

/// A delivery that never reached an application leaves no note behind, and no connection of kubelet's outlives its note.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some(stored) = storage(ctx) else { return };
    // SAFETY: not null, and of the socket that this callback is about.
    let note = unsafe { *stored };
    match note.kind {
        SockNote::DIRECT => {
            let key = direct_key(&ends(ctx));
            // SAFETY: values of this map are replaced whole, but for one word.
            if unsafe { DIRECT.get(key) }.is_some_and(|entry| entry.netns_cookie == cookie(ctx)) {
                let _gone_already = DIRECT.remove(key);
            }
            flows::ended(ctx, &note);
        }
        SockNote::LEFT => {
            let _there_was_no_room = LEFT.remove(direct_key(&ends(ctx)));
            flows::ended(ctx, &note);
        }
        SockNote::DELIVERS => {
            let ends = ends(ctx);
            let _handed_over = DELIVERY.remove(delivery_key(ends.local, ends.remote));
        }
        SockNote::KUBELET => {
            let _evicted = PROBES.remove(probe_key(&ends(ctx)));
        }
        _ => {}
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no pointer.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper reads the context it is given.
    unsafe { bpf_get_netns_cookie(ctx.ops.cast()) }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: readable field of the kernel's context; null where the callback has no full socket.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    (!sk.is_null()).then_some(sk)
}

#[inline(always)]
fn storage(ctx: &SockOpsContext) -> Option<*mut SockNote> {
    let sk = socket(ctx)?;
    // SAFETY: aya's map is its definition, whose address is what the helper wants; the socket is not null; null means
    // no note.
    let note = unsafe {
        bpf_sk_storage_get((&raw const NOTES).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0)
    }
    .cast::<SockNote>();
    (!note.is_null()).then_some(note)
}

#[inline(always)]
fn store(ctx: &SockOpsContext, mut note: SockNote) {
    let Some(sk) = socket(ctx) else { return };
    // SAFETY: as in `storage`; the note outlives the call, which copies it.
    let kept = unsafe {
        bpf_sk_storage_get(
            (&raw const NOTES).cast_mut().cast(),
            sk.cast(),
            (&raw mut note).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if kept.is_null() {
        refused(Refusal::MapFull);
    }
}
