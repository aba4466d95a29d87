//! `cgroup/connect4` and `connect6`: an application dials.
//!
//! ```text
//! not TCP, or the agent ─▶ pass
//! kubelet, in the host's namespace ─▶ note that on the socket
//! whose socket? namespace cookie, else the cgroups above the process ─▶ verdict::connect
//!   excluded by the operator ─▶ pass
//!   capture ─▶ way: refused │ left as it is │ directly to a pod of the node │ the pod's own address, one of the capture ports
//!            ─▶ note what was dialled on the socket
//! ```
//!
//! The socket's namespace decides and not the process, so a moved process, a passed socket, io_uring and an MPTCP join
//! (a kernel thread in the root cgroup) make no difference. Not seen here: SOCK_RAW, and UDP on purpose.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32,
    bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{
    Addr, CapturePorts, CgroupEntry, Counter, Endpoint16, PodEntry, Refusal, RefusalEvent, Settings, SockNote,
};

use super::way::{self, Way};
use crate::maps::{ADDRS, CGROUPS, KUBELET, NOTES, PODS, SELF, SETTINGS, counted, refused, told};
use crate::tables::is_excluded;
use crate::verdict::{self, Connect, Owner};

/// No endpoint was chosen.
const NOWHERE: Endpoint16 = Endpoint16 { addr: Addr::NONE, port: 0 };
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const ECONNREFUSED: i32 = 111;
const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// Deepest cgroup level that is looked at: kubelet's are four deep, a lab's or a nested node's a few more.
const DEEPEST: i32 = 10;

/// Set by the loader: 0 on kernels before 5.18, where a refusal is EPERM instead of ECONNREFUSED.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 1;

/// What the hook does with the socket address.
enum Outcome {
    Pass,
    /// Address, and port in network byte order.
    To(Addr, u32),
    Refuse(Refusal),
    /// By a policy of this destination.
    Deny(Endpoint16),
}

#[cgroup_sock_addr(connect4)]
fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's; each read is a field that this program type may read.
    let (addr, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    let dialled = Endpoint16 { addr: Addr::v4_word(addr), port: port_of(port) };
    match outcome(&ctx, dialled) {
        Outcome::Pass => ALLOW,
        Outcome::Refuse(refusal) => refuse(&ctx, refusal, dialled, dialled),
        Outcome::Deny(to) => refuse(&ctx, Refusal::Policy, to, dialled),
        Outcome::To(to, port) => {
            let [_, _, _, v4] = to.words;
            // SAFETY: as above, for fields that this program type may write.
            unsafe {
                (*ctx.sock_addr).user_ip4 = v4;
                (*ctx.sock_addr).user_port = port;
            }
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's; each read is a field that this program type may read.
    let (addr, port) = unsafe { (words6(ctx.sock_addr), (*ctx.sock_addr).user_port) };
    let dialled = Endpoint16 { addr: Addr { words: addr }, port: port_of(port) };
    match outcome(&ctx, dialled) {
        Outcome::Pass => ALLOW,
        Outcome::Refuse(refusal) => refuse(&ctx, refusal, dialled, dialled),
        Outcome::Deny(to) => refuse(&ctx, Refusal::Policy, to, dialled),
        Outcome::To(to, port) => {
            let [a, b, c, d] = to.words;
            // SAFETY: as above, for fields that this program type may write.
            unsafe {
                (*ctx.sock_addr).user_ip6[0] = a;
                (*ctx.sock_addr).user_ip6[1] = b;
                (*ctx.sock_addr).user_ip6[2] = c;
                (*ctx.sock_addr).user_ip6[3] = d;
                (*ctx.sock_addr).user_port = port;
            }
            ALLOW
        }
    }
}

#[inline(always)]
fn outcome(ctx: &SockAddrContext, dialled: Endpoint16) -> Outcome {
    // SAFETY: readable fields of the kernel's context.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    if protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP {
        return Outcome::Pass;
    }
    // SAFETY: the helper takes no pointer.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: values of this map are never changed in place.
    if unsafe { SELF.get(cgroup) }.is_some() {
        return Outcome::Pass;
    }
    // SAFETY: the helper reads the context it is given.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    let Some(settings) = SETTINGS.get(0) else { return Outcome::Refuse(Refusal::NoWorld) };
    // SAFETY: the agent replaces values whole; a torn read is of a state or an address that was in force a moment ago.
    let pod = unsafe { PODS.get(cookie) };
    let owner = match pod {
        Some(pod) => Owner::Pod(pod.state),
        None => owner_by_cgroup(cookie, settings.host_cookie),
    };
    if cookie == settings.host_cookie {
        note_kubelet(ctx, cgroup, dialled);
    }
    let excluded = verdict::heeds_exclusions(owner) && is_excluded(settings, dialled.addr, dialled.port);
    let (allow_unknown, complete) = (settings.allow_unknown != 0, settings.world_complete != 0);
    match verdict::connect(owner, &dialled.addr, excluded, allow_unknown, complete) {
        Connect::Refuse(refusal) => Outcome::Refuse(refusal),
        Connect::Pass => {
            // A socket that was redirected before and now dials elsewhere must not answer with the old address.
            if verdict::heeds_exclusions(owner) {
                forget(ctx);
            }
            Outcome::Pass
        }
        Connect::Capture => match pod {
            Some(pod) => capture(ctx, settings, pod, cookie, dialled, protocol == IPPROTO_TCP),
            // A captured pod is only ever known by its namespace.
            None => Outcome::Refuse(Refusal::ForeignNetns),
        },
    }
}

/// Kubelet is who runs in kubelet's cgroup *and* whose socket is of the host's namespace: a pod can have neither. The note
/// is for `sockops`, which has no process to ask. Without room for it kubelet is anybody from outside.
#[inline(always)]
fn note_kubelet(ctx: &SockAddrContext, cgroup: u64, dialled: Endpoint16) {
    // SAFETY: values of this map are never changed in place.
    if unsafe { KUBELET.get(cgroup) }.is_none() {
        return;
    }
    let mut note = SockNote::of(SockNote::KUBELET, dialled.addr, dialled.port);
    // SAFETY: the storage is the calling socket's own, which is locked for the duration of connect(2).
    if let Some(stored) = unsafe { NOTES.get_or_insert_ptr_mut(ctx, Some(&mut note)).as_mut() } {
        *stored = note;
    }
}

/// Walks down the cgroups that hold the process. The pod's cgroup lies below kubelet's, so it is found later and wins.
#[inline(always)]
fn owner_by_cgroup(cookie: u64, host_cookie: u64) -> Owner {
    let mut owner = Owner::Nobody;
    let mut level = 1;
    while level <= DEEPEST {
        // SAFETY: the helper takes no pointer.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // SAFETY: as for PODS.
        if let Some(entry) = unsafe { CGROUPS.get(id) } {
            if entry.state == CgroupEntry::KUBEPODS {
                if cookie != host_cookie {
                    owner = Owner::Unknown;
                }
            } else {
                return verdict::owner_by_cgroup(entry.state, entry.netns_cookie, cookie);
            }
        }
        level += 1;
    }
    owner
}

#[inline(always)]
fn capture(
    ctx: &SockAddrContext,
    settings: &Settings,
    pod: &PodEntry,
    cookie: u64,
    dialled: Endpoint16,
    may_be_direct: bool,
) -> Outcome {
    // SAFETY: as for PODS.
    if unsafe { ADDRS.get(dialled.addr) }.is_some_and(|own| own.netns_cookie == cookie) {
        forget(ctx);
        return Outcome::Pass;
    }
    let mut audited = 0;
    let (kind, target, counter) = match way::way(settings, cookie, dialled, may_be_direct) {
        Way::Refuse(refusal) => return Outcome::Refuse(refusal),
        Way::Deny(to) => return Outcome::Deny(to),
        Way::Agent(None) => (SockNote::DIALLED, NOWHERE, Counter::Redirected),
        Way::Agent(Some(to)) => (SockNote::DIALLED, to, Counter::Redirected),
        Way::Direct { to, audited: would_refuse } => {
            if would_refuse {
                audited = 1;
                tell(ctx, RefusalEvent::AUDIT, to, dialled);
            }
            (SockNote::DIRECT, to, Counter::Direct)
        }
        Way::Own(to) => (SockNote::DIRECT, to, Counter::Direct),
        Way::Left(to) => (SockNote::LEFT, to, Counter::Left),
    };
    let to = if kind == SockNote::DIALLED {
        let own = if dialled.addr.is_v4() { pod.addr4 } else { pod.addr6 };
        if own.is_none() {
            return Outcome::Refuse(Refusal::NoFamily);
        }
        Outcome::To(own, capture_port())
    } else {
        Outcome::To(target.addr, u32::from((target.port as u16).to_be()))
    };
    let mut note = SockNote {
        addr: dialled.addr,
        port: dialled.port,
        kind,
        target: target.addr,
        target_port: target.port,
        began: [0; 2],
        audited,
    };
    // SAFETY: the storage is the calling socket's own, which is locked for the duration of connect(2).
    let stored = unsafe { NOTES.get_or_insert_ptr_mut(ctx, Some(&mut note)) };
    if stored.is_null() {
        return Outcome::Refuse(Refusal::MapFull);
    }
    // SAFETY: not null, and as above.
    unsafe { *stored = note };
    counted(counter);
    to
}

#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: readable field of the kernel's context; the socket is the caller's own.
    let _nothing_there = unsafe { NOTES.delete((*ctx.sock_addr).__bindgen_anon_1.sk) };
}

