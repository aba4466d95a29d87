//! Typed handles on the pinned maps: the only place where the agent reads or writes one.
//!
//! Values are replaced whole, so a hook that reads meanwhile sees the old or the new one. Every method is one system
//! call and does not block.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash};
use mesh_common::{
    Addr, AddrEntry, CgroupEntry, Counter, GuardedDevice, ListenerKey, NoteKey, Original, PodEntry, Refusal,
    Settings, SockNote, maps,
};
use tokio::net::TcpStream;

use super::KernelError;
use super::exclusions::{Exclusions, Net};

mod direct;
mod tables;

pub use direct::{DirectConnection, DirectMaps, Flow, ended, event};
pub use tables::{Handles, LeftBehind, Tables};

/// All maps that the agent touches.
pub struct Maps {
    settings: Mutex<Array<MapData, Settings>>,
    agents: Mutex<HashMap<MapData, u64, u32>>,
    pods: Mutex<HashMap<MapData, u64, PodEntry>>,
    cgroups: Mutex<HashMap<MapData, u64, CgroupEntry>>,
    addrs: Mutex<HashMap<MapData, Addr, AddrEntry>>,
    listeners: Mutex<SockHash<MapData, ListenerKey>>,
    originals: HashMap<MapData, NoteKey, Original>,
    /// Read without a lock; a second handle on the same map is written under one.
    notes: Mutex<SkStorage<MapData, SockNote>>,
    refused: PerCpuArray<MapData, u64>,
    counted: PerCpuArray<MapData, u64>,
    kubelet: Mutex<HashMap<MapData, u64, u32>>,
    excluded_nets: Mutex<LpmTrie<MapData, Addr, u32>>,
    excluded_ports: Mutex<HashMap<MapData, u32, u32>>,
    /// Who may talk to whom, and among which endpoints is chosen.
    tables: Tables,
    /// What no agent carries.
    direct: DirectMaps,
    devices: Mutex<HashMap<MapData, u32, GuardedDevice>>,
    /// What `settings` was last set to.
    wanted: Mutex<Option<Settings>>,
}

/// What a captured client dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    /// As it wrote it.
    pub address: SocketAddr,
    /// The endpoint that the hook chose for it; `None`: the agent chooses.
    pub target: Option<SocketAddr>,
}

impl Dialled {
    fn new(dialled: (Addr, u32), target: (Addr, u32)) -> Self {
        let target = (!target.0.is_none()).then(|| socket_addr(target.0, target.1));
        Self { address: socket_addr(dialled.0, dialled.1), target }
    }
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: cannot {action} it{}", if self.is_full() { ", it has no room" } else { "" })]
pub struct MapFailure {
    map: &'static str,
    action: &'static str,
    #[source]
    source: MapError,
}

impl MapFailure {
    /// As the kernel says it.
    #[cfg(test)]
    pub fn full(map: &'static str) -> Self {
        let io_error = std::io::Error::from_raw_os_error(libc::E2BIG);
        failed(map, "write a row of")(MapError::SyscallError(aya::sys::SyscallError {
            call: "test",
            io_error,
        }))
    }

    /// Whether the map has no room for another entry.
    pub fn is_full(&self) -> bool {
        // Tries say ENOSPC.
        matches!(&self.source, MapError::SyscallError(error) if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)))
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Missing(name))?;
    T::try_from(map).map_err(|source| KernelError::Layout { map: name, source })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address as the hooks know it.
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

/// An address and port of the hooks'.
pub fn socket_addr(addr: Addr, port: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::from(addr.octets()).to_canonical(), port as u16)
}

fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Makes a `map_err` closure.
fn failed(map: &'static str, action: &'static str) -> impl FnOnce(MapError) -> MapFailure {
    move |source| MapFailure { map, action, source }
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            settings: Mutex::new(take(ebpf, maps::SETTINGS)?),
            agents: Mutex::new(take(ebpf, maps::SELF)?),
            pods: Mutex::new(take(ebpf, maps::PODS)?),
            cgroups: Mutex::new(take(ebpf, maps::CGROUPS)?),
            addrs: Mutex::new(take(ebpf, maps::ADDRS)?),
            listeners: Mutex::new(take(ebpf, maps::LISTENERS)?),
            originals: take(ebpf, maps::ORIGINALS)?,
            notes: Mutex::new(take(ebpf, maps::NOTES)?),
            refused: take(ebpf, maps::REFUSED)?,
            counted: take(ebpf, maps::COUNTED)?,
            kubelet: Mutex::new(take(ebpf, maps::KUBELET)?),
            excluded_nets: Mutex::new(take(ebpf, maps::EXCLUDED_NETS)?),
            excluded_ports: Mutex::new(take(ebpf, maps::EXCLUDED_PORTS)?),
            tables: Tables::take(ebpf)?,
            direct: DirectMaps::take(ebpf)?,
            devices: Mutex::new(take(ebpf, maps::DEVICES)?),
            wanted: Mutex::default(),
        })
    }

    /// The settings as they stand (all zero before the first agent).
    pub fn settings(&self) -> Result<Settings, MapFailure> {
        lock(&self.settings).get(&0, 0).map_err(failed(maps::SETTINGS, "read"))
    }

    /// Replaces the settings.
    pub fn set_settings(&self, settings: Settings) -> Result<(), MapFailure> {
        let mut wanted = lock(&self.wanted);
        lock(&self.settings).set(0, settings, 0).map_err(failed(maps::SETTINGS, "write"))?;
        *wanted = Some(settings);
        Ok(())
    }

    /// Changes the settings, from what they were last set to.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), MapFailure> {
        let mut wanted = lock(&self.wanted);
        let mut settings = match *wanted {
            Some(settings) => settings,
            None => self.settings()?,
        };
        change(&mut settings);
        if *wanted != Some(settings) {
            lock(&self.settings).set(0, settings, 0).map_err(failed(maps::SETTINGS, "write"))?;
            *wanted = Some(settings);
        }
        Ok(())
    }

    /// Cgroup ids of kubelet's process, as the hooks know them.
    pub fn kubelet(&self) -> Vec<u64> {
        lock(&self.kubelet).keys().flatten().collect()
    }

    /// Says in which cgroup kubelet is; the new one first, so that it is never nowhere.
    pub fn set_kubelet(&self, cgroup: Option<u64>) -> Result<(), MapFailure> {
        let mut kubelet = lock(&self.kubelet);
        let others: Vec<u64> = kubelet.keys().flatten().filter(|id| Some(*id) != cgroup).collect();
        if let Some(id) = cgroup {
            kubelet.insert(id, 1, 0).map_err(failed(maps::KUBELET, "record kubelet in"))?;
        }
        for id in others {
            ignore_missing(kubelet.remove(&id)).map_err(failed(maps::KUBELET, "remove kubelet from"))?;
        }
        Ok(())
    }

    /// Makes these the exclusions, whatever there were. The new ones are there before the old ones go: what both hold is
    /// excluded all the while. If they cannot all be written, those there were stay. Whether anything is different.
    pub fn exclude(&self, wanted: &Exclusions) -> Result<bool, MapFailure> {
        let mut nets = lock(&self.excluded_nets);
        let mut ports = lock(&self.excluded_ports);
        let had_nets: std::collections::HashMap<Net, u32> =
            nets.iter().flatten().map(|(key, value)| (Net::of_key(key), value)).collect();
        let had_ports: HashSet<u32> = ports.keys().flatten().collect();
        let new_nets: Vec<(Net, u32)> =
            wanted.nets().filter(|(net, value)| had_nets.get(net) != Some(value)).collect();
        let new_ports: Vec<u32> = wanted.ports().filter(|port| !had_ports.contains(port)).collect();
        let mut add = || -> Result<(), MapFailure> {
            for (net, value) in &new_nets {
                let added = nets.insert(&net.key(), *value, 0);
                added.map_err(failed(maps::EXCLUDED_NETS, "exclude a network in"))?;
            }
            for port in &new_ports {
                ports.insert(port, 1, 0).map_err(failed(maps::EXCLUDED_PORTS, "exclude a port in"))?;
            }
            Ok(())
        };
        if let Err(error) = add() {
            for (net, _) in new_nets.iter().rev() {
                // What was not written is not there.
                let _ = match had_nets.get(net) {
                    Some(old) => nets.insert(&net.key(), *old, 0),
                    None => nets.remove(&net.key()),
                };
            }
            for port in &new_ports {
                let _ = ports.remove(port);
            }
            return Err(error);
        }
        // Both kinds are looked up while both are changing.
        let flags = Exclusions::flags_of(!had_nets.is_empty(), !had_ports.is_empty());
        let mut changed = !(new_nets.is_empty() && new_ports.is_empty());
        self.change_settings(|settings| settings.exclusions = flags | wanted.flags())?;
        let mut old_nets: Vec<(Net, u32)> =
            had_nets.into_iter().filter(|(net, _)| !wanted.has_net(net)).collect();
        // Marks last: without its mark a short IPv6 prefix would hold all of IPv4.
        old_nets.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
        for (net, _) in old_nets {
            changed = true;
            let removed = ignore_missing(nets.remove(&net.key()));
            removed.map_err(failed(maps::EXCLUDED_NETS, "remove an excluded network from"))?;
        }
        for port in had_ports.into_iter().filter(|port| !wanted.has_port(*port)) {
            changed = true;
            let removed = ignore_missing(ports.remove(&port));
            removed.map_err(failed(maps::EXCLUDED_PORTS, "remove an excluded port from"))?;
        }
        self.change_settings(|settings| settings.exclusions = wanted.flags())?;
        Ok(changed)
    }

    /// Sets the settings again where somebody else changed them. Whether that was so.
    pub fn verify_settings(&self) -> Result<bool, MapFailure> {
        let wanted = lock(&self.wanted);
        match *wanted {
            Some(settings) if self.settings()? != settings => {
                let set = lock(&self.settings).set(0, settings, 0);
                set.map_err(failed(maps::SETTINGS, "write")).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Every cgroup that passes every hook.
    pub fn agents(&self) -> Vec<u64> {
        lock(&self.agents).keys().flatten().collect()
    }

    /// Lets the processes of a cgroup pass every hook.
    pub fn add_agent(&self, cgroup: u64) -> Result<(), MapFailure> {
        lock(&self.agents).insert(cgroup, 1, 0).map_err(failed(maps::SELF, "add this agent to"))
    }

    /// Takes every other cgroup's leave away.
    pub fn keep_only_agent(&self, cgroup: u64) -> Result<(), MapFailure> {
        let mut agents = lock(&self.agents);
        let others: Vec<u64> = agents.keys().flatten().filter(|id| *id != cgroup).collect();
        for id in others {
            ignore_missing(agents.remove(&id)).map_err(failed(maps::SELF, "remove a predecessor from"))?;
        }
        Ok(())
    }

    /// Says what a network namespace's pod is.
    pub fn set_pod(&self, cookie: u64, entry: PodEntry) -> Result<(), MapFailure> {
        lock(&self.pods).insert(cookie, entry, 0).map_err(failed(maps::PODS, "record a pod in"))
    }

    /// What a network namespace's pod was recorded as.
    pub fn pod(&self, cookie: u64) -> Option<PodEntry> {
        lock(&self.pods).get(&cookie, 0).ok()
    }

    /// Forgets a network namespace.
    pub fn remove_pod(&self, cookie: u64) -> Result<(), MapFailure> {
        ignore_missing(lock(&self.pods).remove(&cookie)).map_err(failed(maps::PODS, "remove a pod from"))
    }

    /// Every recorded namespace.
    pub fn pod_cookies(&self) -> Vec<u64> {
        lock(&self.pods).keys().flatten().collect()
    }

    /// Says what a cgroup is.
    pub fn set_cgroup(&self, id: u64, entry: CgroupEntry) -> Result<(), MapFailure> {
        lock(&self.cgroups).insert(id, entry, 0).map_err(failed(maps::CGROUPS, "record a cgroup in"))
    }

    /// What a cgroup was recorded as.
    pub fn cgroup(&self, id: u64) -> Option<CgroupEntry> {
        lock(&self.cgroups).get(&id, 0).ok()
    }

    /// Forgets a cgroup.
    pub fn remove_cgroup(&self, id: u64) -> Result<(), MapFailure> {
        ignore_missing(lock(&self.cgroups).remove(&id)).map_err(failed(maps::CGROUPS, "remove a cgroup from"))
    }

    /// Every recorded cgroup.
    pub fn cgroup_ids(&self) -> Vec<u64> {
        lock(&self.cgroups).keys().flatten().collect()
    }

    /// Says whose an address is, and whether everything that arrives there is the agent's.
    pub fn set_addr(&self, ip: IpAddr, entry: AddrEntry) -> Result<(), MapFailure> {
        lock(&self.addrs).insert(addr(ip), entry, 0).map_err(failed(maps::ADDRS, "record an address in"))
    }

    /// Whose an address was recorded as.
    pub fn addr(&self, ip: IpAddr) -> Option<AddrEntry> {
        lock(&self.addrs).get(&addr(ip), 0).ok()
    }

    /// Forgets an address, if it is still this namespace's.
    pub fn remove_addr(&self, ip: IpAddr, cookie: u64) -> Result<(), MapFailure> {
        let mut addrs = lock(&self.addrs);
        if addrs.get(&addr(ip), 0).is_ok_and(|entry| entry.netns_cookie != cookie) {
            return Ok(());
        }
        ignore_missing(addrs.remove(&addr(ip))).map_err(failed(maps::ADDRS, "remove an address from"))
    }

    /// Removes the addresses of namespaces that `keep` does not want. How many there were.
    pub fn retain_addrs(&self, keep: impl Fn(u64) -> bool) -> Result<usize, MapFailure> {
        let mut addrs = lock(&self.addrs);
        let gone: Vec<_> =
            addrs.iter().flatten().filter(|(_, e)| !keep(e.netns_cookie)).map(|(addr, _)| addr).collect();
        for addr in &gone {
            ignore_missing(addrs.remove(addr)).map_err(failed(maps::ADDRS, "remove an address from"))?;
        }
        Ok(gone.len())
    }

    /// Who may talk to whom, as the hooks look it up.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Connections that no agent carries.
    pub fn direct(&self) -> &DirectMaps {
        &self.direct
    }

    /// Says whose a device of the host's is.
    pub fn set_device(&self, index: u32, device: GuardedDevice) -> Result<(), MapFailure> {
        lock(&self.devices).insert(index, device, 0).map_err(failed(maps::DEVICES, "record a device in"))
    }

    /// Forgets a device.
    pub fn remove_device(&self, index: u32) -> Result<(), MapFailure> {
        ignore_missing(lock(&self.devices).remove(&index))
            .map_err(failed(maps::DEVICES, "remove a device from"))
    }

    /// Whose a device was recorded as.
    pub fn device(&self, index: u32) -> Option<GuardedDevice> {
        lock(&self.devices).get(&index, 0).ok()
    }

    /// Every device that is recorded.
    pub fn devices(&self) -> Vec<u32> {
        lock(&self.devices).keys().flatten().collect()
    }

    /// Makes a listening socket the target of a pod's connections. The kernel removes it when the socket closes.
    pub fn set_listener(&self, ip: IpAddr, port: u32, socket: &impl AsRawFd) -> Result<(), MapFailure> {
        lock(&self.listeners)
            .insert(ListenerKey { addr: addr(ip), port }, socket.as_raw_fd(), 0)
            .map_err(failed(maps::LISTENERS, "record a listener in"))
    }

    /// Address and port of every listener. (The sockets themselves cannot be read back.)
    pub fn listener_keys(&self) -> HashSet<(IpAddr, u32)> {
        let keys = lock(&self.listeners).keys().flatten().collect::<Vec<ListenerKey>>();
        keys.into_iter().map(|key| (socket_addr(key.addr, 0).ip(), key.port)).collect()
    }

    /// What a captured client dialled, and the endpoint that the hook chose, if it did: from the accepted socket's own note,
    /// else from the client's.
    pub fn original_destination(
        &self,
        accepted: &TcpStream,
        client: SocketAddr,
        netns_cookie: u64,
    ) -> Option<Dialled> {
        let note = lock(&self.notes).get(accepted, 0);
        if let Ok(note) = note
            && note.kind == SockNote::ORIGINAL
        {
            return Some(Dialled::new((note.addr, note.port), (note.target, note.target_port)));
        }
        let capture_port = accepted.local_addr().ok()?.port().into();
        let key = NoteKey { netns_cookie, addr: addr(client.ip()), port: client.port().into(), capture_port };
        let original = self.originals.get(&key, 0).ok()?;
        Some(Dialled::new((original.addr, original.port), (original.target, original.target_port)))
    }

    /// Says on whose behalf a socket of the agent's is about to connect.
    pub fn note_delivery(&self, socket: &impl AsRawFd, client: SocketAddr) -> Result<(), MapFailure> {
        let note = SockNote::of(SockNote::DELIVERS, addr(client.ip()), client.port().into());
        lock(&self.notes).insert(socket, note, 0).map_err(failed(maps::NOTES, "note a delivery in"))
    }

    /// Whether a delivery's note was lost between `note_delivery` and connect, because its map is full.
    pub fn delivery_lost(&self, socket: &impl AsRawFd) -> bool {
        lock(&self.notes).get(socket, 0).is_ok_and(|note| note.kind == SockNote::LOST)
    }

    /// Refusals so far, by reason.
    pub fn refusals(&self) -> Vec<(Refusal, u64)> {
        Refusal::ALL.iter().map(|refusal| (*refusal, sum(&self.refused, *refusal as u32))).collect()
    }

    /// Events so far.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Counter::ALL.iter().map(|(counter, word)| (*word, sum(&self.counted, *counter as u32))).collect()
    }
}

fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    counters.get(&index, 0).map(|per_cpu| per_cpu.iter().sum()).unwrap_or(0)
}

/// The id of a cgroup directory, as the hooks see it: its inode number.
pub fn cgroup_id(directory: &std::path::Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(directory)?.ino())
}
