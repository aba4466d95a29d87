//! Pinned links: how a hook outlives the agent and passes from one agent to its successor without a gap.
//!
//! First attach: link created and pinned. Later: the pinned link is opened and its program replaced in one step
//! (`BPF_LINK_UPDATE`, Linux 5.7), so there is no moment without a hook. The agent holds every link open as well, so that
//! a pin removed by hand detaches nothing while it runs.
//!
//! The commands are spoken to the kernel directly: aya updates no link of these program types.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::programs::links::FdLink;

/// Command numbers of bpf(2).
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// The parts of `union bpf_attr` that the commands read.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`: what all links have, and the first word of what cgroups' and namespaces' have.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    /// The link's own number, until the machine boots again.
    pub(super) id: u32,
    /// The number of the program that it runs.
    pub(super) program: u32,
    hole: u32,
    /// The cgroup's id, or the namespace's inode and the attach type.
    target: [u32; 2],
}

impl LinkInfo {
    /// Whether it is attached to anything. Of a namespace's or a device's link the second word is its attach type, which stays.
    pub(super) fn is_attached(&self) -> bool {
        const NETNS: u32 = 5;
        const TCX: u32 = 11;
        match self.kind {
            // A device's index, and the attach type.
            NETNS | TCX => self.target[0] != 0,
            _ => self.target != [0, 0],
        }
    }
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of the link that is pinned at `pin`, and returns the link. `None`: there is no such pin, or what
/// it was attached to is gone (then the pin is removed).
pub(super) fn replace(pin: &Path, program: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link = open(pin)?;
    match update(link.as_fd(), program) {
        Ok(()) => Ok(Some(link)),
        // The cgroup or network namespace has died, or the link was detached; it stands for nothing.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            remove(pin)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Has a link run this program from now on.
pub(super) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let update = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &update).map(drop)
}

/// Takes a link off what it is attached to, whoever else holds it.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // One descriptor and nothing else, as `BPF_LINK_DETACH` reads it.
    bpf(BPF_LINK_DETACH, &(link.as_raw_fd() as u32)).map(drop)
}

/// What the kernel says of a link.
pub(super) fn info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let get = InfoByFd {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &get)?;
    Ok(info)
}

/// Pins a link that is held.
pub(super) fn pin_again(link: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    remove(pin)?;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let put = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: link.as_raw_fd() as u32, file_flags: 0 };
    bpf(BPF_OBJ_PIN, &put).map(drop)
}

/// Opens a pinned link.
pub(super) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the command just returned this descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer is to a live value of the size that is passed, laid out as the command wants it; the path
    // inside `ObjGet` and the structure that `InfoByFd` names outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Pins a fresh link, and returns it.
pub(super) fn pin(link: FdLink, at: &Path) -> io::Result<OwnedFd> {
    link.pin(at).map_err(io::Error::other)?;
    open(at)
}

/// Removes a pin, and with it the hook. A pin that is not there is no error.
pub(super) fn remove(pin: &Path) -> io::Result<()> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
