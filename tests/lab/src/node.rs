//! A node: a network namespace with a bridge for its pods and a cgroup that is the root of all it runs.
//!
//! Pods hang on the bridge but have no neighbours there: their addresses are /32 and /128 and everything goes through the
//! node, as with a routed CNI plugin. So kube-proxy's answers come back the way they went also between two pods of one
//! node, without `br_netfilter`.
//!
//! Neighbours are told, not learned (the kernel's tables hold 1,024 learned ones over all namespaces together, fewer than
//! the pods of one test); a test about forged ARP asks for learned ones.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::kubeproxy::SERVICE_RANGES;
use crate::netlink::{End, Netlink, Route, mac_for};
use crate::netns::Netns;
use crate::place::Place;
use crate::process::{Command, Site};
use crate::random;

const BRIDGE: &str = "cni0";
const BRIDGE_INDEX: u32 = 10;
/// The interface between nodes, on every node.
pub(crate) const WIRE: &str = "wire";
const WIRE_INDEX: u32 = 20;
/// The pod with number `n` has index 100 + n on its node.
const FIRST_POD_INDEX: u32 = 100;
/// `eth0` of every pod.
const ETH0_INDEX: u32 = 2;
/// The bridge's own address is number 1.
const FIRST_POD: u16 = 2;

/// Sysctls of a node. Redirects are off because a routed pod would be told to talk to its neighbour directly.
const NODE_SYSCTLS: [(&str, &str); 14] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-arptables", "0"),
    ("ipv4/ip_local_port_range", "32768 60999"),
];

const POD_SYSCTLS: [(&str, &str); 9] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv4/ip_local_port_range", "32768 60999"),
];

