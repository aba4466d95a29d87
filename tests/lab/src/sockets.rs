//! Sockets that belong to a pod in the hands of a test.
//!
//! A socket is the pod's when it was opened in the pod's cgroup and in its network namespace. A thread can enter the
//! namespace but not the cgroup, so the socket is opened by a forked child that is in both, and handed over
//! (`SCM_RIGHTS`). The child also connects: hooks that look at the current process see the pod's.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, recvmsg, socketpair,
};

use crate::netns::in_netns;
use crate::process::{Child, clone_into};

/// What the child is to do with the new socket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// connect(2), giving up after so long.
    Connect(Duration),
    /// bind(2) with SO_REUSEADDR and listen(2).
    Listen,
}

/// Opens a TCP socket in a pod. The outer error means that the lab failed, the inner one is connect(2)'s or bind(2)'s.
pub(crate) fn open(
    cgroup: BorrowedFd<'_>,
    netns: BorrowedFd<'_>,
    address: SocketAddr,
    task: Task,
) -> Result<io::Result<OwnedFd>> {
    let storage = SockaddrStorage::from(address);
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let theirs_fd = theirs.as_raw_fd();
    // SAFETY: the child calls `serve` alone, which does system calls on prepared memory and never returns.
    let fork = || match unsafe { clone_into(Some(cgroup)) } {
        Ok(None) => serve(theirs_fd, &storage, task),
        other => other,
    };
    let child = in_netns(netns, fork)?.context("clone3 into the pod's cgroup")?.context("a child")?;
    drop(theirs);
    let deadline = match task {
        Task::Connect(timeout) => timeout + Duration::from_secs(5),
        Task::Listen => Duration::from_secs(5),
    };
    let answer = receive(ours.as_fd(), deadline);
    reap(&child);
    answer.context("a socket from the pod")
}

fn receive(from: BorrowedFd<'_>, deadline: Duration) -> Result<io::Result<OwnedFd>> {
    let wait = PollTimeout::try_from(deadline).unwrap_or(PollTimeout::MAX);
    // Interrupted: recvmsg waits, and the child ends by its own timeout.
    let _ = poll(&mut [PollFd::new(from, PollFlags::POLLIN)], wait);
    let mut code = [0_u8; 4];
    let mut room = nix::cmsg_space!(RawFd);
    let mut into = [io::IoSliceMut::new(&mut code)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut into, Some(&mut room), flags)?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just installed these descriptors for this call; nobody else owns them.
            received = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next();
        }
    }
    Ok(match received {
        Some(socket) => Ok(socket),
        None => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code))),
    })
}

fn reap(child: &Child) {
    // SAFETY: kills and waits for a child that nobody else waits for; null status is allowed.
    unsafe {
        libc::kill(child.pid.as_raw(), libc::SIGKILL);
        libc::waitpid(child.pid.as_raw(), std::ptr::null_mut(), 0);
    }
}

/// The child's half: system calls only.
fn serve(answer: RawFd, address: &SockaddrStorage, task: Task) -> ! {
    // SAFETY: all pointers are to locals or to the parent's prepared values, of the lengths given; the one descriptor
    // needed is moved to 3 and everything else is closed, so that this copy of the test process keeps no pipe of another
    // child open; the control buffer is sized and aligned for one descriptor.
    unsafe {
        libc::dup2(answer, 3);
        let answer = 3;
        libc::syscall(libc::SYS_close_range, 0, 2, 0);
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        let (code, socket) = match make(address, task) {
            Ok(socket) => (0, socket),
            Err(code) => (code, -1),
        };
        send(answer, code, socket);
        libc::_exit(0)
    }
}

/// # Safety
/// In the child of [`clone_into`], born in the pod's namespace.
unsafe fn make(address: &SockaddrStorage, task: Task) -> Result<RawFd, i32> {
    use nix::sys::socket::SockaddrLike;
    let check = |result: i32| if result < 0 { Err(errno()) } else { Ok(result) };
    // SAFETY: pointers and lengths are of the values beside them, which live through the calls.
    unsafe {
        let family = (*address.as_ptr()).sa_family;
        let socket = check(libc::socket(family.into(), libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        match task {
            Task::Connect(timeout) => {
                let limit = libc::timeval {
                    tv_sec: timeout.as_secs() as libc::time_t,
                    tv_usec: libc::suseconds_t::from(timeout.subsec_micros()),
                };
                option(socket, libc::SO_SNDTIMEO, &limit)?;
                check(libc::connect(socket, address.as_ptr(), address.len()))?;
                // What is for the connect is not for later sends.
                option(socket, libc::SO_SNDTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 0 })?;
            }
            Task::Listen => {
                option(socket, libc::SO_REUSEADDR, &1_i32)?;
                check(libc::bind(socket, address.as_ptr(), address.len()))?;
                check(libc::listen(socket, 1024))?;
            }
        }
        Ok(socket)
    }
}

/// # Safety
/// `T` is what the option of SOL_SOCKET takes.
unsafe fn option<T>(socket: RawFd, name: i32, value: &T) -> Result<(), i32> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length of one live value.
    let result =
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, name, (&raw const *value).cast(), length) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// # Safety
/// In the child of [`clone_into`]; `to` is open, `socket` is open or negative.
unsafe fn send(to: RawFd, code: i32, socket: RawFd) {
    #[repr(align(8))]
    struct Control([u8; 32]);
    // SAFETY: the message and what it points to are locals; CMSG_SPACE of one descriptor is 24 bytes, below 32.
    unsafe {
        let mut code = code.to_ne_bytes();
        let mut part = libc::iovec { iov_base: code.as_mut_ptr().cast(), iov_len: code.len() };
        let mut control = Control([0; 32]);
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if socket >= 0 {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(socket);
        }
        libc::sendmsg(to, &raw const message, libc::MSG_NOSIGNAL);
    }
}

fn errno() -> i32 {
    // SAFETY: the thread-local errno, which the copied thread has too.
    unsafe { *libc::__errno_location() }
}
