//! Sees pods' cgroups come, fill, empty and go, as it happens.
//!
//! ```text
//! inotify on kubelet's directories ─▶ Appeared(UID, directory) … Gone(UID)
//! inotify on each pod's cgroup.events (the kernel notifies it when `populated` turns) ─▶ Changed(UID)
//! inotify on --pod-logs ─▶ Logged
//! ```
//!
//! One thread that only reads and reports; a full sweep every few seconds catches what an overflowing queue lost, so
//! every report may come twice. Not here: what a pod is (`enroll`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_model::Uid;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::os::fd::AsFd;
use tokio::sync::mpsc::UnboundedSender;

use super::find::{Directory, classify};

/// How often everything is looked at again.
const SWEEP: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The top of kubelet's pods.
    Kubepods(PathBuf),
    /// A pod's cgroup.
    Appeared(Uid, PathBuf),
    /// A pod's cgroup was filled or emptied.
    Changed(Uid),
    /// A pod's cgroup was removed.
    Gone(Uid),
    /// Kubelet made a log directory.
    Logged,
}

/// What the watch needs of the kernel, which may have none left: to be opened before the node is taken hold of.
#[derive(Debug)]
pub struct Watch(Inotify);

impl Watch {
    /// One of root's `fs.inotify.max_user_instances`, often 128, which nodes that are containers share.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?))
    }
}

/// Starts watching below `root`, on a thread that ends with the receiver.
pub(super) fn spawn(
    watch: Watch,
    root: PathBuf,
    pod_logs: PathBuf,
    seen: UnboundedSender<Seen>,
) -> std::io::Result<()> {
    let Watch(inotify) = watch;
    std::thread::Builder::new().name("cgroup-watch".into()).spawn(move || {
        let mut watcher =
            Watcher { inotify, root, pod_logs, seen, watched: HashMap::new(), pods: HashMap::new() };
        if let Err(error) = watcher.run() {
            tracing::error!(%error, "the watch on the pods' cgroups ended; pods are no longer taken in");
        }
    })?;
    Ok(())
}

/// What a watch stands for.
enum Watched {
    /// A directory, and whether it is in `kubepods` or is it.
    Directory(PathBuf, bool),
    Pod(Uid),
    Logs,
}

struct Watcher {
    inotify: Inotify,
    root: PathBuf,
    pod_logs: PathBuf,
    seen: UnboundedSender<Seen>,
    watched: HashMap<WatchDescriptor, Watched>,
    pods: HashMap<Uid, PathBuf>,
}

impl Watcher {
    fn run(&mut self) -> nix::Result<()> {
        self.sweep();
        let timeout = PollTimeout::try_from(SWEEP).unwrap_or(PollTimeout::MAX);
        while !self.seen.is_closed() {
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => self.sweep(),
                Ok(_) => self.read()?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self) -> nix::Result<()> {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.sweep();
                continue;
            }
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watched.remove(&event.wd);
                continue;
            }
            match self.watched.get(&event.wd) {
                Some(Watched::Pod(uid)) => self.report(Seen::Changed(uid.clone())),
                Some(Watched::Logs) => self.report(Seen::Logged),
                Some(Watched::Directory(parent, inside)) => {
                    let Some(name) = event.name.as_deref() else { continue };
                    let (path, inside) = (parent.join(name), *inside);
                    if event.mask.contains(AddWatchFlags::IN_CREATE) {
                        self.enter(&path, name, inside);
                    } else if let Directory::Pod(uid) = kind(name)
                        && self.pods.get(&uid) == Some(&path)
                    {
                        self.gone(&uid);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    fn report(&self, seen: Seen) {
        // A closed channel ends the loop in `run`.
        let _closed = self.seen.send(seen);
    }

    fn gone(&mut self, uid: &Uid) {
        if self.pods.remove(uid).is_some() {
            self.report(Seen::Gone(uid.clone()));
        }
    }

    fn watch(&mut self, path: &Path, flags: AddWatchFlags, what: Watched) {
        match self.inotify.add_watch(path, flags) {
            Ok(wd) => {
                self.watched.insert(wd, what);
            }
            Err(Errno::ENOENT) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot watch (fs.inotify.max_user_watches?); sweeping instead");
            }
        }
    }

    /// Watches a directory first and lists it then, so that nothing that is made in between is missed.
    fn look_into(&mut self, directory: &Path, inside: bool) {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        self.watch(directory, flags, Watched::Directory(directory.to_owned(), inside));
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.enter(&entry.path(), &entry.file_name(), inside);
            }
        }
    }

    /// A directory. Names count only where kubelet makes them: `podruntime` beside `kubepods` is no pod.
    fn enter(&mut self, path: &Path, name: &OsStr, inside: bool) {
        match kind(name) {
            Directory::Kubepods if !inside => {
                self.report(Seen::Kubepods(path.to_owned()));
                self.look_into(path, true);
            }
            Directory::Above if !inside => self.look_into(path, false),
            Directory::Class if inside => self.look_into(path, true),
            Directory::Pod(uid) if inside => {
                let is_new = self.pods.insert(uid.clone(), path.to_owned()).is_none_or(|old| old != path);
                if is_new {
                    self.watch(
                        &path.join("cgroup.events"),
                        AddWatchFlags::IN_MODIFY,
                        Watched::Pod(uid.clone()),
                    );
                }
                self.report(Seen::Appeared(uid, path.to_owned()));
            }
            _ => {}
        }
    }

    fn sweep(&mut self) {
        if self.pod_logs.is_dir() && !self.watched.values().any(|what| matches!(what, Watched::Logs)) {
            let logs = self.pod_logs.clone();
            self.watch(&logs, AddWatchFlags::IN_CREATE, Watched::Logs);
        }
        let root = self.root.clone();
        self.look_into(&root, false);
        let gone: Vec<Uid> =
            self.pods.iter().filter(|(_, path)| !path.exists()).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.gone(&uid);
        }
        self.report(Seen::Logged);
    }
}

fn kind(name: &OsStr) -> Directory {
    name.to_str().map_or(Directory::Other, classify)
}
