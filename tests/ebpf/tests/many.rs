//! One pod keeps more connections open than one destination address and port has room for, at the kernel's defaults.
//!
//! The agent is this test: a process cannot have as many open files everywhere as an agent would need, so several accept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebpf_tests::{Captured, Door, Family, stage};
use lab::{Process, eventually};
use mesh_common::{CapturePorts, ListenerKey};

/// All of a family, and what 28,232 ports towards one destination would have been.
const CONNECTIONS: usize = 40_000;
const ONE_DESTINATIONS: usize = 28_232;
/// Processes that dial, and that accept: each may have 20,000 open files and more, as a rule.
const PROCESSES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn one_pod_keeps_40000_redirected_connections_open() {
    stage::run("one_pod_keeps_40000_redirected_connections_open", |stage, table| {
        for family in Family::ON_THE_WIRE {
            let web = stage.captured()?;
            table.row(family.name(), || {
                let needed = (CONNECTIONS / PROCESSES + 1000) as u64;
                let (_, hard) =
                    lab::preflight::open_files().context("the limit of open files is not known")?;
                ensure!(hard >= needed, "{needed} open files a process are needed, {hard} are allowed");
                let _acceptors = Acceptors::start(web.door(family, ListenerKey::OUTBOUND))?;
                let clients = dial(&web, family)?;
                let by_port = open_by_port(&web, family)?;
                drop(clients);
                let open: usize = by_port.values().sum();
                ensure!(open == CONNECTIONS, "{open} are open, by port {by_port:?}");
                ensure!(open > ONE_DESTINATIONS);
                let ports = by_port.len() as u32;
                ensure!(ports == CapturePorts::COUNT, "only to {ports} ports: {by_port:?}");
                let most = by_port.values().max().context("none")?;
                // By chance: a port that has twice its share is no chance.
                ensure!(*most < 2 * CONNECTIONS / by_port.len(), "unevenly: {by_port:?}");
                Ok(format!("{open} open to {ports} ports, at most {most} each"))
            });
        }
        Ok(())
    });
}

fn dial(web: &Captured<'_>, family: Family) -> Result<Vec<Process>> {
    let to = family.either([10, 99, 0, 1].into(), "fd00:99::1".parse()?, 443).to_string();
    let each = (CONNECTIONS / PROCESSES).to_string();
    let words = ["weft-lab-peer", "hold", "--to", &to, "--connections", &each, "--silent"];
    let mut clients = Vec::new();
    for _ in 0..PROCESSES {
        clients.push(web.pod.spawn(words)?);
    }
    for client in &mut clients {
        let said = eventually(PATIENCE, || match client.stdout_so_far() {
            said if said.contains('\n') => Ok(said),
            _ if !client.is_running() => Ok(String::new()),
            said => Err(format!("it has said {said:?}")),
        })?;
        let report: serde_json::Value =
            serde_json::from_str(said.trim()).with_context(|| client.failure_report())?;
        ensure!(report["failed"] == 0 && report["opened"] == true, "{report}");
    }
    Ok(clients)
}

/// Established connections of clients in the pod, by the port that they were redirected to.
fn open_by_port(web: &Captured<'_>, family: Family) -> Result<BTreeMap<u32, usize>> {
    let table = if family.is_v6() { "/proc/thread-self/net/tcp6" } else { "/proc/thread-self/net/tcp" };
    let text = web.pod.netns_thread(|| std::fs::read_to_string(table))??;
    let mut by_port = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (remote, state) =
            (fields.get(2).context("a short line")?, fields.get(3).context("a short line")?);
        let port = u32::from_str_radix(remote.rsplit_once(':').context("no port")?.1, 16)?;
        if *state == "01" && CapturePorts::holds(port) {
            *by_port.entry(port).or_default() += 1;
        }
    }
    Ok(by_port)
}

/// Copies of this process that accept and keep what they have accepted. They end with the handle.
struct Acceptors(Vec<libc::pid_t>);

impl Acceptors {
    fn start(door: &Door) -> Result<Self> {
        let listener = door.socket().as_raw_fd();
        let mut acceptors = Self(Vec::new());
        for _ in 0..PROCESSES + 1 {
            // SAFETY: the child makes system calls only and never returns.
            match unsafe { libc::fork() } {
                0 => accept_for_ever(listener),
                pid if pid > 0 => acceptors.0.push(pid),
                _ => return Err(std::io::Error::last_os_error()).context("fork"),
            }
        }
        Ok(acceptors)
    }
}

fn accept_for_ever(listener: i32) -> ! {
    // SAFETY: system calls on descriptors of this copy of the process; the one needed is moved to 3, everything else is
    // closed, so that no pipe of the lab stays open here. It ends with the thread that made it, if not before.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::dup2(listener, 3);
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        loop {
            let mut ready = libc::pollfd { fd: 3, events: libc::POLLIN, revents: 0 };
            libc::poll(&raw mut ready, 1, -1);
            let accepted = libc::accept4(3, std::ptr::null_mut(), std::ptr::null_mut(), 0);
            if accepted < 0 && *libc::__errno_location() == libc::EMFILE {
                // The others go on.
                loop {
                    libc::pause();
                }
            }
        }
    }
}

impl Drop for Acceptors {
    fn drop(&mut self) {
        for pid in &self.0 {
            // SAFETY: children of ours that nobody else waits for; null status is allowed.
            unsafe {
                libc::kill(*pid, libc::SIGKILL);
                libc::waitpid(*pid, std::ptr::null_mut(), 0);
            }
        }
    }
}
