//! Which paths below a directory may have changed, by inotify.
//!
//! Files are looked at when their writer closes them or when they are moved in: never half-written. Anything unclear
//! (a directory that appeared, an overflow, a hidden link such as a ConfigMap volume's `..data`) asks for a whole look
//! instead; that is always right, only slower.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Changes are gathered until it has been quiet for so long …
const QUIET: Duration = Duration::from_millis(15);
/// … or until the first of them is so old.
const PATIENCE: Duration = Duration::from_millis(40);

/// What may have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// These files, and no others …
    pub(super) paths: BTreeSet<PathBuf>,
    /// … unless this says that anything may have.
    pub(super) everything: bool,
}

/// Watches on directories.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Inotify,
    directories: HashMap<WatchDescriptor, PathBuf>,
}

impl Watches {
    pub(super) fn new() -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, directories: HashMap::new() })
    }

    /// Watches a directory (not what is below it). The same again is nothing new.
    pub(super) fn add(&mut self, directory: &Path) -> Result<(), Errno> {
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let watch = self.inotify.add_watch(directory, events)?;
        self.directories.insert(watch, directory.into());
        Ok(())
    }

    /// Waits for changes, gathers those that come together, and says what they may concern: nothing where the time is
    /// over, `wake` is readable, or what changed is none of ours.
    pub(super) fn wait(&mut self, timeout: Duration, wake: impl AsFd) -> Hints {
        let mut hints = Hints::default();
        let woken = self.poll(timeout, Some(&wake));
        if !woken.is_wake && woken.is_events {
            self.gather(&mut hints);
        }
        hints
    }

    /// What has changed by now, with what comes together with it.
    pub(super) fn gather(&mut self, hints: &mut Hints) {
        let first = Instant::now();
        self.drain(hints);
        while *hints != Hints::default() {
            let left = PATIENCE.saturating_sub(first.elapsed()).min(QUIET);
            if left.is_zero() || !self.poll(left, None::<&std::os::fd::BorrowedFd<'_>>).is_events {
                break;
            }
            self.drain(hints);
        }
    }

    fn poll(&self, timeout: Duration, wake: Option<&impl AsFd>) -> Woken {
        let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(wake.map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is one that ended early: the caller waits again.
        let _ = poll(&mut fds, timeout);
        let ready =
            |at: usize| fds.get(at).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        Woken { is_events: ready(0), is_wake: ready(1) }
    }

    fn drain(&mut self, hints: &mut Hints) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot read file events; looking at everything");
                    hints.everything = true;
                    return;
                }
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.directories.remove(&event.wd);
                    continue;
                }
                let directory = self.directories.get(&event.wd);
                let Some((directory, name)) = directory.zip(event.name.as_deref()) else {
                    // An overflow, or the directory itself.
                    hints.everything = true;
                    continue;
                };
                let path = directory.join(name);
                let is_directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
                if is_hidden(name) {
                    // Editors' scratch files; but what a hidden link leads to may be behind other links.
                    hints.everything |= is_link(&path);
                } else if is_directory {
                    hints.everything = true;
                } else if !event.mask.contains(AddWatchFlags::IN_CREATE) || is_whole(&path) {
                    hints.paths.insert(path);
                }
            }
        }
    }
}

struct Woken {
    is_events: bool,
    is_wake: bool,
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

/// A link to what is there already: no writer will close it. A plain new file has a writer that will.
fn is_whole(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink() || meta.nlink() > 1)
}
