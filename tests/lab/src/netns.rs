//! Named network namespaces, as `ip netns` makes them: a file in `/run/netns` with the namespace mounted on it.
//!
//! A namespace is made by a thread of its own, which ends afterwards: no thread of the test ever changes its namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::{LOOPBACK, Netlink};
use crate::place::NETNS_DIR;

/// A network namespace that the lab made.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
    fd: OwnedFd,
}

impl Netns {
    /// Makes a namespace with its loopback up, writes `sysctls` (below `/proc/sys/net`, those that this kernel has),
    /// and runs `setup` inside with a route socket of the new namespace.
    pub(crate) fn create<T: Send>(
        name: &str,
        sysctls: &[(&str, &str)],
        setup: impl FnOnce(BorrowedFd<'_>, &mut Netlink) -> Result<T> + Send,
    ) -> Result<(Self, T)> {
        let path = Path::new(NETNS_DIR).join(name);
        let make = || -> Result<(Self, T)> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
            let fd: OwnedFd = File::open("/proc/thread-self/ns/net")?.into();
            File::options().write(true).create_new(true).open(&path)?;
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)
                .context("mount the namespace")?;
            for (key, value) in sysctls {
                set_sysctl(key, value)?;
            }
            let mut netlink = Netlink::open()?;
            netlink.set_up(LOOPBACK)?;
            let made = setup(fd.as_fd(), &mut netlink)?;
            Ok((Self { name: name.to_owned(), fd }, made))
        };
        in_own_thread(make).with_context(|| format!("make network namespace {name}"))
    }

    /// Its name for `ip netns exec`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// The namespace opened.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs `inside` on a thread of its own in the namespace.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        in_netns(self.fd(), inside).with_context(|| format!("in {}", self.name))
    }

    /// Takes the name away; the namespace itself goes with its last process and socket.
    pub(crate) fn unname(&self) -> Result<()> {
        remove(&self.path())
    }
}

/// Unmounts and removes one file of `/run/netns`.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Nothing mounted on it, or no such file.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", path.display())),
    }
}

/// Runs `inside` on a thread of its own in a network namespace.
pub(crate) fn in_netns<T: Send>(netns: BorrowedFd<'_>, inside: impl FnOnce() -> T + Send) -> Result<T> {
    in_own_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        Ok(inside())
    })
}

fn in_own_thread<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(run)
            .join()
            .unwrap_or_else(|panic| Err(anyhow!("a thread panicked: {}", crate::row::message(&*panic))))
    })
}

/// Writes a sysctl of the calling thread's namespace; one that this kernel does not have is passed over.
fn set_sysctl(key: &str, value: &str) -> Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(key), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("set net/{key} to {value}")),
    }
}

/// Makes `/run/netns` a mount of its own that is shared with other mount namespaces, as `ip netns add` does: a name taken
/// away here then goes everywhere.
pub(crate) fn prepare_directory() -> Result<()> {
    fs::create_dir_all(NETNS_DIR).context("make /run/netns")?;
    // Two labs that start at once must not mount it twice; `ip` takes the same lock.
    let directory = File::open(NETNS_DIR)?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("lock /run/netns")?;
    let none: Option<&str> = None;
    let shared = || mount(none, NETNS_DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if shared().is_ok() {
        return Ok(());
    }
    mount(Some(NETNS_DIR), NETNS_DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context("mount /run/netns on itself")?;
    shared().context("share /run/netns")
}
