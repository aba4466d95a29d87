//! The last good world, on the node's disk: what an agent serves from when it starts and nobody tells it anything.
//!
//! ```text
//! start:  file ─▶ Cached ─┬─▶ the first update of `control`, in force before anything is heard
//!                         └─▶ the hello's versions: the controller says only what differs
//! run:    update applied ─▶ Keeper ── at most every second ──▶ .world.new ─ sync ─▶ rename ─▶ world
//! ```
//!
//! Invariants: a file that is damaged, cut off, of another version of this program or of another node is not read at all,
//! and one warning says why; only a whole world is written; the file is replaced in one step; nobody waits for the disk.
//! The file's time is when the controller was last known to agree with it. Not here: the file's form
//! (`mesh_xds::snapshot`), keys and certificates (`mesh-identity`, in `--state-dir`).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use mesh_model::{Change, World};
use mesh_xds::Resource;
use mesh_xds::client::Client;
use mesh_xds::snapshot::{self, SnapshotError};

use crate::outbound::Chain;
use crate::settings;

/// The file's name in its directory.
const FILE: &str = "world";
/// A larger file is not ours: a hundred times a mesh of 10,000 pods.
const MAX_FILE: u64 = 256 << 20;
/// The world is written at most this often …
const EVERY: Duration = Duration::from_secs(1);
/// … and never for more than this part of the time, should the disk be slow.
const SHARE: u32 = 20;
/// How soon after a change: what comes together is written together.
const GATHER: Duration = Duration::from_millis(100);
/// How often the file's time is set while nothing changes, and when what failed is tried again.
const CONFIRM: Duration = Duration::from_secs(30);

/// Why there is nothing to serve from.
#[derive(Debug, thiserror::Error)]
enum CacheError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be written by others than its owner (mode {mode:04o})", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is larger than {} MiB", path.display(), MAX_FILE >> 20)]
    TooLarge { path: PathBuf },
    #[error("{} is not a world of this node", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: SnapshotError,
    },
}

/// The cache's place.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    node: String,
}

/// A world that an earlier process kept.
#[derive(Clone, Debug)]
pub struct Cached {
    /// All that it was told.
    pub resources: Vec<Resource>,
    /// When the controller was last known to agree.
    pub as_of: SystemTime,
}

/// Has the world written; clones share one writer.
#[derive(Clone, Debug)]
pub struct Keeper {
    said: SyncSender<Said>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Changed,
    Finish,
}

impl Cached {
    /// The steps from nothing to this world.
    pub fn into_changes(self) -> Vec<Change> {
        self.resources.into_iter().map(Resource::into_change).collect()
    }
}

impl Cache {
    /// Makes the directory. Without one the agent runs all the same, and says so.
    pub fn open(directory: &Path, node: &str) -> Option<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        if let Err(error) = made {
            tracing::warn!(
                directory = %directory.display(), %error,
                "the world cannot be kept on disk (--cache-dir): a restart without the controller refuses captured pods"
            );
            return None;
        }
        Some(Self { directory: directory.into(), node: node.into() })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// No agent of this node has ever known a world. A file that cannot be read is one all the same.
    pub fn is_new(&self) -> bool {
        matches!(self.path().try_exists(), Ok(false))
    }

