//! Which devices of the host's lead into a pod, seen from the host: what a pod says of its own devices does not count.
//!
//! ```text
//! host: dump of links ─▶ veth, peer in namespace number N ── number of the pod's namespace (RTM_GETNSID) = N ─▶ the pod's
//! pod:  dump of links ─▶ whatever leads out of it otherwise (a moved card, macvlan …) cannot be guarded
//! ```
//!
//! By hand and not through a netlink crate: it is two dumps and one question (rtnetlink(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use super::Netns;

/// linux/net_namespace.h and linux/rtnetlink.h.
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// linux/if_link.h.
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct ifinfomsg`.
const LINK: usize = 16;

/// A device of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index there.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    kind: String,
    /// In which namespace its peer is, by the host's number for that.
    peer: Option<i32>,
    loopback: bool,
}

/// All links of the host, to be asked for many pods.
#[derive(Debug)]
pub struct HostDevices {
    devices: Vec<Device>,
}

impl HostDevices {
    /// Looks at the host.
    pub fn look(host: &Netns) -> io::Result<Self> {
        Ok(Self { devices: dump(host)? })
    }

    /// The devices that lead into a pod, all of them veths; why not, if something else leads out of it, or nothing does.
    pub fn of(&self, host: &Netns, pod: &Netns) -> io::Result<Vec<Device>> {
        if let Some(odd) = dump(pod)?.into_iter().find(|device| !device.stays_inside()) {
            return Err(io::Error::other(format!(
                "its device {} ({}) is no veth: what leaves through it cannot be seen",
                odd.name, odd.kind
            )));
        }
        let number = host.within(|| number_of(pod))?;
        let own = self.devices.iter().filter(|device| device.peer == Some(number) && number >= 0);
        let own: Vec<Device> = own.cloned().collect();
        match own.iter().find(|device| device.kind != "veth") {
            Some(odd) => {
                Err(io::Error::other(format!("the host's device {} is a {}, not a veth", odd.name, odd.kind)))
            }
            None if own.is_empty() => Err(io::Error::other("no device of the host's leads into it")),
            None => Ok(own),
        }
    }
}

impl Device {
    /// What leaves a pod through it passes a veth, or does not leave.
    fn stays_inside(&self) -> bool {
        let has_far_end = self.peer.is_some();
        match self.kind.as_str() {
            "veth" => true,
            // A card that was moved into the pod has no kind.
            "" => self.loopback,
            _ => !has_far_end,
        }
    }
}

fn dump(netns: &Netns) -> io::Result<Vec<Device>> {
    netns.within(|| {
        let socket = open()?;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        ask(&socket, libc::RTM_GETLINK, flags, &[0; LINK])?;
        let mut found = Vec::new();
        let mut room = vec![0; 64 << 10];
        // The kernel fills one datagram a call: nothing is waited for.
        loop {
            let count = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty())?;
            for (kind, body) in messages(room.get(..count).unwrap_or_default()) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(found),
                    libc::NLMSG_ERROR => return Err(failure(body)),
                    _ => found.extend(read_link(body)),
                }
            }
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    })
}

/// The number that the namespace of this thread has for another; negative: none.
fn number_of(pod: &Netns) -> io::Result<i32> {
    let socket = open()?;
    let mut body = vec![0; 4];
    super::delivery_route::attribute(&mut body, NETNSA_FD, &pod.as_fd().as_raw_fd().to_ne_bytes());
    ask(&socket, RTM_GETNSID, libc::NLM_F_REQUEST as u16, &body)?;
    let mut room = [0; 1024];
    let count = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty())?;
    let answer = room.get(..count).unwrap_or_default();
    match messages(answer).next() {
        Some((kind, body)) if i32::from(kind) == libc::NLMSG_ERROR => Err(failure(body)),
        Some((_, body)) => {
            let number = attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == NETNSA_NSID);
            Ok(number.and_then(|(_, value)| word(value)).map_or(-1, |word| word as i32))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

pub(super) fn open() -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers; the result is checked before it becomes an OwnedFd, which alone owns it.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

pub(super) fn ask(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request at a time.
    bytes.extend([0; 8]);
    bytes.extend(body);
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    Ok(())
}

pub(super) fn failure(body: &[u8]) -> io::Error {
    match word(body) {
        Some(code) => io::Error::from_raw_os_error((code as i32).saturating_neg()),
        None => io::ErrorKind::UnexpectedEof.into(),
    }
}

pub(super) fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The messages of a datagram: kind and body.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(datagram)? as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Kind and payload of each attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        // The two upper bits say how it is encoded.
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// `struct ifinfomsg` and what follows.
fn read_link(body: &[u8]) -> Option<Device> {
    let index = word(body.get(4..8)?)?;
    let flags = word(body.get(8..12)?)?;
    let mut device = Device {
        index,
        name: String::new(),
        master: None,
        kind: String::new(),
        peer: None,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
    };
    for (kind, payload) in attributes(body.get(LINK..)?) {
        match kind {
            IFLA_IFNAME => device.name = text(payload),
            IFLA_MASTER => device.master = word(payload),
            IFLA_LINK_NETNSID => device.peer = word(payload).map(|number| number as i32),
            IFLA_LINKINFO => {
                let info = attributes(payload).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                device.kind = info.map(|(_, kind)| text(kind)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(device)
}
