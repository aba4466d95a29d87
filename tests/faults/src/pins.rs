//! What an agent has pinned below its bpffs: the maps, opened by their pins as any program with root may.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::Pod as Plain;
use aya::maps::{Array, HashMap, Map, MapData, SockHash};
use lab::{Lab, Pod};
use mesh_common::{
    Addr, AddrEntry, CgroupEntry, DeliveryKey, Endpoint16, ListenerKey, PodEntry, Settings, maps, paths,
};

/// The pins of one node.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
}

/// An entry of the map of addresses or listeners, in a form that sorts.
pub type Address = IpAddr;

/// How many entries there are of what a pod brings, one map after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cgroups in any state.
    pub cgroups: usize,
    /// Namespaces in any state.
    pub pods: usize,
    /// Listeners.
    pub listeners: usize,
    /// Pinned `sk_lookup` links.
    pub lookups: usize,
    /// Addresses.
    pub addresses: usize,
    /// Namespaces that are captured.
    pub captured_pods: usize,
    /// Cgroups that are captured.
    pub captured_cgroups: usize,
}

impl Pins {
    /// Of a node of a lab.
    pub fn of(lab: &Lab, node: &str) -> Self {
        Self { root: lab.place().bpffs(node).join(paths::ROOT) }
    }

    /// The pin of a hook's link.
    pub fn hook(&self, name: &str) -> PathBuf {
        self.root.join(paths::LINKS).join(name)
    }

    /// The pin of a pod's `sk_lookup` link.
    pub fn lookup(&self, cookie: u64) -> PathBuf {
        self.root.join(paths::PODS).join(cookie.to_string())
    }

    /// Cookies of all namespaces with a pinned `sk_lookup` link.
    pub fn lookups(&self) -> Result<Vec<u64>> {
        let entries = std::fs::read_dir(self.root.join(paths::PODS))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    fn open(&self, name: &str) -> Result<Map> {
        let data = MapData::from_pin(self.root.join(paths::MAPS).join(name))?;
        Map::from_map_data(data).with_context(|| format!("open map {name}"))
    }

    fn hash<K: Plain, V: Plain>(&self, name: &str) -> Result<HashMap<MapData, K, V>> {
        Ok(HashMap::try_from(self.open(name)?)?)
    }

    /// The namespaces that the node knows.
    pub fn pods(&self) -> Result<HashMap<MapData, u64, PodEntry>> {
        self.hash(maps::PODS)
    }

    /// The cgroups.
    pub fn cgroups(&self) -> Result<HashMap<MapData, u64, CgroupEntry>> {
        self.hash(maps::CGROUPS)
    }

    /// The addresses.
    pub fn addrs(&self) -> Result<HashMap<MapData, Addr, AddrEntry>> {
        self.hash(maps::ADDRS)
    }

    /// The cgroups that pass every hook.
    pub fn agents(&self) -> Result<HashMap<MapData, u64, u32>> {
        self.hash(maps::SELF)
    }

    /// Deliveries on their way.
    pub fn deliveries(&self) -> Result<HashMap<MapData, DeliveryKey, Endpoint16>> {
        self.hash(maps::DELIVERY)
    }

    /// The node's settings.
    pub fn settings(&self) -> Result<Array<MapData, Settings>> {
        Ok(Array::try_from(self.open(maps::SETTINGS)?)?)
    }

    /// The listeners.
    pub fn listeners(&self) -> Result<SockHash<MapData, ListenerKey>> {
        Ok(SockHash::try_from(self.open(maps::LISTENERS)?)?)
    }

    /// Ports of the listeners at an address.
    pub fn listening_at(&self, address: IpAddr) -> Result<Vec<u32>> {
        let keys = self.listeners()?.keys().flatten().collect::<Vec<_>>();
        let mut ports: Vec<u32> =
            keys.iter().filter(|key| ip(key.addr) == address).map(|key| key.port).collect();
        ports.sort_unstable();
        Ok(ports)
    }

    /// Addresses and whose they are.
    pub fn owners(&self) -> Result<BTreeMap<Address, u64>> {
        let addrs = self.addrs()?;
        Ok(addrs.iter().flatten().map(|(addr, entry)| (ip(addr), entry.netns_cookie)).collect())
    }

    /// How much there is of everything.
    pub fn counts(&self) -> Result<Counts> {
        Watching::new(self)?.counts()
    }

    /// Fails unless everything of a captured pod is there and as it should be.
    pub fn ensure_captured(&self, pod: &Pod) -> Result<()> {
        let (cookie, id) = (cookie(pod)?, pod.cgroup().id()?);
        let entry = self.pods()?.get(&cookie, 0).with_context(|| format!("namespace {cookie}"))?;
        ensure!(entry.state == PodEntry::STATE_CAPTURED, "{entry:?}");
        let own = [entry.addr4, entry.addr6].map(ip);
        ensure!(pod.addresses().iter().all(|address| own.contains(address)), "{entry:?}");
        let cgroup = self.cgroups()?.get(&id, 0).with_context(|| format!("cgroup {id}"))?;
        let wanted = CgroupEntry { netns_cookie: cookie, state: PodEntry::STATE_CAPTURED, flags: 0 };
        ensure!(cgroup == wanted, "{cgroup:?}");
        let owners = self.owners()?;
        for address in pod.addresses() {
            ensure!(owners.get(&address) == Some(&cookie), "{address} is of {:?}", owners.get(&address));
            let ports = self.listening_at(address)?;
            ensure!(ports == ListenerKey::ALL, "listeners at {address}: {ports:?}");
        }
        ensure!(self.lookups()?.contains(&cookie), "no sk_lookup for {cookie}");
        Ok(())
    }

    /// Fails if anything of a pod that is gone is left.
    pub fn ensure_gone(&self, cookie: u64, cgroup: u64, addresses: &[IpAddr]) -> Result<(), String> {
        let text = |error: anyhow::Error| format!("{error:#}");
        if self.pods().map_err(text)?.get(&cookie, 0).is_ok() {
            return Err(format!("namespace {cookie} is recorded"));
        }
        if self.cgroups().map_err(text)?.get(&cgroup, 0).is_ok() {
            return Err(format!("cgroup {cgroup} is recorded"));
        }
        if self.lookups().map_err(text)?.contains(&cookie) {
            return Err(format!("namespace {cookie} has an sk_lookup pin"));
        }
        for address in addresses {
            if self.owners().map_err(text)?.get(address) == Some(&cookie) {
                return Err(format!("{address} is recorded"));
            }
            let ports = self.listening_at(*address).map_err(text)?;
            if !ports.is_empty() && !self.owners().map_err(text)?.contains_key(address) {
                return Err(format!("listeners at {address}: {ports:?}"));
            }
        }
        Ok(())
    }
}

/// The maps held open, to be looked at again and again.
pub struct Watching<'a> {
    pins: &'a Pins,
    pods: HashMap<MapData, u64, PodEntry>,
    cgroups: HashMap<MapData, u64, CgroupEntry>,
    addrs: HashMap<MapData, Addr, AddrEntry>,
    listeners: SockHash<MapData, ListenerKey>,
}