    /// What an earlier process kept, if it is whole and this node's.
    pub fn load(&self) -> Option<Cached> {
        match self.read() {
            Ok(Some(cached)) => {
                let age = cached.as_of.elapsed().unwrap_or_default();
                tracing::info!(
                    file = %self.path().display(), resources = cached.resources.len(), age_seconds = age.as_secs(),
                    "serving from this node's cache until the controller has spoken"
                );
                Some(cached)
            }
            Ok(None) => {
                tracing::info!(file = %self.path().display(), "nothing is cached on this node yet");
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = %Chain(&error),
                    "ignoring this node's cache: captured pods are refused until the controller has told the world, \
                     and the file is replaced then"
                );
                None
            }
        }
    }

    fn read(&self) -> Result<Option<Cached>, CacheError> {
        let path = self.path();
        let failed = |source| CacheError::Io { action: "read", path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let meta = file.metadata().map_err(failed)?;
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(CacheError::Exposed { path, mode });
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(CacheError::TooLarge { path });
        }
        let as_of = meta.modified().map_err(failed)?;
        match snapshot::read(&bytes, &self.node) {
            Ok(resources) => Ok(Some(Cached { resources, as_of })),
            Err(source) => Err(CacheError::Content { path, source }),
        }
    }

    /// Puts a world into the place of the last.
    fn write(&self, world: &World) -> Result<(), CacheError> {
        let (path, new) = (self.path(), self.directory.join(format!(".{FILE}.new")));
        let write = || {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            let mut file = BufWriter::with_capacity(64 << 10, file);
            snapshot::write(world, &self.node, &mut file)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| CacheError::Io { action: "write", path: path.clone(), source })
    }

    /// Nothing is kept.
    fn forget(&self) {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %self.path().display(), "the cache of a mesh that leaves stays");
            }
            _ => {}
        }
    }

    /// The controller agrees with what is there.
    fn confirm(&self) -> io::Result<()> {
        File::options().write(true).open(self.path())?.set_modified(SystemTime::now())
    }

    /// Starts the writer, on a thread of its own.
    pub fn keep(
        self,
        world: Arc<ArcSwap<World>>,
        settings: settings::Shared,
        client: Client,
    ) -> Option<Keeper> {
        // Full means that a change is known already.
        let (said, heard) = sync_channel(1);
        let agrees = move || {
            let status = client.status();
            status.connected && status.applied.is_some()
        };
        let mut writer =
            Writer { cache: self, world, settings, unwritten: false, wrote: None, complaint: String::new() };
        let thread =
            std::thread::Builder::new().name("cache".into()).spawn(move || writer.run(&heard, &agrees));
        match thread {
            Ok(thread) => Some(Keeper { said, thread: Arc::new(Mutex::new(Some(thread))) }),
            Err(error) => {
                tracing::warn!(%error, "the world is not kept on disk");
                None
            }
        }
    }
}

impl Keeper {
    /// The world is another.
    pub fn changed(&self) {
        // Full: it is known. Closed: the writer has finished.
        let _known = self.said.try_send(Said::Changed);
    }

    /// Writes what is not written yet, and ends the writer.
    pub fn finish(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ended = self.said.send(Said::Finish);
            let _panicked = thread.join();
        }
    }
}

/// The writer's thread.
struct Writer {
    cache: Cache,
    world: Arc<ArcSwap<World>>,
    /// Whether the mesh is leaving: then nothing is kept, and whoever comes next to this node is its first agent.
    settings: settings::Shared,
    /// There is something that is not on disk.
    unwritten: bool,
    /// When the last write ended, and how long it took.
    wrote: Option<(Instant, Duration)>,
    /// What was last wrong with the disk.
    complaint: String,
}

impl Writer {
    fn run(&mut self, heard: &Receiver<Said>, agrees: &impl Fn() -> bool) {
        let mut due = None;
        loop {
            let wait = due.map_or(CONFIRM, |due: Instant| due.saturating_duration_since(Instant::now()));
            match heard.recv_timeout(wait) {
                Ok(Said::Changed) => {
                    self.unwritten = true;
                    due = due.or_else(|| Some(self.due()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    due = None;
                    self.write_or_confirm(agrees);
                }
                Ok(Said::Finish) | Err(RecvTimeoutError::Disconnected) => {
                    return self.write_or_confirm(agrees);
                }
            }
        }
    }

    /// When the next write may begin.
    fn due(&self) -> Instant {
        let soon = Instant::now() + GATHER;
        self.wrote.map_or(soon, |(at, took)| soon.max(at + EVERY.max(took * SHARE)))
    }

    fn write_or_confirm(&mut self, agrees: &impl Fn() -> bool) {
        if self.settings.load().leaving {
            self.unwritten = false;
            return self.cache.forget();
        }
        if !self.unwritten {
            if agrees() {
                // A file that is gone is written anew at the next change.
                let _kept = self.cache.confirm();
            }
            return;
        }
        let world = self.world.load_full();
        if !world.is_complete() {
            return;
        }
        self.unwritten = false;
        let start = Instant::now();
        let written = self.cache.write(&world);
        if self.wrote.is_none() {
            trim();
        }
        self.wrote = Some((Instant::now(), start.elapsed()));
        match written {
            Ok(()) if self.complaint.is_empty() => {}
            Ok(()) => {
                self.complaint.clear();
                tracing::info!(file = %self.cache.path().display(), "the world is kept on disk again");
            }
            Err(error) => {
                self.unwritten = true;
                let complaint = Chain(&error).to_string();
                if complaint != self.complaint {
                    tracing::warn!(error = complaint, "the world is not kept on disk; trying again");
                    self.complaint = complaint;
                }
            }
        }
    }
}

/// Hands back what taking in a whole world has left free: a fifth of what the world itself needs.
#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it is given a number, and touches what the allocator holds free and nothing else.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests;
