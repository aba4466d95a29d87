//! Attached programs, as somebody with root can take them away: detached, unpinned, replaced.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use lab::Node;

/// Command numbers of bpf(2).
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// What is read of `struct bpf_link_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Info {
    kind: u32,
    /// The link's number.
    pub id: u32,
    /// Its program's number.
    pub program: u32,
    hole: u32,
    /// A cgroup's id; or a namespace's inode, and something that stays.
    target: [u32; 2],
}

impl Info {
    /// Whether it runs anywhere.
    pub fn is_attached(&self) -> bool {
        self.target[0] != 0
    }
}

/// Takes a link off its cgroup or namespace with bpftool; the pin stays.
pub fn detach(node: &Node, pin: &Path) -> Result<()> {
    let pin = pin.to_str().context("a pin's path")?;
    node.command(["bpftool", "link", "detach", "pinned", pin])?.run()?.ok()?;
    Ok(())
}

/// What the kernel says of a pinned link.
pub fn info(pin: &Path) -> Result<Info> {
    let link = open(pin)?;
    let mut info = Info::default();
    let address = (&raw mut info) as u64;
    let attr = [u64::from(link.as_raw_fd() as u32) | (size_of::<Info>() as u64) << 32, address];
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr).context("ask for a link")?;
    Ok(info)
}

/// Has a pinned link run the program of another one of the same kind.
pub fn replace(pin: &Path, with_program_of: &Path) -> Result<()> {
    let link = open(pin)?;
    let id = info(with_program_of)?.program;
    let program = owned(bpf(BPF_PROG_GET_FD_BY_ID, &[u64::from(id), 0]).context("open a program")?);
    let attr = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    bpf(BPF_LINK_UPDATE, &attr).context("replace a program")?;
    Ok(())
}

fn open(pin: &Path) -> Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let fd =
        bpf(BPF_OBJ_GET, &[path.as_ptr() as u64, 0]).with_context(|| format!("open {}", pin.display()))?;
    Ok(owned(fd))
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: bpf(2) has just returned this descriptor, which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer is to a live value of the size that is passed; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