impl<'a> Watching<'a> {
    /// Opens them.
    pub fn new(pins: &'a Pins) -> Result<Self> {
        Ok(Self {
            pins,
            pods: pins.pods()?,
            cgroups: pins.cgroups()?,
            addrs: pins.addrs()?,
            listeners: pins.listeners()?,
        })
    }

    /// How much there is of everything.
    pub fn counts(&self) -> Result<Counts> {
        let captured = |state: u32| state == PodEntry::STATE_CAPTURED;
        let pods: Vec<PodEntry> = self.pods.iter().flatten().map(|(_, entry)| entry).collect();
        let cgroups: Vec<CgroupEntry> = self.cgroups.iter().flatten().map(|(_, entry)| entry).collect();
        Ok(Counts {
            cgroups: cgroups.len(),
            pods: pods.len(),
            listeners: self.listeners.keys().flatten().count(),
            lookups: self.pins.lookups()?.len(),
            addresses: self.addrs.keys().flatten().count(),
            captured_pods: pods.iter().filter(|entry| captured(entry.state)).count(),
            captured_cgroups: cgroups.iter().filter(|entry| captured(entry.state)).count(),
        })
    }
}

/// An address of a map's.
pub fn ip(addr: Addr) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(addr.octets())).to_canonical()
}

/// The same the other way round.
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

/// The cookie of a pod's network namespace, as the hooks see it.
pub fn cookie(pod: &Pod) -> Result<u64> {
    pod.netns_thread(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").context("a socket")?;
        let mut cookie = 0_u64;
        let mut size = size_of::<u64>() as libc::socklen_t;
        // SAFETY: both pointers are to live locals, and `size` says how large the first one is.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut size,
            )
        };
        if result < 0 { Err(std::io::Error::last_os_error()).context("SO_NETNS_COOKIE") } else { Ok(cookie) }
    })?
}
