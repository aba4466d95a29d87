//! The words between a test and its hands, each one message of a sequenced-packet socket with at most one descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest message.
const ROOM: usize = 4096;

/// What a hand is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Go to this network namespace; the cgroup stays.
    Enter(PathBuf),
    /// socket(2), with its numbers. The answer carries the socket.
    Open {
        /// AF_INET or AF_INET6.
        domain: i32,
        /// SOCK_STREAM or SOCK_DGRAM.
        kind: i32,
        /// 0, or IPPROTO_MPTCP.
        protocol: i32,
    },
    /// connect(2) with the socket that comes along.
    Connect(SocketAddr),
}

/// What came of it: `errno`, 0 for success.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// As errno(3) has it.
    pub errno: i32,
}

/// Sends a word.
pub fn send(to: BorrowedFd<'_>, word: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let bytes = serde_json::to_vec(word)?;
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
        .context("send to the other end")?;
    Ok(())
}

/// Receives a word; `None` once the other end is gone.
pub fn receive<T: DeserializeOwned>(from: &impl AsFd) -> Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = [0_u8; ROOM];
    let mut room = nix::cmsg_space!(RawFd);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_fd().as_raw_fd(), &mut into, Some(&mut room), flags)
        .context("receive from the other end")?;
    let mut descriptor = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just installed these descriptors for this call; nobody else owns them.
            descriptor = received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next();
        }
    }
    let length = message.bytes;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..length])?, descriptor)))
}
