//! The kernel half, loaded by the tests themselves: programs, links, maps by name, counters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader, Pod};
use mesh_common::{Addr, Counter, ListenerKey, Refusal, Settings, SockNote, maps, programs};
use socket2::Socket;

use crate::object;

/// The programs that are attached to a cgroup.
pub const CGROUP_PROGRAMS: [&str; 5] =
    [programs::CONNECT4, programs::CONNECT6, programs::PEERNAME4, programs::PEERNAME6, programs::SOCKOPS];

/// What has been counted, by the name of the refusal or the event. What was never counted is left out.
pub type Counts = BTreeMap<String, u64>;

/// The loaded programs and their maps.
#[derive(Debug)]
pub struct Hooks {
    ebpf: RefCell<Ebpf>,
}

/// Whether a refused connect(2) is ECONNREFUSED (Linux 5.18) and not EPERM.
pub fn has_set_retval() -> bool {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}

/// What connect(2) says when a hook refuses it.
pub fn refused_errno() -> i32 {
    if has_set_retval() { libc::ECONNREFUSED } else { libc::EPERM }
}

impl Hooks {
    /// Loads object, maps and programs. With `pins`, the maps are those pinned in that directory, and are pinned there if
    /// they are not yet: how one agent takes over another's.
    pub fn load(pins: Option<&Path>) -> Result<Self> {
        let bytes = object::bytes()?;
        let set_retval = u8::from(has_set_retval());
        let mut loader = EbpfLoader::new();
        loader.override_global("HAS_SET_RETVAL", &set_retval, true);
        if let Some(pins) = pins {
            for name in maps::ALL {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut ebpf = loader.load(&bytes).context("load the eBPF object")?;
        for name in CGROUP_PROGRAMS.into_iter().chain([programs::SK_LOOKUP]) {
            let program = ebpf.program_mut(name).with_context(|| format!("the object has no {name}"))?;
            match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::SockOps(program) => program.load(),
                Program::SkLookup(program) => program.load(),
                _ => bail!("{name} is of no kind that is attached anywhere"),
            }
            .with_context(|| format!("load {name}"))?;
        }
        Ok(Self { ebpf: RefCell::new(ebpf) })
    }

    /// Attaches the cgroup programs. They are there as long as the links.
    pub fn attach(&self, cgroup: &Path) -> Result<Vec<(&'static str, FdLink)>> {
        let directory = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
        CGROUP_PROGRAMS.into_iter().map(|name| Ok((name, self.attach_one(name, &directory)?))).collect()
    }

    /// Attaches `sk_lookup` to a network namespace, by its file.
    pub fn attach_lookup(&self, netns: &Path) -> Result<FdLink> {
        let netns = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
        self.attach_one(programs::SK_LOOKUP, &netns)
    }

    fn attach_one(&self, name: &str, to: &File) -> Result<FdLink> {
        let mut ebpf = self.ebpf.borrow_mut();
        let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
        let mut attach = || -> Result<FdLink> {
            Ok(match program {
                Program::CgroupSockAddr(program) => {
                    let id = program.attach(to, CgroupAttachMode::Single)?;
                    program.take_link(id)?.try_into()?
                }
                Program::SockOps(program) => {
                    let id = program.attach(to, CgroupAttachMode::Single)?;
                    program.take_link(id)?.try_into()?
                }
                Program::SkLookup(program) => {
                    let id = program.attach(to)?;
                    program.take_link(id)?.into()
                }
                _ => bail!("of no kind that is attached anywhere"),
            })
        };
        attach().with_context(|| format!("attach {name}"))
    }

    /// A program's descriptor.
    pub fn program(&self, name: &str) -> Result<OwnedFd> {
        let ebpf = self.ebpf.borrow();
        let program = ebpf.program(name).with_context(|| format!("no program {name}"))?;
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    }

    /// How long a program has run, and how often, while somebody had the kernel measure that.
    pub fn run_time(&self, name: &str) -> Result<(std::time::Duration, u64)> {
        let ebpf = self.ebpf.borrow();
        let info = ebpf.program(name).with_context(|| format!("no program {name}"))?.info()?;
        Ok((info.run_time(), info.run_count()))
    }

    /// A map's descriptor.
    pub fn map(&self, name: &str) -> Result<OwnedFd> {
        let ebpf = self.ebpf.borrow();
        let map = ebpf.map(name).with_context(|| format!("no map {name}"))?;
        descriptor(map)
    }

    /// Every map of the object, with its descriptor.
    pub fn all_maps(&self) -> Result<Vec<(String, OwnedFd)>> {
        let ebpf = self.ebpf.borrow();
        let maps = ebpf.maps();
        maps.map(|(name, map)| Ok((name.to_owned(), descriptor(map)?))).collect()
    }

    fn with_hash<K: Pod, V: Pod, T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut HashMap<&mut MapData, K, V>) -> Result<T, MapError>,
    ) -> Result<T> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        let mut map = HashMap::try_from(map).with_context(|| format!("{name} as a hash map"))?;
        act(&mut map).with_context(|| format!("map {name}"))
    }

    /// Writes an entry of a hash map.
    pub fn put<K: Pod, V: Pod>(&self, name: &str, key: K, value: V) -> Result<()> {
        self.with_hash(name, |map: &mut HashMap<_, K, V>| map.insert(key, value, 0))
    }

    /// Removes an entry, which must be there.
    pub fn remove<K: Pod, V: Pod>(&self, name: &str, key: K) -> Result<()> {
        self.with_hash(name, |map: &mut HashMap<_, K, V>| map.remove(&key))
    }

    /// Reads an entry.
    pub fn read<K: Pod, V: Pod>(&self, name: &str, key: K) -> Result<Option<V>> {
        self.with_hash(name, |map: &mut HashMap<_, K, V>| match map.get(&key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// All keys of a hash map.
    pub fn keys<K: Pod, V: Pod>(&self, name: &str) -> Result<Vec<K>> {
        self.with_hash(name, |map: &mut HashMap<_, K, V>| map.keys().collect())
    }

    /// Excludes a network, or marks one out of a shorter prefix.
    pub fn exclude(&self, bits: u32, addr: Addr, excluded: bool) -> Result<()> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(maps::EXCLUDED_NETS).context("no excluded networks")?;
        let mut map = LpmTrie::<_, Addr, u32>::try_from(map)?;
        Ok(map.insert(&Key::new(bits, addr), u32::from(excluded), 0)?)
    }

    /// Takes that back.
    pub fn include(&self, bits: u32, addr: Addr) -> Result<()> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(maps::EXCLUDED_NETS).context("no excluded networks")?;
        Ok(LpmTrie::<_, Addr, u32>::try_from(map)?.remove(&Key::new(bits, addr))?)
    }

    /// Replaces the settings.
    pub fn set(&self, settings: Settings) -> Result<()> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(maps::SETTINGS).context("no settings")?;
        Ok(Array::<_, Settings>::try_from(map)?.set(0, settings, 0)?)
    }

    /// Makes a listening socket the one that connections are steered to.
    pub fn set_listener(&self, key: ListenerKey, socket: &Socket) -> Result<()> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(maps::LISTENERS).context("no listeners")?;
        Ok(SockHash::<_, ListenerKey>::try_from(map)?.insert(key, socket.as_raw_fd(), 0)?)
    }

    /// Takes a listening socket out.
    pub fn remove_listener(&self, key: ListenerKey) -> Result<()> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(maps::LISTENERS).context("no listeners")?;
        Ok(SockHash::<_, ListenerKey>::try_from(map)?.remove(&key)?)
    }

    /// The note that a socket carries.
    pub fn note(&self, socket: &Socket) -> Result<Option<SockNote>> {
        let ebpf = self.ebpf.borrow();
        let map = ebpf.map(maps::NOTES).context("no notes")?;
        match SkStorage::<_, SockNote>::try_from(map)?.get(socket, 0) {
            Ok(note) => Ok(Some(note)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("read a socket's note"),
        }
    }

    /// Gives a socket a note.
    pub fn set_note(&self, socket: &Socket, note: SockNote) -> Result<()> {
        let mut ebpf = self.ebpf.borrow_mut();
        let map = ebpf.map_mut(maps::NOTES).context("no notes")?;
        Ok(SkStorage::<_, SockNote>::try_from(map)?.insert(socket, note, 0)?)
    }

    /// All counters that are not zero.
    pub fn counts(&self) -> Result<Counts> {
        let refusals = Refusal::ALL.map(|refusal| (maps::REFUSED, refusal as u32, format!("{refusal:?}")));
        let events = Counter::ALL.map(|(counter, _)| (maps::COUNTED, counter as u32, format!("{counter:?}")));
        let ebpf = self.ebpf.borrow();
        let mut counts = Counts::new();
        for (map, index, name) in refusals.into_iter().chain(events) {
            let map = ebpf.map(map).with_context(|| format!("no {map}"))?;
            let count: u64 = PerCpuArray::<_, u64>::try_from(map)?.get(&index, 0)?.iter().sum();
            if count > 0 {
                counts.insert(name, count);
            }
        }
        Ok(counts)
    }
}

fn descriptor(map: &Map) -> Result<OwnedFd> {
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LpmTrie(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::PerCpuHashMap(data)
    | Map::RingBuf(data)
    | Map::SkStorage(data)
    | Map::SockHash(data)) = map
    else {
        bail!("a map of a kind that these tests do not know: {map:?}")
    };
    Ok(data.fd().as_fd().try_clone_to_owned()?)
}

/// What has been counted between two looks.
pub fn difference(before: &Counts, after: &Counts) -> Counts {
    let since = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).copied().unwrap_or(0);
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(since).collect()
}
