//! A socket goes from one process to another over a unix socket (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::{Domain, Socket, Type};

/// Opens a TCP socket here and hands it to the first who comes.
pub(super) fn over(at: &Path, v6: bool) -> Result<()> {
    let socket = Socket::new(if v6 { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None)?;
    let listener = UnixListener::bind(at)?;
    let (visitor, _) = listener.accept()?;
    let descriptors = [socket.as_raw_fd()];
    let along = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(visitor.as_raw_fd(), &[IoSlice::new(b"s")], &along, MsgFlags::empty(), None)?;
    println!("{{}}");
    Ok(())
}

/// Fetches a socket.
pub(super) fn receive(from: &Path) -> io::Result<Socket> {
    let mut tries = 0;
    let channel = loop {
        match UnixStream::connect(from) {
            Ok(channel) => break channel,
            // It may not be there yet.
            Err(_) if tries < 2_000 => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
        tries += 1;
    };
    let mut byte = [0];
    let mut room = nix::cmsg_space!(RawFd);
    let mut into = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut into, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just installed them for this call, and nobody else owns them.
            let mut sockets = descriptors.into_iter().map(|fd| unsafe { super::dial::own(fd) });
            if let Some(socket) = sockets.next() {
                return Ok(socket);
            }
        }
    }
    Err(io::Error::other("no socket came along"))
}
