//! The guard on the host's side of every pod's device: attached, pinned, put back.
//!
//! As a TCX link (Linux 6.6), before whatever else is attached there, so that nobody can pass a packet on around it; pinned, so
//! that it outlives the agent like the hooks. On an older kernel no device is guarded, and no connection goes directly.
//! Not here: which device is whose (`netns::devices`), and what follows where one cannot be guarded.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, Program, SchedClassifier, TcAttachType};
use mesh_common::{paths, programs};

use super::{Kernel, KernelError, links, system_error};
use crate::netns::Netns;

impl Kernel {
    /// Guards a device of the host's, or puts this program in its predecessor's place. `name`: of the device, now.
    pub fn guard(&mut self, host: &Netns, index: u32, name: &str) -> Result<(), KernelError> {
        if self
            .guards
            .get(&index)
            .is_some_and(|link| links::info(link.as_fd()).is_ok_and(|info| info.is_attached()))
        {
            return Ok(());
        }
        let pin = self.guard_pin(index);
        let failed = |source| KernelError::Attach {
            name: programs::GUARD,
            target: format!("device {name} of the host"),
            source,
        };
        let Program::SchedClassifier(program) = self.program(programs::GUARD)? else {
            return Err(KernelError::Missing(programs::GUARD));
        };
        let fd = program.fd().map_err(|error| failed(io::Error::other(error)))?;
        let fd = fd.try_clone().map_err(|error| failed(io::Error::other(error)))?;
        // One of a device that is gone, whose index is another's now, says that it is attached to nothing.
        let link = match links::replace(&pin, fd.as_fd()).map_err(failed)? {
            Some(link) => link,
            None => {
                let link = host.within(|| attach(program, name)).map_err(failed)?;
                links::pin(link, &pin).map_err(failed)?
            }
        };
        self.guards.insert(index, link);
        Ok(())
    }

    /// Lets a device go: its pod is gone.
    pub fn unguard(&mut self, index: u32) -> io::Result<()> {
        self.guards.remove(&index);
        links::remove(&self.guard_pin(index))
    }

    /// Whether a guard runs this program and is pinned; what is wrong with that is put right. One that was detached is dead,
    /// and forgotten: its device is gone, or `guard` attaches another.
    pub fn verify_guard(&mut self, index: u32) -> io::Result<bool> {
        let pin = self.guard_pin(index);
        let Some(link) = self.guards.get(&index) else { return Ok(true) };
        let info = links::info(link.as_fd())?;
        if !info.is_attached() {
            self.guards.remove(&index);
            return Ok(false);
        }
        let pinned = links::open(&pin).and_then(|pinned| links::info(pinned.as_fd()));
        if pinned.is_ok_and(|pinned| pinned.id == info.id) {
            return Ok(true);
        }
        links::pin_again(link.as_fd(), &pin).map(|()| false)
    }

    /// Devices with a pinned guard.
    pub fn guarded(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(self.pins.join(paths::GUARDS)) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    fn guard_pin(&self, index: u32) -> PathBuf {
        self.pins.join(paths::GUARDS).join(index.to_string())
    }
}

/// On a thread in the host's namespace.
fn attach(program: &mut SchedClassifier, name: &str) -> io::Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(name, TcAttachType::Ingress, options).map_err(system_error)?;
    program.take_link(id).map_err(system_error)?.try_into().map_err(io::Error::other)
}
