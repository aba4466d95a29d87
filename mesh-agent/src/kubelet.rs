//! Which process is kubelet: its probes pass to the applications of captured pods, in every mode, with or without an agent.
//!
//! ```text
//! who listens on the kubelet port of the host's namespace? ─▶ socket ─▶ process ─▶ cgroup ─▶ its id into `mesh_kubelet`
//! ```
//!
//! The kernel does the rest: a connect from that cgroup, by a socket of the host's namespace, is noted and admitted
//! (`mesh-ebpf`). A pod can have neither. Looked at again every second, cheaply: a kubelet that was started anew has
//! another socket, and mostly another cgroup.
//!
//! Invariants: never the root cgroup, where anything may run, and never a pod's, whatever listens there; two who listen
//! are nobody. Then probes come as plaintext from outside the mesh, through the agent, and that is said. What else runs in
//! kubelet's cgroup is kubelet.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_telemetry::preflight::Check;

use crate::config;
use crate::kernel::maps::{Maps, cgroup_id};
use crate::netns::{Diag, Netns};
use crate::pods;
use crate::settings;

#[cfg(test)]
mod tests;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two searches of all processes for who holds the same socket, where that led to nothing.
const SEARCH_AGAIN: Duration = Duration::from_secs(30);
/// State of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Where the node's kubelet is to be looked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// The host's network namespace.
    pub host: Arc<Netns>,
    /// The cgroup2 directory below which everything of the node runs.
    pub root: PathBuf,
}

/// A process that listens on the kubelet port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    /// Its pid.
    pub pid: u32,
    /// Its cgroup's directory.
    pub cgroup: PathBuf,
    /// Its cgroup's id.
    pub id: u64,
    /// Line of `/proc/PID/cgroup`: when it changes, the process has moved.
    membership: String,
}

/// Why nobody is kubelet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Nobody listens there.
    #[error("nobody listens on port {0} of the host's network namespace")]
    Nobody(u16),
    /// Somebody does whose process cannot be seen.
    #[error(
        "no process holds the socket that listens on port {0} (is the agent in the host's pid namespace?)"
    )]
    NoProcess(u16),
    /// In the root of all cgroups.
    #[error("kubelet (pid {0}) runs in the root cgroup, where anything may run")]
    Root(u32),
    /// In a pod's cgroup.
    #[error("what listens on port {port} (pid {pid}) is a pod's: {}", cgroup.display())]
    Pod {
        /// The kubelet port.
        port: u16,
        /// Its pid.
        pid: u32,
        /// Its cgroup.
        cgroup: PathBuf,
    },
    /// Processes in different cgroups.
    #[error("processes in several cgroups listen on port {0}")]
    Several(u16),
    /// It is in a cgroup that cannot be found.
    #[error("the cgroup of kubelet (pid {pid}) cannot be found below {}", root.display())]
    NoCgroup {
        /// Its pid.
        pid: u32,
        /// The root of the node's cgroups.
        root: PathBuf,
    },
    /// The host's sockets cannot be listed.
    #[error("the host's listening sockets cannot be read: {0}")]
    Unreadable(String),
}

impl NotFound {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Nobody(_) | Self::Several(_) | Self::Pod { .. } => {
                "name kubelet's port with --kubelet-port or spec.kubeletPort of the MeshConfig"
            }
            Self::NoProcess(_) => "run the agent with hostPID and CAP_SYS_PTRACE",
            Self::Root(_) => {
                "run kubelet as a service with a cgroup of its own (systemd does), or with --kubelet-cgroups"
            }
            Self::NoCgroup { .. } => "name the mount of cgroup2 that kubelet is in with --cgroup",
            Self::Unreadable(_) => "run the agent as root, with CAP_SYS_ADMIN",
        }
    }
}

/// Looks once, and thoroughly.
pub fn find(place: &Place, port: u16) -> Result<Kubelet, NotFound> {
    let listening = listening(&place.host, port).map_err(|error| NotFound::Unreadable(error.to_string()))?;
    search(place, port, &listening)
}

