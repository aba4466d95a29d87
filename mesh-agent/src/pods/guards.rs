//! Guards on the devices of this node's pods, and whether all of them have one.
//!
//! ```text
//! a pod's namespace is known ─▶ its devices on the host's side ─▶ guard attached, `mesh_devices` says what may pass
//! every pod that runs is guarded ─▶ connections between pods of the node may go directly
//! ```
//!
//! A pod whose devices cannot be guarded (another kind of device, a card of its own, an older kernel), or to which the host's route
//! does not lead through its own device, is named, once, and no connection on this node goes directly while it runs: a pod that
//! nobody watches could claim to be any other, and what is sent elsewhere leaves the node in plain text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::GuardedDevice;
use mesh_model::Uid;

use super::pod::Pod;
use crate::kernel::Kernel;
use crate::kernel::maps::{Maps, addr};
use crate::netns::{Device, HostDevices, Netns, way_to};

/// What may leave a pod.
#[derive(Clone, Copy)]
pub(super) enum Guard<'a> {
    /// Nothing from a captured pod's address.
    Others,
    /// The same, unless a predecessor of this agent knew the pod better: then as that said.
    Pending,
    /// Nothing but from this pod's own.
    Own(&'a Pod),
    /// The same, and no connection into the mesh that the hooks have not seen. Not at once where the pod was outside the mesh
    /// until now: what it began to dial then is still on its way.
    Strict(&'a Pod),
}

/// What was done about each pod.
pub(super) struct Guards {
    host: Arc<Netns>,
    pods: HashMap<Uid, Guarded>,
}

struct Guarded {
    cookie: u64,
    netns: Arc<Netns>,
    /// Of the devices that lead to its own addresses.
    wanted: GuardedDevice,
    /// Where the host's routes to its addresses led.
    ways: Vec<(IpAddr, u32)>,
    /// Indices on the host's side; what was written of them.
    devices: BTreeMap<u32, GuardedDevice>,
    /// Why it is not guarded.
    failure: Option<String>,
}

struct Wanted<'a> {
    entry: GuardedDevice,
    addresses: &'a [IpAddr],
    /// A row that a predecessor wrote for this pod is at least as strict, and stays.
    keeps_older: bool,
}

impl Guards {
    pub(super) fn new(host: Arc<Netns>) -> Self {
        Self { host, pods: HashMap::new() }
    }

    /// Why a pod is not guarded; `None` if it is, or nothing was tried yet.
    pub(super) fn failure(&self, uid: &Uid) -> Option<&str> {
        self.pods.get(uid)?.failure.as_deref()
    }

    /// Whether everything that leaves a pod's namespace is seen.
    pub(super) fn is_guarded(&self, uid: &Uid, cookie: u64) -> bool {
        self.pods.get(uid).is_some_and(|guarded| guarded.cookie == cookie && guarded.failure.is_none())
    }

    pub(super) fn keep(
        &mut self,
        uid: &Uid,
        netns: &Arc<Netns>,
        what: Guard<'_>,
        kernel: &mut Kernel,
        maps: &Maps,
    ) {
        let (captured, guard) = match what {
            Guard::Others | Guard::Pending => (None, GuardedDevice::OTHERS),
            Guard::Own(pod) => (Some(pod), GuardedDevice::OWN),
            Guard::Strict(pod) => (Some(pod), GuardedDevice::STRICT),
        };
        let of_family = |v4: bool| {
            let mut own = captured.iter().flat_map(|pod| &pod.addresses);
            own.find(|address| address.is_ipv4() == v4).map(|address| addr(*address)).unwrap_or_default()
        };
        let entry = GuardedDevice {
            netns_cookie: netns.cookie(),
            guard,
            reserved: 0,
            addr4: of_family(true),
            addr6: of_family(false),
        };
        let known = self.pods.get(uid).filter(|guarded| guarded.cookie == netns.cookie());
        if known.is_some_and(|known| known.failure.is_none() && known.wanted == entry) {
            return;
        }
        if known.is_none() {
            self.release(uid, kernel, maps);
        }
        let had = self.pods.remove(uid);
        let addresses = captured.map_or(&[][..], |pod| &pod.addresses);
        let mut devices = had.as_ref().map(|had| had.devices.clone()).unwrap_or_default();
        let wanted = Wanted { entry, addresses, keeps_older: matches!(what, Guard::Pending) };
        let mut ways = Vec::new();
        let failure = self.attach(netns, &wanted, kernel, maps, &mut devices, &mut ways).err();
        if let Some(error) = &failure
            && had.as_ref().and_then(|had| had.failure.as_ref()) != Some(error)
        {
            tracing::warn!(%uid, error, "a pod cannot be guarded: no connection on this node goes directly while it runs");
        }
        let (cookie, netns) = (netns.cookie(), netns.clone());
        self.pods.insert(uid.clone(), Guarded { cookie, netns, wanted: entry, ways, devices, failure });
    }