#[inline(always)]
fn refuse(ctx: &SockAddrContext, refusal: Refusal, to: Endpoint16, dialled: Endpoint16) -> i32 {
    refused(refusal);
    tell(ctx, refusal as u32, to, dialled);
    debug!(ctx, "connect refused, reason {}", refusal as u32);
    // SAFETY: a read of a static; volatile because the loader writes it after compilation.
    if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } != 0 {
        // SAFETY: the helper takes no pointer.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}

#[inline(always)]
fn tell(ctx: &SockAddrContext, reason: u32, to: Endpoint16, dialled: Endpoint16) {
    // SAFETY: the helper reads the context it is given.
    let netns_cookie = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    told(&RefusalEvent {
        netns_cookie,
        reason,
        port: to.port,
        addr: to.addr,
        from: Addr::NONE,
        from_port: 0,
        dialled_port: dialled.port,
        dialled: dialled.addr,
    });
}

/// `user_port` holds the port in network byte order in its first two bytes.
#[inline(always)]
fn port_of(user_port: u32) -> u32 {
    u32::from(u16::from_be(user_port as u16))
}

/// Any of the capture ports, because connect(2) looks for a free source port for one destination address and port. In
/// network byte order.
#[inline(always)]
fn capture_port() -> u32 {
    // SAFETY: the helper takes no pointer.
    let random = unsafe { bpf_get_prandom_u32() };
    u32::from((CapturePorts::pick(random) as u16).to_be())
}

/// # Safety
/// `sock_addr` is the kernel's context of a program that may read `user_ip6`.
#[inline(always)]
unsafe fn words6(sock_addr: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: the caller's promise. Word by word: the verifier takes no wider access.
    unsafe {
        [
            (*sock_addr).user_ip6[0],
            (*sock_addr).user_ip6[1],
            (*sock_addr).user_ip6[2],
            (*sock_addr).user_ip6[3],
        ]
    }
}
