//! `cgroup/connect4` and `connect6`: an application dials.
//!
//! ```text
//! not TCP, or the agent ─▶ pass
//! kubelet, in the host's namespace ─▶ note that on the socket
//! whose socket? namespace cookie, else the cgroups above the process ─▶ verdict::connect
//!   excluded by the operator ─▶ pass
//!   capture ─▶ service without endpoint: refuse
//!            ─▶ note what was dialled on the socket, dial the pod's own address, one of the capture ports
//! ```
//!
//! The socket's namespace decides and not the process, so a moved process, a passed socket, io_uring and an MPTCP join
//! (a kernel thread in the root cgroup) make no difference. Not seen here: SOCK_RAW, and UDP on purpose.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32,
    bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::{
    Addr, CapturePorts, CgroupEntry, Counter, PodEntry, Refusal, ServiceKey16, ServiceState, Settings,
    SockNote,
};

use crate::maps::{
    ADDRS, CGROUPS, EXCLUDED_NETS, EXCLUDED_PORTS, KUBELET, NOTES, PODS, SELF, SERVICES, SETTINGS, counted,
    refused,
};
use crate::verdict::{self, Connect, Owner};

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
    Redirect(Addr),
    Refuse(Refusal),
}

#[cgroup_sock_addr(connect4)]
fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's; each read is a field that this program type may read.
    let (addr, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    let dialled = Addr::v4_word(addr);
    match outcome(&ctx, dialled, port_of(port)) {
        Outcome::Pass => ALLOW,
        Outcome::Refuse(refusal) => refuse(&ctx, refusal),
        Outcome::Redirect(to) => {
            let [_, _, _, v4] = to.words;
            // SAFETY: as above, for fields that this program type may write.
            unsafe {
                (*ctx.sock_addr).user_ip4 = v4;
                (*ctx.sock_addr).user_port = capture_port();
            }
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is the kernel's; each read is a field that this program type may read.
    let (addr, port) = unsafe { (words6(ctx.sock_addr), (*ctx.sock_addr).user_port) };
    let dialled = Addr { words: addr };
    match outcome(&ctx, dialled, port_of(port)) {
        Outcome::Pass => ALLOW,
        Outcome::Refuse(refusal) => refuse(&ctx, refusal),
        Outcome::Redirect(to) => {
            let [a, b, c, d] = to.words;
            // SAFETY: as above, for fields that this program type may write.
            unsafe {
                (*ctx.sock_addr).user_ip6[0] = a;
                (*ctx.sock_addr).user_ip6[1] = b;
                (*ctx.sock_addr).user_ip6[2] = c;
                (*ctx.sock_addr).user_ip6[3] = d;
                (*ctx.sock_addr).user_port = capture_port();
            }
            ALLOW
        }
    }
}

#[inline(always)]
fn outcome(ctx: &SockAddrContext, dialled: Addr, port: u32) -> Outcome {
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
        note_kubelet(ctx, cgroup, dialled, port);
    }
    let excluded = verdict::heeds_exclusions(owner) && is_excluded(settings, dialled, port);
    let (allow_unknown, complete) = (settings.allow_unknown != 0, settings.world_complete != 0);
    match verdict::connect(owner, &dialled, excluded, allow_unknown, complete) {
        Connect::Refuse(refusal) => Outcome::Refuse(refusal),
        Connect::Pass => {
            // A socket that was redirected before and now dials elsewhere must not answer with the old address.
            if verdict::heeds_exclusions(owner) {
                forget(ctx);
            }
            Outcome::Pass
        }
        Connect::Capture => match pod {
            Some(pod) => capture(ctx, pod, cookie, dialled, port),
            // A captured pod is only ever known by its namespace.
            None => Outcome::Refuse(Refusal::ForeignNetns),
        },
    }
}

/// Kubelet is who runs in kubelet's cgroup *and* whose socket is of the host's namespace: a pod can have neither. The note
/// is for `sockops`, which has no process to ask. Without room for it kubelet is anybody from outside.
#[inline(always)]
fn note_kubelet(ctx: &SockAddrContext, cgroup: u64, dialled: Addr, port: u32) {
    // SAFETY: values of this map are never changed in place.
    if unsafe { KUBELET.get(cgroup) }.is_none() {
        return;
    }
    let mut note = SockNote { addr: dialled, port, kind: SockNote::KUBELET };
    // SAFETY: the storage is the calling socket's own, which is locked for the duration of connect(2).
    if let Some(stored) = unsafe { NOTES.get_or_insert_ptr_mut(ctx, Some(&mut note)).as_mut() } {
        *stored = note;
    }
}

/// Whether the operator took the destination out of the mesh.
#[inline(always)]
fn is_excluded(settings: &Settings, dialled: Addr, port: u32) -> bool {
    // SAFETY: values of this map are never changed in place.
    if settings.exclusions & Settings::EXCLUDED_PORTS != 0 && unsafe { EXCLUDED_PORTS.get(port) }.is_some() {
        return true;
    }
    settings.exclusions & Settings::EXCLUDED_NETS != 0
        && EXCLUDED_NETS.get(&Key::new(128, dialled)).is_some_and(|excluded| *excluded != 0)
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
fn capture(ctx: &SockAddrContext, pod: &PodEntry, cookie: u64, dialled: Addr, port: u32) -> Outcome {
    // SAFETY: as for PODS.
    if unsafe { ADDRS.get(dialled) }.is_some_and(|own| own.netns_cookie == cookie) {
        forget(ctx);
        return Outcome::Pass;
    }
    if let Some(refusal) = service_refusal(dialled, port) {
        return Outcome::Refuse(refusal);
    }
    let own = if dialled.is_v4() { pod.addr4 } else { pod.addr6 };
    if own.is_none() {
        return Outcome::Refuse(Refusal::NoFamily);
    }
    let mut note = SockNote { addr: dialled, port, kind: SockNote::DIALLED };
    // SAFETY: the storage is the calling socket's own, which is locked for the duration of connect(2).
    let stored = unsafe { NOTES.get_or_insert_ptr_mut(ctx, Some(&mut note)) };
    if stored.is_null() {
        return Outcome::Refuse(Refusal::MapFull);
    }
    // SAFETY: not null, and as above.
    unsafe { *stored = note };
    counted(Counter::Redirected);
    Outcome::Redirect(own)
}

#[inline(always)]
fn service_refusal(dialled: Addr, port: u32) -> Option<Refusal> {
    // SAFETY: as for PODS.
    match unsafe { SERVICES.get(ServiceKey16 { addr: dialled, port }) } {
        Some(ServiceState { no_endpoint: 0 }) => None,
        Some(ServiceState { no_endpoint: ServiceState::NONE_HERE }) => Some(Refusal::NoLocalEndpoint),
        Some(_) => Some(Refusal::NoEndpoint),
        // SAFETY: as for PODS.
        None => {
            unsafe { SERVICES.get(ServiceKey16 { addr: dialled, port: 0 }) }.map(|_| Refusal::NoServicePort)
        }
    }
}

#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: readable field of the kernel's context; the socket is the caller's own.
    let _nothing_there = unsafe { NOTES.delete((*ctx.sock_addr).__bindgen_anon_1.sk) };
}

#[inline(always)]
fn refuse(ctx: &SockAddrContext, refusal: Refusal) -> i32 {
    refused(refusal);
    debug!(ctx, "connect refused, reason {}", refusal as u32);
    // SAFETY: a read of a static; volatile because the loader writes it after compilation.
    if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } != 0 {
        // SAFETY: the helper takes no pointer.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    DENY
}

/// `user_port` holds the port in network byte order in its first two bytes.
#[inline(always)]
fn port_of(user_port: u32) -> u32 {
    u32::from(u16::from_be(user_port as u16))
}

/// Any of the capture ports, because connect(2) looks for a free source port for one destination address and port.
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