/// Which of kubelet's two cgroup drivers a node imitates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// `kubepods/burstable/pod<UID>/<container>`
    #[default]
    Cgroupfs,
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<UID>.slice/cri-containerd-<container>.scope`
    Systemd,
}

/// How a node is to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeWish {
    pub(crate) driver: CgroupDriver,
    pub(crate) learned_neighbours: bool,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    name: String,
    /// 1 for the first: part of all its addresses.
    number: u8,
    driver: CgroupDriver,
    place: Place,
    netns: Netns,
    /// Configures the node's namespace from any thread. One at a time, because answers are matched to requests.
    netlink: Mutex<Netlink>,
    cgroup: Cgroup,
    next_pod: AtomicU16,
    /// The node learns its pods' hardware addresses by ARP and neighbour discovery.
    learned_neighbours: bool,
}

/// Addresses and interface of one pod, as the CNI plugin would have chosen them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attachment {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Option<Ipv6Addr>,
    number: u16,
}

impl Attachment {
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [IpAddr::from(self.v4)].into_iter().chain(self.v6.map(IpAddr::from))
    }
}

impl Node {
    pub(crate) fn create(place: &Place, name: &str, number: u8, wish: NodeWish) -> Result<Self> {
        let v4 = node_v4(number, 1);
        let v6 = node_v6(number, 1);
        let (netns, netlink) = Netns::create(&place.netns(name), &NODE_SYSCTLS, |_, netlink| {
            netlink.add_bridge(BRIDGE, BRIDGE_INDEX, mac_for(v6))?;
            netlink.add_address(BRIDGE_INDEX, v4.into(), 16)?;
            netlink.add_address(BRIDGE_INDEX, v6.into(), 64)?;
            // Any route will do: what is not translated on the way in is refused on the way out.
            for (range, prefix) in SERVICE_RANGES {
                netlink.add_device_route(range, prefix, BRIDGE_INDEX)?;
            }
            Netlink::open()
        })?;
        let cgroup = Cgroup::create(place.cgroup()?.join(name))?;
        for directory in ["pod-logs", "agent-state"] {
            std::fs::create_dir_all(place.node_dir(name).join(directory))?;
        }
        Ok(Self {
            name: name.to_owned(),
            number,
            driver: wish.driver,
            learned_neighbours: wish.learned_neighbours,
            place: place.clone(),
            netns,
            netlink: Mutex::new(netlink),
            cgroup,
            next_pod: AtomicU16::new(FIRST_POD),
        })
    }

    /// Its name, in the API and in `Lab::node`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of its network namespace for `ip netns exec`.
    pub fn netns(&self) -> &str {
        self.netns.name()
    }

    /// File of its network namespace.
    pub fn netns_path(&self) -> PathBuf {
        self.netns.path()
    }

    pub(crate) fn namespace(&self) -> &Netns {
        &self.netns
    }

    /// Its address on the wire between nodes.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.number)
    }

    /// The same for IPv6.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, self.number.into())
    }

    /// The ranges that its pods' addresses are from.
    pub fn pod_ranges(&self) -> [String; 2] {
        [format!("{}/16", node_v4(self.number, 0)), format!("{}/64", node_v6(self.number, 0))]
    }

    /// The root of what runs on the node: the `--cgroup` of its agent.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Where kubelet would have the logs of its pods: the `--pod-logs` of its agent.
    pub fn pod_logs(&self) -> PathBuf {
        self.directory().join("pod-logs")
    }

    /// The node's own directory in the lab's.
    pub fn directory(&self) -> PathBuf {
        self.place.node_dir(&self.name)
    }

    /// A program on the node itself, outside every pod (as kubelet or `ip netns exec` are).
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
        Ok(Command::new(self.site(Some(self.cgroup.child("system.slice")?))?, arguments))
    }

    /// Runs `inside` on a thread in the node's network namespace. Its sockets are outside the node's cgroup.
    pub fn netns_thread<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.enter(inside)
    }

    /// Address of a node beside this one: somebody on the wire to send to.
    pub(crate) fn neighbour(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, if self.number == 1 { 2 } else { 1 })
    }

    pub(crate) fn site(&self, cgroup: Option<Cgroup>) -> Result<Site> {
        Ok(Site {
            cgroup,
            netns: Some(self.netns.fd().try_clone_to_owned()?),
            name: format!("node-{}", self.name),
            logs: self.place.logs(),
            enter: format!("ip netns exec {} bash", self.netns.name()),
        })
    }

    /// Connects two nodes with a veth pair.
    pub(crate) fn connect(&self, other: &Node) -> Result<()> {
        let end = End { name: WIRE, index: WIRE_INDEX, mac: None, master: None };
        self.lock().add_veth(&end, &end, other.netns.fd())?;
        self.address_wire()?;
        other.address_wire()
    }

    /// Connects the node to the bridge of a namespace between nodes.
    pub(crate) fn connect_to_bridge(&self, between: &mut Netlink, bridge: u32) -> Result<()> {
        let index = WIRE_INDEX + u32::from(self.number);
        let near = End { name: &self.name, index, mac: None, master: Some(bridge) };
        let far = End { name: WIRE, index: WIRE_INDEX, mac: None, master: None };
        between.add_veth(&near, &far, self.netns.fd())?;
        self.address_wire()
    }

    fn address_wire(&self) -> Result<()> {
        let mut netlink = self.lock();
        netlink.set_up(WIRE_INDEX)?;
        netlink.add_address(WIRE_INDEX, self.v4().into(), 24)?;
        netlink.add_address(WIRE_INDEX, self.v6().into(), 64)
    }

    /// Routes another node's pods to it.
    pub(crate) fn route_to(&self, other: &Node) -> Result<()> {
        let mut netlink = self.lock();
        let to: [(IpAddr, u8, IpAddr); 2] = [
            (node_v4(other.number, 0).into(), 16, other.v4().into()),
            (node_v6(other.number, 0).into(), 64, other.v6().into()),
        ];
        for (range, prefix, via) in to {
            netlink.add_route(Route { to: (range, prefix), via, device: WIRE_INDEX })?;
        }
        Ok(())
    }

    /// Makes a pod's network namespace, with its interface and addresses: those of a pod that is gone, or fresh ones.
    pub(crate) fn attach(
        &self,
        netns: &str,
        v4_only: bool,
        of: Option<Attachment>,
    ) -> Result<(Netns, Attachment)> {
        let fresh = || self.next_pod.fetch_add(1, Ordering::Relaxed);
        let number = of.map_or_else(fresh, |of| of.number);
        let v6 = node_v6(self.number, number);
        let attachment =
            Attachment { v4: node_v4(self.number, number), v6: (!v4_only).then_some(v6), number };
        let near_name = format!("veth{number}");
        Netns::create(netns, &POD_SYSCTLS, |fd, netlink| {
            let near =
                End { name: &near_name, index: pod_index(number), mac: None, master: Some(BRIDGE_INDEX) };
            let far = End { name: "eth0", index: ETH0_INDEX, mac: Some(mac_for(v6)), master: None };
            let mut links = self.lock();
            links.add_veth(&near, &far, fd).context("join the bridge (1,023 pods fit on one node)")?;
            if !self.learned_neighbours {
                for address in attachment.addresses() {
                    links.add_neighbour(BRIDGE_INDEX, address, mac_for(v6))?;
                }
            }
            drop(links);
            self.address_pod(netlink, &attachment)?;
            Ok(attachment)
        })
    }

    fn address_pod(&self, netlink: &mut Netlink, attachment: &Attachment) -> Result<()> {
        let (gateway_v4, gateway_v6) = (node_v4(self.number, 1), node_v6(self.number, 1));
        let mac = mac_for(gateway_v6);
        netlink.set_up(ETH0_INDEX)?;
        netlink.add_address(ETH0_INDEX, attachment.v4.into(), 32)?;
        netlink.add_neighbour(ETH0_INDEX, gateway_v4.into(), mac)?;
        let v4 = (Ipv4Addr::UNSPECIFIED.into(), 0);
        netlink.add_route(Route { to: v4, via: gateway_v4.into(), device: ETH0_INDEX })?;
        let Some(address) = attachment.v6 else { return Ok(()) };
        netlink.add_address(ETH0_INDEX, address.into(), 128)?;
        settle(address)?;
        netlink.add_neighbour(ETH0_INDEX, gateway_v6.into(), mac)?;
        netlink.add_device_route(gateway_v6.into(), 128, ETH0_INDEX)?;
        let v6 = (Ipv6Addr::UNSPECIFIED.into(), 0);
        netlink.add_route(Route { to: v6, via: gateway_v6.into(), device: ETH0_INDEX })
    }

    /// Takes a pod's interface away.
    pub(crate) fn detach(&self, attachment: &Attachment) -> Result<()> {
        let mut links = self.lock();
        if !self.learned_neighbours {
            for address in attachment.addresses() {
                links.remove_neighbour(BRIDGE_INDEX, address)?;
            }
        }
        links.remove_link(pod_index(attachment.number))
    }

    /// Name of a pod's interface on the node.
    pub(crate) fn pod_interface(attachment: &Attachment) -> String {
        format!("veth{}", attachment.number)
    }

    /// A pod's cgroup as kubelet would name it. `qos` is `burstable`, `besteffort` or empty (guaranteed).
    pub(crate) fn pod_cgroup(&self, uid: &str, qos: &str) -> PathBuf {
        let root = self.cgroup.path();
        match (self.driver, qos) {
            (CgroupDriver::Cgroupfs, "") => root.join(format!("kubepods/pod{uid}")),
            (CgroupDriver::Cgroupfs, qos) => root.join(format!("kubepods/{qos}/pod{uid}")),
            (CgroupDriver::Systemd, "") => {
                root.join(format!("kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_")))
            }
            (CgroupDriver::Systemd, qos) => root.join(format!(
                "kubepods.slice/kubepods-{qos}.slice/kubepods-{qos}-pod{}.slice",
                uid.replace('-', "_")
            )),
        }
    }

    /// Name of a new container's cgroup in its pod's.
    pub(crate) fn new_container(&self) -> Result<String> {
        let id = random::hex(32)?;
        Ok(match self.driver {
            CgroupDriver::Cgroupfs => id,
            CgroupDriver::Systemd => format!("cri-containerd-{id}.scope"),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Netlink> {
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins more than two nodes by a bridge in a namespace of its own, which is returned.
pub(crate) fn connect_all<'a>(place: &Place, nodes: impl Iterator<Item = &'a Node> + Send) -> Result<Netns> {
    let (netns, ()) = Netns::create(&place.netns(WIRE), &[], |_: BorrowedFd<'_>, netlink| {
        netlink.add_bridge(BRIDGE, BRIDGE_INDEX, [0x0a, 0x58, 0, 0, 0, 1])?;
        for node in nodes {
            node.connect_to_bridge(netlink, BRIDGE_INDEX)?;
        }
        Ok(())
    })?;
    Ok(netns)
}

/// Waits until a new IPv6 address of the calling thread's namespace leads to itself, as it does long before a container
/// runtime starts anything: also without duplicate detection the kernel adds that route a moment after the address.
fn settle(address: Ipv6Addr) -> Result<()> {
    // RTF_LOCAL of linux/ipv6_route.h.
    const LOCAL: u32 = 0x8000_0000;
    let digits = format!("{:032x}", u128::from(address));
    let leads_to_itself = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let flags = fields.next().filter(|first| *first == digits).and_then(|_| fields.nth(7));
        flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & LOCAL != 0)
    };
    let start = std::time::Instant::now();
    while !std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?.lines().any(leads_to_itself) {
        if start.elapsed() > std::time::Duration::from_secs(30) {
            bail!("{address} has no route to itself");
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    Ok(())
}

fn pod_index(number: u16) -> u32 {
    FIRST_POD_INDEX + u32::from(number)
}

fn node_v4(node: u8, number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 243 + node, high, low)
}

fn node_v6(node: u8, number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, number)
}
