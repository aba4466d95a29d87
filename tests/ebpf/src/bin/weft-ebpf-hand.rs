//! `weft-ebpf-hand SOCKET`: does in its place, one after another, what a test asks it to: opens sockets, connects them.
//! What it is for and how it is started is said in `ebpf_tests::hand`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use ebpf_tests::channel::{self, Answer, Request};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, socket};

fn main() -> Result<()> {
    let path: PathBuf = std::env::args_os().nth(1).context("usage: weft-ebpf-hand SOCKET")?.into();
    let channel = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(channel.as_raw_fd(), &UnixAddr::new(&path)?)
        .with_context(|| format!("connect to {}", path.display()))?;
    while let Some((request, descriptor)) = channel::receive::<Request>(&channel)? {
        let (errno, made) = act(request, descriptor)?;
        channel::send(channel.as_fd(), &Answer { errno }, made.as_ref().map(AsFd::as_fd))?;
    }
    Ok(())
}

/// The outer error ends the hand; what a system call says goes back to the test.
fn act(request: Request, descriptor: Option<OwnedFd>) -> Result<(i32, Option<OwnedFd>)> {
    match (request, descriptor) {
        (Request::Enter(path), _) => {
            let netns = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            setns(netns, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))?;
            Ok((0, None))
        }
        (Request::Open { domain, kind, protocol }, _) => {
            // SAFETY: a system call on integers.
            let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
            if fd < 0 {
                return Ok((nix::errno::Errno::last_raw(), None));
            }
            // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
            Ok((0, Some(unsafe { OwnedFd::from_raw_fd(fd) })))
        }
        (Request::Connect(to), Some(socket)) => {
            let result = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
            Ok((result.err().map_or(0, |errno| errno as i32), None))
        }
        (Request::Connect(_), None) => bail!("a connect without a socket"),
    }
}
