//! Pinned links: how a hook outlives the agent and passes from one agent to its successor without a gap.
//!
//! First attach: link created and pinned. Later: the pinned link is opened and its program replaced in one step
//! (`BPF_LINK_UPDATE`, Linux 5.7), so there is no moment without a hook. Removing the pin detaches.
//!
//! The two commands are spoken to the kernel directly: aya updates no link of these program types.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::programs::links::FdLink;

/// Command numbers of bpf(2).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// The parts of `union bpf_attr` that the commands read.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of the link that is pinned at `pin`. `false`: there is no such pin, or what it was attached to
/// is gone (then the pin is removed).
pub(super) fn replace(pin: &Path, program: BorrowedFd<'_>) -> io::Result<bool> {
    if !pin.exists() {
        return Ok(false);
    }
    let link = open(pin)?;
    let update = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    match bpf(BPF_LINK_UPDATE, &update) {
        Ok(_) => Ok(true),
        // The cgroup or network namespace has died; the link stands for nothing.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            remove(pin)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the command just returned this descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer is to a live value of the size that is passed, laid out as the command wants it; the path
    // inside `ObjGet` outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Pins a fresh link.
pub(super) fn pin(link: FdLink, at: &Path) -> io::Result<()> {
    link.pin(at).map(drop).map_err(io::Error::other)
}

/// Removes a pin, and with it the hook. A pin that is not there is no error.
pub(super) fn remove(pin: &Path) -> io::Result<()> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
