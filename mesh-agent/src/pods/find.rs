//! From a pod's UID to its cgroup and network namespace, and back.
//!
//! Kubelet makes one directory a pod, before its sandbox, in one of two layouts:
//!
//! ```text
//! cgroupfs  kubepods/{,burstable/,besteffort/}pod<UID>/<container>
//! systemd   kubepods.slice/{,kubepods-burstable.slice/…}kubepods-burstable-pod<UID with _ for ->.slice/<container>.scope
//! ```
//!
//! A container's directory is `<id>` (containerd, and others under cgroupfs), `crio-<id>`, or under systemd
//! `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`; what runs containers inside of one makes more below it.
//! None of these names is read: a pod is its own directory and all that is below. A static pod's UID is kubelet's hash of its
//! manifest, without dashes.
//!
//! Also below one more `kubelet…` directory (nested nodes, `--cgroup-root`). Nothing is written.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mesh_model::{Uid, Workload};

use super::listeners;
use crate::netns::Netns;

#[cfg(test)]
mod tests;

/// What a directory of the cgroup tree is to kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Directory {
    /// The top of all pods.
    Kubepods,
    /// A directory in which `kubepods` may be.
    Above,
    /// A quality-of-service class, in `kubepods`.
    Class,
    /// One pod, in `kubepods` or in a class.
    Pod(Uid),
    /// Nothing of kubelet's.
    Other,
}

/// Reads a directory's name.
pub(super) fn classify(name: &str) -> Directory {
    if let Some(uid) = pod_uid(name) {
        return Directory::Pod(uid);
    }
    let bare = name.strip_suffix(".slice").unwrap_or(name);
    match bare {
        "kubepods" => Directory::Kubepods,
        _ if bare.ends_with("-kubepods") => Directory::Kubepods,
        "burstable" | "besteffort" => Directory::Class,
        _ if bare.ends_with("kubepods-burstable") || bare.ends_with("kubepods-besteffort") => {
            Directory::Class
        }
        _ if bare.starts_with("kubelet") => Directory::Above,
        _ => Directory::Other,
    }
}

/// Whether a cgroup is a pod's, by its path below the node's root.
pub fn is_pods_cgroup(path: &Path) -> bool {
    path.iter().any(|name| name.to_str().map(classify) == Some(Directory::Kubepods))
}

/// Every top of kubelet's pods below `root`.
pub fn kubepods(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            match entry.file_name().to_str().map(classify) {
                Some(Directory::Kubepods) => found.push(entry.path()),
                Some(Directory::Above) => open.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

/// `pod<UID>` or `kubepods[-class]-pod<UID_>.slice`. A UID has letters, digits and dashes (a static pod's has no dash).
fn pod_uid(name: &str) -> Option<Uid> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid.replace('_', "-"))?,
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let plausible = uid.len() >= 8 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plausible.then(|| Uid::new(&uid))
}

/// Every process in a cgroup and below it. Processes of other pid namespaces show as 0 and are left out.
pub(super) fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![cgroup.to_owned()];
    while let Some(directory) = open.pop() {
        if let Ok(list) = fs::read_to_string(directory.join("cgroup.procs")) {
            found.extend(list.lines().filter_map(|pid| pid.parse::<u32>().ok()).filter(|pid| *pid != 0));
        }
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        open.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}

/// Whether any process lives in the cgroup or below it. A missing cgroup has none; one that cannot be looked at (the agent
/// is out of descriptors) is no reason to let a pod go.
pub(super) fn is_populated(cgroup: &Path) -> bool {
    match fs::read_to_string(cgroup.join("cgroup.events")) {
        Ok(events) => events.contains("populated 1"),
        Err(error) => !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)),
    }
}

/// Whether all that can be seen in a cgroup lives in the host's network namespace, by the inode of that.
pub(super) fn is_on_host(cgroup: &Path, host: Option<u64>) -> bool {
    let pids = processes(cgroup);
    let lives_there = |pid: &u32| match fs::metadata(format!("/proc/{pid}/ns/net")) {
        Ok(netns) => Some(netns.ino()) == host,
        // One that has ended is nowhere; one that cannot be looked at may be anywhere.
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)),
    };
    !pids.is_empty() && pids.iter().all(lives_there)
}

/// Which network namespace a pod's processes are in.
#[derive(Debug)]
pub(super) enum Sandbox {
    /// No process yet, or only such as are still on their way into the namespace.
    NotYet,
    /// Its own.
    Own(Netns),
}

/// Looks for the pod's namespace: the one of its oldest process that is not in the host's. That process is the sandbox's;
/// whoever opens a namespace of his own (containers in a container) is younger. `known` is the namespace it had before;
/// while a process lives in it, it stays the pod's.
pub(super) fn sandbox(cgroup: &Path, host_cookie: u64, known: Option<u64>) -> io::Result<Sandbox> {
    let mut candidate = None;
    let mut pids = processes(cgroup);
    pids.sort_by_cached_key(|pid| (started(*pid), *pid));
    for pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let netns = match Netns::open(&path) {
            Ok(netns) => netns,
            // The process ended meanwhile.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => continue,
            Err(error) => return Err(error),
        };
        if netns.cookie() == host_cookie {
            continue;
        }
        if Some(netns.cookie()) == known {
            return Ok(Sandbox::Own(netns));
        }
        if known.is_none() {
            return Ok(Sandbox::Own(netns));
        }
        if candidate.is_none() {
            candidate = Some(netns);
        }
    }
    Ok(candidate.map_or(Sandbox::NotYet, Sandbox::Own))
}

/// When a process was started, in ticks since the boot; one that ended meanwhile comes last.
fn started(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    start_of(&stat).unwrap_or(u64::MAX)
}

/// Field 22 of proc_pid_stat(5). The second, the program's name, may hold anything, blanks and parentheses too.
fn start_of(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Every address that a namespace has, loopback and link-local ones too.
fn addresses(netns: &Netns) -> io::Result<Vec<IpAddr>> {
    netns.within(|| {
        let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
            let address = interface.address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (None, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                (None, None) => None,
            }
        });
        Ok(addresses.collect())
    })
}

/// What the Pod object says, or else what the namespace has; at most one of each family. None where the object speaks of
/// another sandbox than this one: it is about to say something new.
pub(super) fn own_addresses(workload: &Workload, netns: &Netns) -> Vec<IpAddr> {
    let said = workload.owned_addresses();
    if said.is_empty() {
        return listeners::addresses_of(netns).unwrap_or_default();
    }
    // One that is there is enough. What a pod took off its own interface is its own all the same.
    let present = addresses(netns).unwrap_or_default();
    if !said.iter().any(|address| present.contains(address)) {
        return Vec::new();
    }
    let mut own: Vec<IpAddr> = Vec::new();
    for address in said {
        if !own.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            own.push(*address);
        }
    }
    own
}

/// Pods that kubelet has started, by the directories of its logs: `NAMESPACE_NAME_UID`.
pub(super) fn logged_pods(pod_logs: &Path) -> Vec<(String, String, Uid)> {
    let Ok(entries) = fs::read_dir(pod_logs) else { return Vec::new() };
    entries.flatten().filter_map(|entry| parse_log_directory(entry.file_name().to_str()?)).collect()
}

fn parse_log_directory(name: &str) -> Option<(String, String, Uid)> {
    let mut parts = name.splitn(3, '_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    Some((namespace.to_owned(), pod.to_owned(), Uid::new(uid)))
}
