//! A lab of one node with the kernel half attached, and the test in the place of the agent.
//!
//! ```text
//!   node a ── cgroup: the hooks ── kubepods (recorded as kubelet's)
//!     ├─ weft-system/agent   a hand whose cgroup every hook lets pass (`mesh_self`)
//!     └─ shop/…              pods that nobody has recorded until a row does
//! ```

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::links::FdLink;
use lab::row::Table;
use lab::{Lab, Pod};
use mesh_common::{AddrEntry, CgroupEntry, PodEntry, Settings, maps};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use socket2::Socket;

use crate::captured::Captured;
use crate::family::{Family, addr};
use crate::hand::Hand;
use crate::hooks::{Counts, Hooks, difference, refused_errno};

/// A SYN without an answer is sent again after a second.
const BEFORE_THE_NEXT_SYN: Duration = Duration::from_millis(300);

/// The node.
pub const NODE: &str = "a";

/// The lab, the hooks, and the one whom they let pass.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// The kernel half.
    pub hooks: Hooks,
    /// In the place of the agent.
    pub agent: Hand,
    host_cookie: u64,
    _links: Vec<(&'static str, FdLink)>,
    next_pod: Cell<u32>,
}

/// Runs a table of rows on a stage of its own; where there can be no lab, it is reported as skipped. Stages follow one
/// another: while one test starts a process, that has copies of all descriptors for a moment, and what another test
/// closes (a listener, a link) would not be closed.
///
/// # Panics
/// If the stage cannot be set or a row fails.
pub fn run(test: &str, play: impl FnOnce(&Stage<'_>, &mut Table) -> Result<()>) {
    if !lab::ready(test) {
        return;
    }
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Lab::builder().node(NODE).without_mesh().run(|lab| {
        let stage = Stage::set(lab)?;
        let mut table = Table::new(test);
        play(&stage, &mut table)?;
        table.finish();
        Ok(())
    });
}

impl<'a> Stage<'a> {
    /// Loads and attaches, with a world that is complete.
    pub fn set(lab: &'a Lab) -> Result<Self> {
        let hooks = Hooks::load(None)?;
        let links = hooks.attach(lab.node(NODE).cgroup().path())?;
        Self::with(lab, hooks, links)
    }

    /// The same with hooks that are attached already.
    pub fn with(lab: &'a Lab, hooks: Hooks, links: Vec<(&'static str, FdLink)>) -> Result<Self> {
        let pod = lab.pod("weft-system/agent").node(NODE).start()?;
        let agent = Hand::in_pod(lab, &pod)?;
        hooks.put(maps::SELF, agent.cgroup_id()?, 1_u32)?;
        let kubepods = lab::cgroup::Cgroup::at(lab.node(NODE).cgroup().path().join("kubepods"));
        let entry = CgroupEntry { netns_cookie: 0, state: CgroupEntry::KUBEPODS, flags: 0 };
        hooks.put(maps::CGROUPS, kubepods.id()?, entry)?;
        let host_cookie = lab.node(NODE).netns_thread(netns_cookie)??;
        let stage = Self { lab, hooks, agent, host_cookie, _links: links, next_pod: Cell::new(1) };
        stage.world(true, false)?;
        Ok(stage)
    }

    /// Says whether the world is complete and whether unknown pods may connect.
    pub fn world(&self, complete: bool, allow_unknown: bool) -> Result<()> {
        self.settings(complete, allow_unknown, 0)
    }

    /// The same, and which kinds of exclusions are to be looked up.
    pub fn settings(&self, complete: bool, allow_unknown: bool, exclusions: u32) -> Result<()> {
        self.write(complete, allow_unknown, exclusions, 0)
    }

    /// Says that the world is complete, and what the tables are good for: flags of [`Settings`].
    pub fn tables(&self, flags: u32) -> Result<()> {
        self.write(true, false, 0, flags)
    }

    fn write(&self, complete: bool, allow_unknown: bool, exclusions: u32, flags: u32) -> Result<()> {
        self.hooks.set(Settings {
            abi: Settings::ABI,
            world_complete: complete.into(),
            allow_unknown: allow_unknown.into(),
            exclusions,
            host_cookie: self.host_cookie,
            flags,
            next_number: 1,
        })
    }

    /// A fresh pod that nobody has recorded.
    pub fn pod(&self) -> Result<Arc<Pod>> {
        let number = self.next_pod.replace(self.next_pod.get() + 1);
        self.lab.pod(&format!("shop/pod-{number}")).node(NODE).start()
    }

    /// A fresh pod, recorded as outside the mesh, with a hand in it.
    pub fn outsider(&self) -> Result<(Arc<Pod>, Hand)> {
        let pod = self.pod()?;
        self.record(&pod, PodEntry::STATE_EXCLUDED)?;
        let hand = Hand::in_pod(self.lab, &pod)?;
        Ok((pod, hand))
    }

    /// A fresh pod that is captured.
    pub fn captured(&self) -> Result<Captured<'_>> {
        Captured::capture(self, self.pod()?)
    }

    /// Records a pod by its namespace and its cgroup.
    pub fn record(&self, pod: &Pod, state: u32) -> Result<()> {
        self.record_namespace(pod, state)?;
        self.record_cgroup(pod, state, cookie(pod)?)
    }

    /// Records a pod by its namespace alone.
    pub fn record_namespace(&self, pod: &Pod, state: u32) -> Result<()> {
        let (addr4, addr6) = (addr(pod.v4().into()), addr(pod.v6().into()));
        self.hooks.put(maps::PODS, cookie(pod)?, PodEntry { state, reserved: 0, addr4, addr6 })
    }

    /// Records a pod by its cgroup alone.
    pub fn record_cgroup(&self, pod: &Pod, state: u32, netns_cookie: u64) -> Result<()> {
        let entry = CgroupEntry { netns_cookie, state, flags: 0 };
        self.hooks.put(maps::CGROUPS, pod.cgroup().id()?, entry)
    }

    /// Says what becomes of what arrives at a pod's addresses.
    pub fn record_addresses(&self, pod: &Pod, state: u32) -> Result<()> {
        let netns_cookie = cookie(pod)?;
        for ip in pod.addresses() {
            self.hooks.put(maps::ADDRS, addr(ip), AddrEntry { netns_cookie, state, reserved: 0 })?;
        }
        Ok(())
    }

    /// Does something and says what the hooks counted meanwhile.
    pub fn counting<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, Counts)> {
        let before = self.hooks.counts()?;
        let value = act()?;
        Ok((value, difference(&before, &self.hooks.counts()?)))
    }

    /// Does something in which the hooks count exactly this.
    pub fn counts<T>(&self, expected: &[(&str, u64)], act: impl FnOnce() -> Result<T>) -> Result<T> {
        let (value, counted) = self.counting(act)?;
        let expected: Counts = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        ensure!(counted == expected, "counted {counted:?} and not {expected:?}");
        Ok(value)
    }

    /// Does something that connect(2) refuses, for a reason that is counted once; nothing else is counted.
    pub fn refused<T>(&self, reason: &str, act: impl FnOnce() -> Result<std::io::Result<T>>) -> Result<()> {
        let error = self.counts(&[(reason, 1)], || match act()? {
            Ok(_) => anyhow::bail!("connected, which should have been refused ({reason})"),
            Err(error) => Ok(error),
        })?;
        ensure!(error.raw_os_error() == Some(refused_errno()), "connect said {error}");
        Ok(())
    }

    /// Lets a socket that is bound to loopback connect, which a RST ends; the hooks count exactly this.
    ///
    /// No RST ever gets to `::1` from the pod's own address: Linux sends it by the interface of that address, which does
    /// not lead to loopback (`rt6_need_strict`). There such a connect is in vain and stays without an answer, so it is
    /// given up before its SYN is sent again.
    pub fn reset_on_loopback(
        &self,
        family: Family,
        counted: &[(&str, u64)],
        socket: &Socket,
        connect: impl FnOnce(&Socket) -> Result<std::io::Result<()>>,
    ) -> Result<()> {
        if family.is_v6() {
            socket.set_write_timeout(Some(BEFORE_THE_NEXT_SYN))?;
        }
        let error = self.counts(counted, || Ok(connect(socket)?.err()))?.context("it connected")?;
        let waits = family.is_v6() && error.raw_os_error() == Some(libc::EINPROGRESS);
        ensure!(waits || error.raw_os_error() == Some(libc::ECONNREFUSED), "connect said {error}");
        Ok(())
    }

    /// Does something that a RST ends, for a reason that is counted once; nothing else is counted.
    pub fn reset<T>(&self, reason: &str, act: impl FnOnce() -> Result<std::io::Result<T>>) -> Result<()> {
        let error = self.counts(&[(reason, 1)], || match act()? {
            Ok(_) => anyhow::bail!("connected, which should have been reset ({reason})"),
            Err(error) => Ok(error),
        })?;
        ensure!(error.raw_os_error() == Some(libc::ECONNREFUSED), "connect said {error}");
        Ok(())
    }
}

/// Cookie of a pod's network namespace.
pub fn cookie(pod: &Pod) -> Result<u64> {
    pod.netns_thread(netns_cookie)?.with_context(|| format!("cookie of {}", pod.key()))
}

/// Cookie of the calling thread's network namespace.
fn netns_cookie() -> Result<u64> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` says how large the first is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(std::io::Error::last_os_error()).context("SO_NETNS_COOKIE") } else { Ok(cookie) }
}
