//! The kernel half of Weft.
//!
//! ```text
//! connect(2) ─▶ hooks/connect ─▶ (redirected) ─▶ hooks/sockops files the note ─▶ agent's listener in the pod
//! SYN to a pod ─▶ hooks/sk_lookup ─▶ agent's listener, or the application
//! getpeername(2), accept(2) ─▶ hooks/peername ─▶ the address that was dialled, or that dialled
//! ```
//!
//! `hooks/` has one file per attach point, `maps.rs` the maps, `verdict.rs` the one table of what is let pass and what
//! is refused: pure, and tested on the host. This file is only the module list, the licence and the panic handler.
//!
//! Invariants: whatever cannot be decided for a captured pod is refused and counted, never passed; a full map too.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "the hooks that use it are built for bpf alone")
)]

#[cfg(target_arch = "bpf")]
mod hooks;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod tables;
mod verdict;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The dual licence, as the kernel reads it: GPL-compatible, so that GPL-only helpers may be called.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

/// On the host there is nothing to run: this target exists for the unit tests of `verdict`.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
