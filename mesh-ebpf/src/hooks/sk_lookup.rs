//! `sk_lookup`, attached to every captured pod's network namespace: a new connection arrives.
//!
//! ```text
//! from outside ─▶ 15008: HBONE listener │ anything else: ─┐
//!                 a direct connection's note, and policy admits it ─▶ the application │ refuses ─▶ RST
//!                 kubelet's note ─▶ the application
//!                 no identity taken there (strict, or policy) ─▶ RST │ else the plaintext listener
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
use mesh_common::{
    Addr, Counter, DeliveryKey, DirectKey, Endpoint16, ListenerKey, NoteKey, ProbeKey, Refusal, RefusalEvent,
    Verdict,
};

use crate::maps::{ADDRS, DELIVERY, DIRECT, LISTENERS, ORIGINALS, PROBES, counted, refused, told};
use crate::tables;
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
            let (from, to) = (
                Endpoint16 { addr: remote, port: remote_port },
                Endpoint16 { addr: local, port: local_port },
            );
            match outside(from, to) {
                Outside::Application(counter) => counted(counter),
                Outside::Refuse(refusal) => {
                    told(&RefusalEvent {
                        netns_cookie: 0,
                        reason: refusal as u32,
                        port: to.port,
                        addr: to.addr,
                        from: from.addr,
                        from_port: from.port,
                        dialled_port: 0,
                        dialled: Addr::NONE,
                    });
                    return Err(refusal);
                }
                Outside::Agent => {
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

/// What becomes of a connection from outside the pod.
enum Outside {
    Application(Counter),
    Agent,
    Refuse(Refusal),
}

/// A direct connection was judged when its client dialled; policy may have changed since. Whoever else comes has no identity
/// here, and where none is taken is refused at once. What the tables do not settle is the agent's.
#[inline(always)]
fn outside(from: Endpoint16, to: Endpoint16) -> Outside {
    let (src, dst, src_port, dst_port) = (from.addr, to.addr, from.port, to.port);
    let class = tables::class_of(dst);
    if let Some(entry) = DIRECT.get_ptr_mut(DirectKey { src, dst, src_port, dst_port }) {
        // SAFETY: the map gave the pointer; an entry that goes meanwhile stays readable until this program ends.
        let cookie = unsafe { (*entry).netns_cookie };
        // Nobody's address by now, or one whose policies have no room here: the agent knows.
        let verdict = class.map_or(Verdict::ASK, |class| tables::verdict_of_pod(cookie, class, dst_port));
        return match verdict {
            Verdict::ALLOW | Verdict::ALLOW_AUDITED => {
                // SAFETY: as above; one word, set to the same by whoever sets it.
                unsafe { core::ptr::write_volatile(&raw mut (*entry).admitted, 1) };
                Outside::Application(Counter::Admitted)
            }
            Verdict::DENY => Outside::Refuse(Refusal::Policy),
            _ => Outside::Agent,
        };
    }
    if PROBES.get_ptr(ProbeKey { src, dst, src_port, dst_port }).is_some() {
        return Outside::Application(Counter::Probed);
    }
    match tables::verdict(0, class.unwrap_or(0), dst_port) {
        Verdict::DENY => Outside::Refuse(Refusal::Plaintext),
        _ => Outside::Agent,
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
