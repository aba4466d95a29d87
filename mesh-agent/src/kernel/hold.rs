//! Taking hold of a node, letting go of it, and coming back.
//!
//! ```text
//! loaded ── take_hold ─▶ pinned and attached ── let_go ─▶ loaded ── take_hold ─▶ …
//! ```
//!
//! Programs and maps stay loaded in between, held by the agent alone: its maps keep what they say, and connections that
//! run are relayed on. Invariant: the agent's own cgroup and kubelet's are known before any hook is attached.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::Map;
use mesh_common::{CgroupEntry, maps as map_names, paths};

use super::maps::{Maps, cgroup_id};
use super::{Kernel, KernelError, clear, links};

impl Kernel {
    /// Pins the maps, lets the agent pass, and attaches the hooks at `cgroup`. `kubepods`: below which kubelet's pods are;
    /// from the first hook on, who is there is a pod.
    pub fn take_hold(
        &mut self,
        maps: &Maps,
        cgroup: &Path,
        own_cgroup: u64,
        kubepods: &[PathBuf],
    ) -> Result<(), KernelError> {
        make_directories(&self.pins)?;
        for (name, map) in &self.maps {
            let path = self.pins.join(paths::MAPS).join(name);
            if !path.exists() {
                links::pin_again(map.as_fd(), &path).map_err(|source| KernelError::Pins { path, source })?;
            }
        }
        maps.add_agent(own_cgroup)?;
        for directory in kubepods {
            let id = cgroup_id(directory)
                .map_err(|source| KernelError::Kubepods { path: directory.clone(), source })?;
            let entry = CgroupEntry { netns_cookie: 0, state: CgroupEntry::KUBEPODS, flags: 0 };
            maps.set_cgroup(id, entry)?;
        }
        self.attach(cgroup)?;
        maps.keep_only_agent(own_cgroup)?;
        Ok(())
    }

    /// Detaches every hook and removes every pin: the node is as before, but for connections that run.
    pub fn let_go(&mut self) -> io::Result<()> {
        self.hooks.clear();
        self.lookups.clear();
        self.guards.clear();
        self.cgroup = None;
        clear(&self.pins).map(drop)
    }
}

pub(super) fn make_directories(pins: &Path) -> Result<(), KernelError> {
    for directory in [paths::MAPS, paths::LINKS, paths::PODS, paths::GUARDS] {
        let path = pins.join(directory);
        fs::create_dir_all(&path).map_err(|source| KernelError::Pins { path, source })?;
    }
    Ok(())
}

/// A second descriptor of every map that is pinned.
pub(super) fn descriptors(ebpf: &Ebpf) -> Result<Vec<(&'static str, OwnedFd)>, KernelError> {
    let held = |name: &'static str| {
        let map = ebpf.map(name).ok_or(KernelError::Missing(name))?;
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
            return Err(KernelError::Missing(name));
        };
        let path = PathBuf::from(name);
        let fd = data.fd().as_fd().try_clone_to_owned();
        fd.map(|fd| (name, fd)).map_err(|source| KernelError::Pins { path, source })
    };
    map_names::ALL.into_iter().map(held).collect()
}
