//! Dialling in every way that a program has.
//!
//! ```text
//! move to a cgroup ─▶ socket (made here or handed over) ─▶ bind ─▶ wait ─▶ connect elsewhere, AF_UNSPEC ─▶ connect ─▶ say, hear
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{hand, uring};

/// Values of linux/tcp.h and linux/socket.h that libc lacks on some targets.
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_OFF_NO_WP: i32 = -1;
const AF_SMC: i32 = 43;
const IPPROTO_SCTP: i32 = 132;

/// How the connection is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// connect(2).
    Plain,
    /// sendto(2) with MSG_FASTOPEN: data and SYN in one call.
    Fastopen,
    /// TCP_FASTOPEN_CONNECT: the SYN goes with the first write.
    FastopenConnect,
    /// A socket of IPPROTO_MPTCP.
    Mptcp,
    /// An IPv4 destination as `::ffff:a.b.c.d` on an IPv6 socket.
    Mapped,
    /// io_uring's connect.
    Uring,
    /// The same, submitted by a kernel thread.
    UringSqpoll,
    /// A socket under TCP_REPAIR is connected without a handshake.
    Repair,
    /// A socket of AF_SMC, which falls back to TCP.
    Smc,
    /// SCTP.
    Sctp,
}

#[derive(Debug, Args)]
pub(super) struct Dial {
    to: SocketAddr,
    #[arg(long, value_enum, default_value = "plain")]
    how: How,
    /// What is said after the connect, as a line.
    #[arg(long, default_value = "")]
    say: String,
    /// Move to this cgroup before anything else; `./NAME` is a new one below the own.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Bind the socket here.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Connect there first, and then AF_UNSPEC.
    #[arg(long)]
    first: Option<SocketAddr>,
    /// Between socket and connect, wait until this file is there; the file with `.ready` says that it waits.
    #[arg(long)]
    after: Option<PathBuf>,
    /// The socket comes from a unix socket (`hand-over`).
    #[arg(long)]
    inherit: Option<PathBuf>,
    /// End with a RST, so that the port can be used again at once.
    #[arg(long)]
    reset: bool,
    /// How long each step may take.
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

/// The step that failed, and how.
type Failed = (&'static str, io::Error);

trait Step<T> {
    fn step(self, name: &'static str) -> Result<T, Failed>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, name: &'static str) -> Result<T, Failed> {
        self.map_err(|error| (name, error))
    }
}

impl Dial {
    pub(super) fn run(&self) -> Result<()> {
        if let Some(cgroup) = &self.cgroup {
            enter_cgroup(cgroup)?;
        }
        let said = match self.attempt() {
            Ok(heard) => json!({ "failed": null, "errno": null, "heard": heard }),
            Err((step, error)) => json!({ "failed": step, "errno": word(&error), "heard": "" }),
        };
        println!("{said}");
        Ok(())
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn attempt(&self) -> Result<String, Failed> {
        let socket = self.open().step("socket")?;
        socket.set_read_timeout(Some(self.timeout())).step("option")?;
        socket.set_write_timeout(Some(self.timeout())).step("option")?;
        if self.reset {
            socket.set_linger(Some(Duration::ZERO)).step("option")?;
        }
        if let Some(at) = self.bind {
            socket.set_reuse_address(true).step("option")?;
            // Also addresses that this namespace does not have.
            let _only_with_rights = socket.set_freebind_v4(true);
            socket.bind(&at.into()).step("bind")?;
        }
        if let Some(file) = &self.after {
            wait_for(file).step("wait")?;
        }
        if let Some(elsewhere) = self.first {
            socket.connect(&elsewhere.into()).step("first connect")?;
            disconnect(&socket).step("AF_UNSPEC")?;
        }
        let line = format!("{}\n", self.say);
        let sent = self.connect(&socket, line.as_bytes())?;
        let mut stream = TcpStream::from(OwnedFd::from(socket));
        stream.write_all(&line.as_bytes()[sent..]).step("write")?;
        let mut heard = String::new();
        let mut byte = [0];
        // To the end of a line, or of the stream.
        while stream.read(&mut byte).step("read")? == 1 && byte[0] != b'\n' {
            heard.push(char::from(byte[0]));
        }
        Ok(heard)
    }

    fn open(&self) -> io::Result<Socket> {
        if let Some(path) = &self.inherit {
            return hand::receive(path);
        }
        let domain = match self.how {
            How::Mapped => Domain::IPV6,
            How::Smc => Domain::from(AF_SMC),
            _ => Domain::for_address(self.to),
        };
        let protocol = match self.how {
            How::Mptcp => Some(Protocol::MPTCP),
            How::Sctp => Some(Protocol::from(IPPROTO_SCTP)),
            How::Smc => Some(Protocol::from(i32::from(self.to.is_ipv6()))),
            _ => None,
        };
        Socket::new(domain, Type::STREAM, protocol)
    }

    /// Returns how much of `line` has gone with the SYN.
    fn connect(&self, socket: &Socket, line: &[u8]) -> Result<usize, Failed> {
        let to = match (self.how, self.to.ip()) {
            (How::Mapped, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), self.to.port()),
            _ => self.to,
        };
        let to = SockAddr::from(to);
        match self.how {
            How::Fastopen => socket.send_to_with_flags(line, &to, libc::MSG_FASTOPEN).step("connect"),
            How::FastopenConnect => {
                option(socket, TCP_FASTOPEN_CONNECT, 1).step("option")?;
                socket.connect(&to).step("connect").map(|()| 0)
            }
            How::Uring => uring::connect(socket, &to, false).step("connect").map(|()| 0),
            How::UringSqpoll => uring::connect(socket, &to, true).step("connect").map(|()| 0),
            How::Repair => {
                option(socket, TCP_REPAIR, 1).step("option")?;
                socket.connect(&to).step("connect")?;
                option(socket, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP).step("option")?;
                Ok(0)
            }
            How::Plain | How::Mptcp | How::Mapped | How::Smc | How::Sctp => {
                socket.connect(&to).step("connect").map(|()| 0)
            }
        }
    }
}

/// The name of an error as errno(3) has it, for those that a connection can end with.
fn word(error: &io::Error) -> String {
    let names = [
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ECONNRESET, "ECONNRESET"),
        (libc::EPIPE, "EPIPE"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::EINPROGRESS, "EINPROGRESS"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EADDRINUSE, "EADDRINUSE"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"),
    ];
    let name = names.iter().find(|(code, _)| error.raw_os_error() == Some(*code));
    name.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

fn option(socket: &Socket, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer is to a live local of the size that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn disconnect(socket: &Socket) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the pointer is to a live local of the size that is passed.
    let result = unsafe {
        libc::connect(socket.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn wait_for(file: &Path) -> io::Result<()> {
    let mut ready = file.as_os_str().to_owned();
    ready.push(".ready");
    std::fs::write(ready, "")?;
    while !file.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn enter_cgroup(cgroup: &Path) -> Result<()> {
    let directory = match cgroup.strip_prefix("./") {
        Ok(name) => {
            let own = std::fs::read_to_string("/proc/self/cgroup")?;
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2")?;
            let below = lab::cgroup::mount_point()?.join(own).join(name);
            std::fs::create_dir_all(&below)?;
            below
        }
        Err(_) => cgroup.to_owned(),
    };
    std::fs::write(directory.join("cgroup.procs"), "0")
        .with_context(|| format!("move to {}", directory.display()))
}

/// A socket that the kernel has just made for this process.
///
/// # Safety
/// `fd` is open and nobody else's.
pub(super) unsafe fn own(fd: i32) -> Socket {
    // SAFETY: the caller's promise.
    Socket::from(unsafe { OwnedFd::from_raw_fd(fd) })
}
