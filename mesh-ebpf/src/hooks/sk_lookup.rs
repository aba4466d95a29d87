//! `sk_lookup`, attached to every captured pod's network namespace: a new connection arrives.
//!
//! ```text
//! from outside ─▶ 15008: HBONE listener │ anything else: the application, with a note of kubelet's │ plaintext listener
//! from the pod itself ─▶ a capture port, with a note: outbound listener │ the application
//! from loopback or 100::/64 to the pod's own address ─▶ the application, if it is a delivery of the agent's
//! to 100::/64 ─▶ nobody
//! ```
//!
//! Established connections never come here. No listener (the agent is down) is a RST, never the application.

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::debug;
use mesh_common::{Addr, Counter, DeliveryKey, ListenerKey, NoteKey, ProbeKey, Refusal};

use crate::maps::{ADDRS, DELIVERY, LISTENERS, ORIGINALS, PROBES, counted, refused};
use crate::verdict::{self, Arrival};

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;

#[sk_lookup]
fn mesh_sk_lookup(ctx: SkLookupContext) -> u32 {
    match judge(&ctx) {
        Ok(()) => sk_action::SK_PASS,
        Err(refusal) => {
            refused(refusal);
            debug!(&ctx, "arrival dropped, reason {}", refusal as u32);
            sk_action::SK_DROP
        }
    }
}

#[inline(always)]
fn judge(ctx: &SkLookupContext) -> Result<(), Refusal> {
    // SAFETY: readable fields of the kernel's context.
    let (protocol, local_port, remote_port) = unsafe {
        (read!(ctx.lookup, protocol), read!(ctx.lookup, local_port), read!(ctx.lookup, remote_port))
    };
    if protocol != IPPROTO_TCP {
        return Ok(());
    }
    let (local, remote) = addresses(ctx.lookup);
    // SAFETY: the agent replaces values whole.
    let (cookie, arrival) = match unsafe { ADDRS.get(local) } {
        Some(own) => (own.netns_cookie, verdict::arrival(own.state, &remote, &local, local_port)),
        None => (0, verdict::arrival_elsewhere(&local)),
    };
    let remote_port = u32::from(u16::from_be(remote_port));
    match arrival {
        Arrival::Application => Ok(()),
        Arrival::Drop(refusal) => Err(refusal),
        Arrival::Listener(kind) => {
            steer(ctx, local, kind)?;
            counted(Counter::SteeredHbone);
            Ok(())
        }
        Arrival::Outside => {
            let key = ProbeKey { src: remote, dst: local, src_port: remote_port, dst_port: local_port };
            match PROBES.get_ptr(key) {
                Some(_) => counted(Counter::Probed),
                None => {
                    steer(ctx, local, ListenerKey::PLAINTEXT)?;
                    counted(Counter::SteeredPlaintext);
                }
            }
            Ok(())
        }
        Arrival::NotedClient => {
            let key =
                NoteKey { netns_cookie: cookie, addr: remote, port: remote_port, capture_port: local_port };
            match ORIGINALS.get_ptr(key) {
                Some(_) => steer(ctx, local, ListenerKey::OUTBOUND),
                None => Err(Refusal::NoOriginalDst),
            }
        }
        Arrival::NotedDelivery => {
            let key = DeliveryKey { src: remote, dst: local, src_port: remote_port, dst_port: local_port };
            match DELIVERY.get_ptr(key) {
                Some(_) => Ok(()),
                None => Err(Refusal::LoopbackSource),
            }
        }
    }
}

#[inline(always)]
fn steer(ctx: &SkLookupContext, addr: Addr, port: u32) -> Result<(), Refusal> {
    LISTENERS.redirect_sk_lookup(ctx, ListenerKey { addr, port }, 0).map_err(|_errno| Refusal::NoListener)
}

/// Every field is read, whatever the family, and chosen from afterwards: two branches that each compute a place in the
/// context are merged by the compiler into one load from a computed pointer, which the verifier refuses.
#[inline(always)]
fn addresses(lookup: *const bpf_sk_lookup) -> (Addr, Addr) {
    // SAFETY: readable fields of the kernel's context.
    let (family, local4, remote4, local6, remote6) = unsafe {
        (
            read!(lookup, family),
            read!(lookup, local_ip4),
            read!(lookup, remote_ip4),
            [
                read!(lookup, local_ip6[0]),
                read!(lookup, local_ip6[1]),
                read!(lookup, local_ip6[2]),
                read!(lookup, local_ip6[3]),
            ],
            [
                read!(lookup, remote_ip6[0]),
                read!(lookup, remote_ip6[1]),
                read!(lookup, remote_ip6[2]),
                read!(lookup, remote_ip6[3]),
            ],
        )
    };
    if family == AF_INET {
        (Addr::v4_word(local4), Addr::v4_word(remote4))
    } else {
        (Addr { words: local6 }, Addr { words: remote6 })
    }
}
