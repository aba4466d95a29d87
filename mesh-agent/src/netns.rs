//! A network namespace: held open, identified by the kernel's cookie, entered for the making of a socket.
//!
//! A socket belongs to the namespace of the thread that makes it, for ever; so entering is short, synchronous and
//! without await. If a thread cannot be brought back the process ends: a worker in a pod's namespace would leak
//! one pod's traffic into another's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, Weak};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

mod big_segments;
mod delivery_route;
mod devices;
mod diag;
mod host_route;

pub use big_segments::BigSegments;
pub use delivery_route::DeliveryRoute;
pub use devices::{Device, HostDevices};
pub use diag::{Diag, TcpSocket};
pub use host_route::way_to;

/// A network namespace, kept alive by the open descriptor.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    cookie: u64,
    /// Who keeps the route for IPv6 deliveries. Held while it is made or taken away.
    route: Mutex<Weak<DeliveryRoute>>,
    /// Who keeps large segments on `lo`. Held while they are set or put back.
    segments: Mutex<Weak<BigSegments>>,
    /// It was said that `somaxconn` is low here.
    backlog_named: AtomicBool,
}

/// The agent's own namespace, in which every thread of it begins. Opened once, when there are descriptors; a failure is not
/// kept.
static HOME: OnceLock<OwnedFd> = OnceLock::new();

impl Netns {
    /// Opens a namespace by its file (`/proc/PID/ns/net`, `/run/netns/NAME`).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OwnedFd::from(File::open(path)?);
        let cookie = within(file.as_fd(), || {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
            cookie_of(&socket)
        })?;
        Ok(Self {
            file,
            cookie,
            route: Mutex::default(),
            segments: Mutex::default(),
            backlog_named: AtomicBool::new(false),
        })
    }

    /// The cookie that the kernel's hooks see (`SO_NETNS_COOKIE`, Linux 5.14).
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The inode of its file: as `stat` says of `/proc/PID/ns/net` of whoever lives in it.
    pub fn inode(&self) -> io::Result<u64> {
        nix::sys::stat::fstat(&self.file).map(|stat| stat.st_ino).map_err(Into::into)
    }

    /// Whether IPv6 deliveries can come from 100::/64 here.
    pub fn has_delivery_route(&self) -> bool {
        self.route.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    /// Whether the namespace's low `somaxconn` is to be named now: true once.
    pub fn name_backlog(&self) -> bool {
        !self.backlog_named.swap(true, Ordering::Relaxed)
    }

    /// Runs `make` inside the namespace, on this thread. `make` must not block.
    pub fn within<T>(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        within(self.file.as_fd(), make)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn within<T>(namespace: BorrowedFd<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = home()?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let made = make();
    if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
        tracing::error!(%error, "cannot return to the agent's network namespace; the process ends");
        std::process::abort();
    }
    made
}

fn home() -> io::Result<&'static OwnedFd> {
    if let Some(home) = HOME.get() {
        return Ok(home);
    }
    // Only a thread that is at home gets here: the first entry into another namespace waits for this.
    let opened = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
    Ok(HOME.get_or_init(|| opened))
}

fn cookie_of(socket: &Socket) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `size` says how large the first one is.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