    fn attach(
        &self,
        netns: &Netns,
        wanted: &Wanted<'_>,
        kernel: &mut Kernel,
        maps: &Maps,
        done: &mut BTreeMap<u32, GuardedDevice>,
        led: &mut Vec<(IpAddr, u32)>,
    ) -> Result<(), String> {
        let chain = |error: &dyn std::error::Error| crate::outbound::Chain(error).to_string();
        let look = || HostDevices::look(&self.host)?.of(&self.host, netns);
        let devices = look().map_err(|error| error.to_string())?;
        let ways: Vec<_> =
            wanted.addresses.iter().map(|address| (*address, way_to(&self.host, *address))).collect();
        let leads_to = |device: &Device, way: u32| device.index == way || device.master == Some(way);
        for device in &devices {
            let is_first = ways.iter().any(|(_, way)| way.as_ref().is_ok_and(|way| leads_to(device, *way)));
            // Of a second network, whose addresses nobody here knows: not another's, that is all.
            let own = if is_first { wanted.entry.guard } else { GuardedDevice::OTHERS };
            let older = maps.device(device.index).filter(|older| older.netns_cookie == netns.cookie());
            let entry = match older {
                Some(older) if wanted.keeps_older => older,
                _ => GuardedDevice { guard: own, ..wanted.entry },
            };
            // What may pass before who looks: an entry that is not there lets everything pass.
            maps.set_device(device.index, entry).map_err(|error| chain(&error))?;
            kernel.guard(&self.host, device.index, &device.name).map_err(|error| chain(&error))?;
            done.insert(device.index, entry);
        }
        for (address, way) in ways {
            let way = way.map_err(|error| format!("no route to {address}: {error}"))?;
            // A bridge, of which the guard asks whether what goes there stays here.
            if devices.iter().any(|device| device.master == Some(way)) {
                let bridge = GuardedDevice { guard: GuardedDevice::BRIDGE, ..GuardedDevice::default() };
                maps.set_device(way, bridge).map_err(|error| chain(&error))?;
            }
            if !devices.iter().any(|device| leads_to(device, way)) {
                return Err(format!(
                    "the host's route to {address} leads through device {way}, which is not the pod's: what goes there may leave the node"
                ));
            }
            led.push((address, way));
        }
        Ok(())
    }

    /// Every guard is gone with the node's hooks and pins.
    pub(super) fn forget_all(&mut self) {
        self.pods.clear();
    }

    pub(super) fn release(&mut self, uid: &Uid, kernel: &mut Kernel, maps: &Maps) {
        let Some(old) = self.pods.remove(uid) else { return };
        let is_a_way =
            |index: u32| self.pods.values().flat_map(|pod| &pod.ways).any(|(_, way)| *way == index);
        for (_, way) in old.ways.iter().filter(|(_, way)| !old.devices.contains_key(way) && !is_a_way(*way)) {
            if let Err(error) = maps.remove_device(*way) {
                tracing::warn!(%uid, index = way, error = &error as &dyn std::error::Error, "a bridge stays recorded");
            }
        }
        for index in old.devices.into_keys() {
            let removed = maps.remove_device(index).map_err(|error| error.to_string());
            let removed = removed.and_then(|()| kernel.unguard(index).map_err(|error| error.to_string()));
            if let Err(error) = removed {
                tracing::warn!(%uid, index, error, "a pod's guard stays");
            }
        }
    }

    /// Guards of a predecessor whose devices are no pod's here.
    pub(super) fn forget_strangers(&self, kernel: &mut Kernel, maps: &Maps) {
        let is_way = |guarded: &Guarded, index: u32| guarded.ways.iter().any(|(_, way)| *way == index);
        let known = |index: &u32| {
            self.pods.values().any(|one| one.devices.contains_key(index) || is_way(one, *index))
        };
        for index in kernel.guarded().into_iter().filter(|index| !known(index)) {
            if let Err(error) = kernel.unguard(index) {
                tracing::warn!(index, %error, "a guard of nobody's stays");
            }
        }
        for index in maps.devices().into_iter().filter(|index| !known(index)) {
            if let Err(error) = maps.remove_device(index) {
                tracing::warn!(index, error = &error as &dyn std::error::Error, "a device stays recorded");
            }
        }
    }

    /// Looks whether somebody else changed something; what can be put back is. Whose guards are not as they were, or never were as
    /// they should be: they are to be driven, which attaches what is missing, and count as unguarded until then. How many were
    /// guarded before. `all`: the pods' devices and the routes to them, too, which is more work.
    pub(super) fn verify(&mut self, kernel: &mut Kernel, maps: &Maps, all: bool) -> (Vec<Uid>, usize) {
        let (mut again, mut lost) = (Vec::new(), 0);
        let host = all.then(|| HostDevices::look(&self.host).ok()).flatten();
        for (uid, guarded) in &mut self.pods {
            if guarded.failure.is_some() {
                again.push(uid.clone());
                continue;
            }
            let mut held = true;
            for (index, entry) in &guarded.devices {
                let right = maps.device(*index) == Some(*entry);
                if !right && let Err(error) = maps.set_device(*index, *entry) {
                    tracing::debug!(
                        index,
                        error = &error as &dyn std::error::Error,
                        "a device cannot be recorded"
                    );
                }
                held &= right;
                match kernel.verify_guard(*index) {
                    Ok(is_held) => held &= is_held,
                    Err(error) => tracing::debug!(index, %error, "a guard cannot be looked at"),
                }
            }
            let leads =
                |(address, way): &(IpAddr, u32)| way_to(&self.host, *address).is_ok_and(|now| now == *way);
            // A device that was given to it since, or one that cannot be guarded.
            let same_devices = host.as_ref().is_none_or(|host| {
                let now = host.of(&self.host, &guarded.netns);
                now.is_ok_and(|now| {
                    let now: BTreeSet<u32> = now.iter().map(|device| device.index).collect();
                    now.iter().eq(guarded.devices.keys())
                })
            });
            if !held || !same_devices || (all && !guarded.ways.iter().all(leads)) {
                guarded.failure = Some("its guard, its devices or the route to it changed".into());
                again.push(uid.clone());
                lost += usize::from(!held);
            }
        }
        (again, lost)
    }
}
