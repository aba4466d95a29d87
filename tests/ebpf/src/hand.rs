//! Hands: processes in the lab's cgroups and namespaces that open and connect sockets for a test.
//!
//! The cgroup hooks that run for a socket are those of the cgroup it was opened in, its namespace is that of the thread
//! that opened it, and `current` in connect(2) is whoever calls: three different things, and the rows are about their
//! differences. So a hand opens the socket, hands it over (`SCM_RIGHTS`), and connects it only if the row wants that the
//! pod's process does; binding, listening, accepting and looking are the test's own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Command, Lab, Pod, Process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};
use socket2::{Domain, Protocol, Socket, Type};

use crate::channel::{self, Answer, Request};
use crate::family::Family;

/// How long a connect may take that is neither refused nor answered; a hand's answer takes no longer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that does what it is asked to. It ends with this handle.
#[derive(Debug)]
pub struct Hand {
    process: Process,
    channel: OwnedFd,
}

impl Hand {
    /// In a pod: its cgroup and its namespace.
    pub fn in_pod(lab: &Lab, pod: &Pod) -> Result<Self> {
        Self::start(lab, |arguments| pod.command(arguments))
    }

    /// In a pod's namespace, in a cgroup of the node's (`nsenter` on the node).
    pub fn in_namespace_only(lab: &Lab, pod: &Pod) -> Result<Self> {
        Self::start(lab, |arguments| pod.run_in_namespace_only(arguments))
    }

    /// On the node, outside of every pod.
    pub fn on_node(lab: &Lab, node: &str) -> Result<Self> {
        let node = lab.node(node);
        Self::start(lab, |arguments| node.command(arguments))
    }

    /// On the node, in a cgroup of its own below the node's, as a service of the host's.
    pub fn on_node_in(lab: &Lab, node: &str, cgroup: &str) -> Result<Self> {
        let node = lab.node(node);
        let cgroup = node.cgroup().child(cgroup)?;
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.path().display());
        Self::start(lab, |[program, socket]| {
            let words = ["sh".into(), "-c".into(), enter, "sh".into()].map(PathBuf::from);
            node.command(words.into_iter().chain([program, socket]))
        })
    }

    fn start(lab: &Lab, command: impl FnOnce([PathBuf; 2]) -> Result<Command>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = lab.place().dir().join(format!("hand-{number}.sock"));
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
        listen(&listener, Backlog::new(1)?)?;
        let process = command([lab::binary("weft-ebpf-hand")?, path])?.spawn()?;
        if !readable(&listener, ANSWER_TIMEOUT) {
            bail!("it does not come: {}", process.failure_report());
        }
        let channel = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok(Self { process, channel: unsafe { OwnedFd::from_raw_fd(channel) } })
    }

    /// Id of the cgroup that it is in, as `bpf_get_current_cgroup_id` has it.
    pub fn cgroup_id(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", self.process.pid()))?;
        let below = text
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("it is in no cgroup of cgroup2")?;
        Ok(lab::cgroup::Cgroup::at(lab::cgroup::mount_point()?.join(below)).id()?)
    }

    /// Lets it go to another network namespace, by its file.
    pub fn enter(&self, netns: &Path) -> Result<()> {
        let (errno, _) = self.ask(&Request::Enter(netns.to_owned()), None)?;
        errno_to_result(errno).context("enter a namespace")
    }

    /// Lets it open a socket. The inner error is socket(2)'s.
    pub fn open(&self, domain: Domain, kind: Type, protocol: Option<Protocol>) -> Result<io::Result<Socket>> {
        let protocol = protocol.map_or(0, i32::from);
        let request = Request::Open { domain: domain.into(), kind: kind.into(), protocol };
        let (errno, socket) = self.ask(&request, None)?;
        if errno != 0 {
            return Ok(Err(io::Error::from_raw_os_error(errno)));
        }
        let socket = Socket::from(socket.context("an answer without a socket")?);
        socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        Ok(Ok(socket))
    }

    /// Lets it open a TCP socket.
    pub fn tcp(&self, family: Family) -> Result<Socket> {
        Ok(self.open(family.domain(), Type::STREAM, None)??)
    }

    /// Lets it open a UDP socket.
    pub fn udp(&self, family: Family) -> Result<Socket> {
        Ok(self.open(family.domain(), Type::DGRAM, None)??)
    }

    /// Lets it connect a socket, whoever opened that. The inner error is connect(2)'s.
    pub fn connect(&self, socket: &Socket, to: SocketAddr) -> Result<io::Result<()>> {
        let (errno, _) = self.ask(&Request::Connect(to), Some(socket))?;
        Ok(errno_to_result(errno))
    }

    /// Lets it open and connect a TCP socket. The inner error is connect(2)'s.
    pub fn dial(&self, to: SocketAddr) -> Result<io::Result<Socket>> {
        let socket = self.open(Domain::for_address(to), Type::STREAM, None)??;
        Ok(self.connect(&socket, to)?.map(|()| socket))
    }

    fn ask(&self, request: &Request, along: Option<&Socket>) -> Result<(i32, Option<OwnedFd>)> {
        channel::send(self.channel.as_fd(), request, along.map(AsFd::as_fd))?;
        if !readable(&self.channel, ANSWER_TIMEOUT) {
            bail!("no answer to {request:?}: {}", self.process.failure_report());
        }
        let answer = channel::receive::<Answer>(&self.channel)?;
        let (answer, socket) =
            answer.with_context(|| format!("{request:?} was its end: {}", self.process.failure_report()))?;
        Ok((answer.errno, socket))
    }
}

fn errno_to_result(errno: i32) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Waits until there is something to read or accept.
pub(crate) fn readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let wait = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], wait).is_ok_and(|ready| ready > 0)
}