/// The row of `mesh-agent check` and `meshctl check`.
pub fn check(place: &Place, port: u16) -> Check {
    const NAME: &str = "kubelet";
    match find(place, port) {
        Ok(kubelet) => Check::pass(NAME, format!("pid {} in {}", kubelet.pid, kubelet.cgroup.display())),
        // No Kubernetes here.
        Err(NotFound::Nobody(_)) if pods::kubepods(&place.root).is_empty() => {
            Check::pass(NAME, "none, and no pods of one")
        }
        Err(error) => Check::warn(
            NAME,
            format!(
                "{error}; its probes of captured pods are taken for plaintext from outside the mesh, and fail while no agent runs"
            ),
            error.remedy(),
        ),
    }
}

/// Follows kubelet, for as long as the agent lives.
pub struct Follower {
    place: Place,
    maps: Arc<Maps>,
    settings: settings::Shared,
    known: Option<Kubelet>,
    /// Port and sockets of the last search, and when it was.
    searched: Option<(u16, Vec<u64>, Instant)>,
    /// What was last said to be wrong.
    said: Option<NotFound>,
}

impl Follower {
    /// Knows nothing yet.
    pub fn new(place: Place, maps: Arc<Maps>, settings: settings::Shared) -> Self {
        Self { place, maps, settings, known: None, searched: None, said: None }
    }

    /// Looks every second, on a thread of its own: a search reads much of `/proc`.
    pub fn spawn(mut self) -> io::Result<()> {
        let run = move || {
            loop {
                std::thread::sleep(LOOK);
                self.look();
            }
        };
        std::thread::Builder::new().name("kubelet".into()).spawn(run).map(drop)
    }

    /// Looks whether kubelet is still who and where it was, and tells the hooks.
    pub fn look(&mut self) {
        let port = self.settings.load().kubelet_port;
        let listening = match listening(&self.place.host, port) {
            Ok(listening) => listening,
            Err(error) => return self.lost(NotFound::Unreadable(error.to_string())),
        };
        if self.is_searched(port, &listening) {
            return;
        }
        match search(&self.place, port, &listening) {
            Ok(kubelet) => self.found(kubelet),
            Err(NotFound::Nobody(_)) if self.is_restarting(port) => {}
            Err(error) => self.lost(error),
        }
        self.searched = Some((port, listening, Instant::now()));
    }

    /// Nothing is different from the last search.
    fn is_searched(&self, port: u16, listening: &[u64]) -> bool {
        let Some((searched, sockets, when)) = &self.searched else { return false };
        let same = *searched == port && sockets == listening;
        match &self.known {
            Some(known) => {
                let stays = membership(known.pid).is_ok_and(|now| now == known.membership);
                same && stays && self.maps.kubelet() == [known.id]
            }
            None => same && when.elapsed() < SEARCH_AGAIN && self.maps.kubelet().is_empty(),
        }
    }

    /// Kubelet was there on this port: it is being started again, perhaps in the same cgroup.
    fn is_restarting(&self, port: u16) -> bool {
        self.known.is_some() && self.searched.as_ref().is_some_and(|(searched, ..)| *searched == port)
    }

    fn found(&mut self, kubelet: Kubelet) {
        if let Err(error) = self.maps.set_kubelet(Some(kubelet.id)) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "kubelet's probes do not pass by the agent"
            );
            return;
        }
        if self.known.as_ref() != Some(&kubelet) {
            let cgroup = kubelet.cgroup.display();
            tracing::info!(pid = kubelet.pid, %cgroup, "kubelet found: its probes pass to the applications");
        }
        self.said = None;
        self.known = Some(kubelet);
    }

    fn lost(&mut self, why: NotFound) {
        if let Err(error) = self.maps.set_kubelet(None) {
            tracing::error!(error = &error as &dyn std::error::Error, "who was kubelet stays so");
        }
        self.known = None;
        if self.said.as_ref() == Some(&why) {
            return;
        }
        let remedy = why.remedy();
        match &why {
            // As in every mesh without Kubernetes.
            NotFound::Nobody(_) => {
                tracing::info!(remedy, "{why}: no connection is taken for a probe of kubelet's");
            }
            _ => tracing::warn!(
                remedy,
                "{why}: kubelet's probes of captured pods go through the agent as plaintext from outside the mesh"
            ),
        }
        self.said = Some(why);
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("known", &self.known).finish_non_exhaustive()
    }
}

