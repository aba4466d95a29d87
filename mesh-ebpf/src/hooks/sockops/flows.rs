//! Counting connections that no agent carries.
//!
//! Per processor, so that nobody waits and next to nothing is lost. What the map has no room for is counted under one key of its own.

use aya_ebpf::programs::SockOpsContext;
use mesh_common::{Addr, Durations, EndedEvent, FlowCount, FlowKey, Settings, SockNote};

use super::{Ends, cookie, ends, now, storage};
use crate::maps::{FLOWS, SETTINGS, told_end};

/// linux/tcp_states.h.
const TCP_SYN_SENT: u32 = 2;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;
const TCP_CLOSING: u32 = 11;
/// Not on the stack, which is small.
static NONE: FlowCount = FlowCount::NONE;

/// The client's end is established.
#[inline(always)]
pub(super) fn established(ctx: &SockOpsContext) {
    let Some(stored) = storage(ctx) else { return };
    // SAFETY: not null, and of the socket that this callback is about.
    let note = unsafe { *stored };
    if matches!(note.kind, SockNote::DIRECT | SockNote::LEFT)
        && let Some(count) = counters(ctx, &note, false)
    {
        // SAFETY: the map's, which stays readable until this program ends.
        unsafe {
            plus(&raw mut (*count).opened, 1);
            add(&raw mut (*count).connects, since(&note) as u32);
        }
    }
}

/// The client's end is closed.
#[inline(always)]
pub(super) fn ended(ctx: &SockOpsContext, note: &SockNote) {
    let wanted = if ctx.arg(0) == TCP_SYN_SENT { Settings::FAILURES } else { Settings::ENDINGS };
    if SETTINGS.get(0).is_some_and(|settings| settings.flags & wanted != 0) {
        tell(ctx, note);
    }
    let failed = ctx.arg(0) == TCP_SYN_SENT;
    let Some(count) = counters(ctx, note, failed) else { return };
    // SAFETY: readable fields of the kernel's context; and as above.
    unsafe {
        if failed {
            plus(&raw mut (*count).failed, 1);
        } else {
            plus(&raw mut (*count).closed, 1);
            // The SYN and each FIN are counted as a byte; the SYN of the other end is not.
            let (ours, theirs) = fins(ctx.arg(0));
            plus(&raw mut (*count).sent, read!(ctx.ops, bytes_acked).saturating_sub(1 + ours));
            plus(&raw mut (*count).received, read!(ctx.ops, bytes_received).saturating_sub(theirs));
            plus(&raw mut (*count).retransmits, u64::from(read!(ctx.ops, total_retrans)));
            // The kernel keeps eighths.
            let round_trip = read!(ctx.ops, srtt_us) >> 3;
            if round_trip > 0 {
                add(&raw mut (*count).round_trips, round_trip);
            }
        }
    }
}

/// For the access log.
#[inline(always)]
fn tell(ctx: &SockOpsContext, note: &SockNote) {
    let state = ctx.arg(0);
    let Ends { local, remote } = ends(ctx);
    let (ours, theirs) = fins(state);
    // SAFETY: readable fields of the kernel's context.
    let (sent, received, round_trip, retransmits) = unsafe {
        (
            read!(ctx.ops, bytes_acked),
            read!(ctx.ops, bytes_received),
            read!(ctx.ops, srtt_us),
            read!(ctx.ops, total_retrans),
        )
    };
    told_end(&EndedEvent {
        netns_cookie: cookie(ctx),
        sent: sent.saturating_sub(1 + ours),
        received: received.saturating_sub(theirs),
        lasted: since(note),
        src: local.addr,
        dst: remote.addr,
        dialled: note.addr,
        src_port: local.port,
        dst_port: remote.port,
        dialled_port: note.port,
        kind: if note.kind == SockNote::DIRECT { FlowKey::DIRECT } else { FlowKey::LEFT },
        how: match state {
            TCP_SYN_SENT => EndedEvent::FAILED,
            TCP_FIN_WAIT2 | TCP_LAST_ACK | TCP_CLOSING => EndedEvent::CLEAN,
            _ => EndedEvent::BROKEN,
        },
        round_trip: round_trip >> 3,
        retransmits,
        audited: note.audited,
    });
}

/// Which FINs there have been by the state that a socket was closed from: its own and acknowledged, the other end's. One that
/// waits in vain for the other end's FIN is taken for one that got it.
#[inline(always)]
fn fins(state: u32) -> (u64, u64) {
    match state {
        TCP_FIN_WAIT2 | TCP_LAST_ACK | TCP_CLOSING => (1, 1),
        TCP_CLOSE_WAIT => (0, 1),
        _ => (0, 0),
    }
}

/// As many microseconds, in two halves.
#[inline(always)]
pub(super) fn halves(nanos: u64) -> [u32; 2] {
    let micros = nanos / 1000;
    [micros as u32, (micros >> 32) as u32]
}

/// Microseconds since the connect.
#[inline(always)]
fn since(note: &SockNote) -> u64 {
    let [low, high] = note.began;
    (now() / 1000).wrapping_sub(u64::from(high) << 32 | u64::from(low))
}

/// Adds to a counter of this processor's. Three instructions: core has no atomic addition for this target, and a packet's callback that
/// comes in between those of a process's is the price.
///
/// # Safety
/// `counter` is a map's.
#[inline(always)]
unsafe fn plus(counter: *mut u64, more: u64) {
    // SAFETY: the caller's; aligned, and valid while the program runs.
    unsafe { *counter += more };
}

/// Adds a duration.
///
/// # Safety
/// `durations` is a map's.
#[inline(always)]
unsafe fn add(durations: *mut Durations, micros: u32) {
    // SAFETY: the caller's; no index is out of bounds.
    unsafe {
        plus(&raw mut (*durations).sum, u64::from(micros));
        // Unrolled, with an index that is a constant in each arm: the verifier follows it without bounds.
        let mut counted = false;
        let mut at = 0;
        while at < Durations::BOUNDS.len() {
            if !counted && micros <= Durations::BOUNDS[at] {
                plus(&raw mut (*durations).counts[at], 1);
                counted = true;
            }
            at += 1;
        }
        if !counted {
            plus(&raw mut (*durations).counts[Durations::BOUNDS.len()], 1);
        }
    }
}

#[inline(always)]
fn counters(ctx: &SockOpsContext, note: &SockNote, failed: bool) -> Option<*mut FlowCount> {
    let is_direct = note.kind == SockNote::DIRECT;
    // Who tries the ports of a peer makes one row of it.
    let names_port = is_direct && !(failed && note.addr == note.target);
    let key = FlowKey {
        netns_cookie: cookie(ctx),
        peer: if is_direct { note.target } else { Addr::NONE },
        dialled: if is_direct { note.addr } else { Addr::NONE },
        dialled_port: if names_port { note.port } else { 0 },
        kind: if is_direct { FlowKey::DIRECT } else { FlowKey::LEFT },
    };
    if let Some(count) = FLOWS.get_ptr_mut(key) {
        return Some(count);
    }
    let _or_there_is_no_room = FLOWS.insert(key, &NONE, 0);
    if let Some(count) = FLOWS.get_ptr_mut(key) {
        return Some(count);
    }
    FLOWS.get_ptr_mut(FlowKey::OF_OVERFLOW)
}
