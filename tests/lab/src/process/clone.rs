//! `clone3` into a cgroup, and what the child does before `execve`.
//!
//! The child is a copy of one thread of a process with many: locks of the allocator may be held for ever in it. So it does
//! system calls and nothing else, on memory that the parent prepared; also glibc's `setgroups` and `setuid` are out,
//! which ask the other threads to follow.

use std::ffi::{CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use nix::unistd::Pid;

use super::Prepared;
use crate::netns::in_netns;

/// `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child that nobody has waited for yet, so its pid is its own.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Readable once the child has ended.
    pub(crate) pidfd: OwnedFd,
}

/// Forks the calling thread into `cgroup`; `None` in the child.
///
/// # Safety
/// Until it ends or executes a program, the child may only do what is async-signal-safe.
pub(crate) unsafe fn clone_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Child>> {
    let mut pidfd: c_int = -1;
    // SAFETY: a structure of integers, for which zero is a value (and means "not used").
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the arguments live through the call and name a live descriptor; without CLONE_VM the child runs on its own
    // copy of this stack. What it may do there is our caller's promise.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => {
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows of it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some(Child { pid: Pid::from_raw(pid as i32), pidfd }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where the child failed before its program ran.
const STEPS: [&str; 6] = ["setsid", "set up stdio", "set limits", "change user", "chdir", "execve"];

/// Starts the program; returns once it runs (or could not). The child is born in its network namespace, because the
/// calling thread is there: whoever looks at a pod's processes never finds one that is somewhere else.
pub(super) fn spawn(prepared: &Prepared) -> Result<Child> {
    match &prepared.netns {
        Some(netns) => in_netns(netns.as_fd(), || spawn_here(prepared))?,
        None => spawn_here(prepared),
    }
}

fn spawn_here(prepared: &Prepared) -> Result<Child> {
    let arguments = pointers(&prepared.arguments);
    let environment = pointers(&prepared.environment);
    let (told, tell) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let tell_fd = tell.as_raw_fd();
    let cgroup = prepared.cgroup.as_ref().map(AsFd::as_fd);
    // SAFETY: the child calls `become_program` alone, which does system calls on prepared memory and never returns.
    let child = match unsafe { clone_into(cgroup) }.context("clone3 into the cgroup")? {
        Some(child) => child,
        None => become_program(prepared, &arguments, &environment, tell_fd),
    };
    drop(tell);
    let mut report = [0_u8; 8];
    let count = loop {
        match nix::unistd::read(&told, &mut report) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    if count == 0 {
        return Ok(child);
    }
    // The child ends by itself after its report.
    let _ = nix::sys::wait::waitpid(child.pid, None);
    let [step, code] = [0, 4]
        .map(|at: usize| i32::from_ne_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]));
    let step = STEPS.get(step as usize).copied().unwrap_or("start");
    Err(io::Error::from_raw_os_error(code)).with_context(|| anyhow!("{step} failed"))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The child's half. Never returns, never allocates, never takes a lock.
fn become_program(
    prepared: &Prepared,
    arguments: &[*const c_char],
    environment: &[*const c_char],
    tell: c_int,
) -> ! {
    let (step, code) = first_failure(prepared, arguments, environment);
    let mut report = [0_u8; 8];
    report[..4].copy_from_slice(&step.to_ne_bytes());
    report[4..].copy_from_slice(&code.to_ne_bytes());
    // SAFETY: `report` is eight bytes long; `_exit` runs no handlers of the copied process.
    unsafe {
        libc::write(tell, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Does the steps in order; returns at the first that fails, with its number and errno.
fn first_failure(
    prepared: &Prepared,
    arguments: &[*const c_char],
    environment: &[*const c_char],
) -> (i32, i32) {
    // SAFETY: all pointers are into memory that the parent prepared and this copy of it keeps; the arrays end with null.
    // All calls are plain system calls.
    unsafe {
        if libc::setsid() < 0 {
            return (0, errno());
        }
        if let Err(code) = arrange_stdio(prepared.stdio_fds()) {
            return (1, code);
        }
        reset_signals();
        if let Some((soft, hard)) = prepared.open_files {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
                return (2, errno());
            }
        }
        if let Some((user, group)) = prepared.ids {
            let none: *const libc::gid_t = std::ptr::null();
            if libc::syscall(libc::SYS_setgroups, 0, none) < 0
                || libc::syscall(libc::SYS_setresgid, group, group, group) < 0
                || libc::syscall(libc::SYS_setresuid, user, user, user) < 0
            {
                return (3, errno());
            }
        }
        if libc::chdir(prepared.directory.as_ptr()) < 0 {
            return (4, errno());
        }
        libc::execve(prepared.program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        (5, errno())
    }
}

/// Copies the three descriptors to 0, 1 and 2. They are above 2 in any process whose own stdio is open; where one is not,
/// it is first moved out of the way.
fn arrange_stdio(mut fds: [c_int; 3]) -> Result<(), c_int> {
    // SAFETY: fcntl and dup2 on integers; no memory is involved.
    unsafe {
        for fd in &mut fds {
            if *fd <= 2 {
                *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 3);
                if *fd < 0 {
                    return Err(errno());
                }
            }
        }
        for (target, fd) in fds.into_iter().enumerate() {
            if libc::dup2(fd, target as c_int) < 0 {
                return Err(errno());
            }
        }
    }
    Ok(())
}

/// Rust ignores SIGPIPE, and what is ignored stays so over execve; masks stay too.
fn reset_signals() {
    // SAFETY: a zeroed set is what sigemptyset makes of it; both calls only read and write it.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// `errno` of the last call, without `io::Error` (which may allocate).
fn errno() -> c_int {
    // SAFETY: the thread-local errno, which the copied thread has too.
    unsafe { *libc::__errno_location() }
}

/// Sends a signal to a process that was not waited for.
pub(super) fn signal(child: &Child, signal: c_int) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a live pidfd of ours, and no siginfo (pidfd_send_signal(2) allows null).
    let result: c_long =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, child.pidfd.as_raw_fd(), signal, info, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