/// Inodes of the sockets that listen on a port of a namespace, smallest first.
fn listening(netns: &Netns, port: u16) -> io::Result<Vec<u64>> {
    // To read /proc/net/tcp is to walk the table of all the machine's connections.
    let mut inodes = match Diag::open(netns).and_then(|diag| diag.listeners()) {
        Ok(all) => all.into_iter().filter(|(at, _)| *at == port).map(|(_, inode)| inode).collect(),
        Err(_no_diag) => listening_by_proc(netns, port)?,
    };
    inodes.sort_unstable();
    inodes.dedup();
    Ok(inodes)
}

/// On a kernel without `CONFIG_INET_DIAG`.
fn listening_by_proc(netns: &Netns, port: u16) -> io::Result<Vec<u64>> {
    netns.within(|| {
        let mut inodes = Vec::new();
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            match File::open(table) {
                Ok(file) => listeners(BufReader::new(file), port, &mut inodes)?,
                // No IPv6 in this kernel.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(inodes)
    })
}

/// Reads a table of sockets as far as the listening ones go: they come first.
fn listeners(table: impl BufRead, port: u16, inodes: &mut Vec<u64>) -> io::Result<()> {
    for line in table.lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
            continue;
        };
        if *state != LISTEN {
            break;
        }
        let at = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if at == Some(port) {
            inodes.extend(inode.parse::<u64>());
        }
    }
    Ok(())
}

/// The process that holds one of the sockets, if it may be kubelet.
fn search(place: &Place, port: u16, listening: &[u64]) -> Result<Kubelet, NotFound> {
    if listening.is_empty() {
        return Err(NotFound::Nobody(port));
    }
    let mut found: Option<Kubelet> = None;
    let mut rejected = None;
    for pid in holders(listening) {
        match judge(place, port, pid) {
            Ok(kubelet) => match &found {
                Some(other) if other.id != kubelet.id => return Err(NotFound::Several(port)),
                Some(_) => {}
                None => found = Some(kubelet),
            },
            Err(error) => rejected = Some(error),
        }
    }
    match (found, rejected) {
        (Some(kubelet), _) => Ok(kubelet),
        (None, Some(error)) => Err(error),
        (None, None) => Err(NotFound::NoProcess(port)),
    }
}

/// Processes that have one of the sockets open.
fn holders(sockets: &[u64]) -> Vec<u32> {
    let links: Vec<PathBuf> = sockets.iter().map(|inode| format!("socket:[{inode}]").into()).collect();
    let holds = |pid: &u32| {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| links.contains(&link)))
    };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(holds).collect()
}

/// Whether a process that listens on the kubelet port may be kubelet.
fn judge(place: &Place, port: u16, pid: u32) -> Result<Kubelet, NotFound> {
    let nowhere = || NotFound::NoCgroup { pid, root: place.root.clone() };
    let membership = membership(pid).map_err(|_gone| NotFound::NoProcess(port))?;
    let cgroup = directory(&place.root, pid, &membership).ok_or_else(nowhere)?;
    // The node itself may be a pod of another one's.
    if pods::is_pods_cgroup(cgroup.strip_prefix(&place.root).unwrap_or(&cgroup)) {
        return Err(NotFound::Pod { port, pid, cgroup });
    }
    let id = cgroup_id(&cgroup).map_err(|_gone| nowhere())?;
    let root = |directory: &Path| cgroup_id(directory).is_ok_and(|root| root == id);
    if root(&place.root) || config::cgroup2_mount().is_ok_and(|mount| root(&mount)) {
        return Err(NotFound::Root(pid));
    }
    Ok(Kubelet { pid, cgroup, id, membership })
}

/// A process' cgroup2 path, as this process sees it.
fn membership(pid: u32) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::Error::other("in no cgroup2 cgroup"))
}

/// The directory of a process' cgroup. The path is told from the root of this process' cgroup namespace, and where that is
/// a pod's own, from the nearest common ancestor (`/../../kubelet.service`, for kubelet beside its pods in one slice): then
/// every cgroup of the node is asked. The process must be in it.
fn directory(root: &Path, pid: u32, membership: &str) -> Option<PathBuf> {
    let path = Path::new(membership);
    let below: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let inside = !path.components().any(|part| part == Component::ParentDir);
    let mounted = inside.then(|| config::cgroup2_mount().ok()).flatten().map(|mount| mount.join(&below));
    let said = mounted.into_iter().chain([root.join(&below)]).find(|said| config::holds_process(said, pid));
    said.or_else(|| config::cgroup_of(root, pid))
}
