//! The directory: which files there are, which changed, and what they hold now.
//!
//! Runs on a thread of its own, because reading files blocks. The first look is made before anything else starts;
//! after that inotify says where to look, and a slow re-scan finds what it missed (network file systems, watches that
//! could not be had).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_telemetry::api::FileRow;
use tokio::sync::mpsc;

use super::catalog::Catalog;
use super::inotify::{Hints, Watches};
use super::parse::{Format, parse};
use super::settled::{self, Asker, Stop};
use super::{Batch, Told};
use crate::index::facts::Reading;

/// A whole look at least this often.
const RESCAN: Duration = Duration::from_secs(10);
/// A file that changed more recently may still have a writer: where nobody said that it was closed, it is looked at
/// again after this.
const YOUNG: Duration = Duration::from_millis(100);
/// Larger files are refused, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Directories nested deeper are refused.
const MAX_DEPTH: usize = 32;

/// What to watch.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    /// The directory.
    pub directory: PathBuf,
    /// What objects are read against.
    pub reading: Reading,
}

/// Why the directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not there, is no directory, or may not be read.
    #[error("cannot read the directory {} given by --dir: create it, or name the one with the YAML files", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No inotify instance.
    #[error("cannot watch files: raise fs.inotify.max_user_instances")]
    Inotify(#[source] nix::errno::Errno),
    /// No thread or pipe.
    #[error("cannot start watching")]
    Thread(#[source] io::Error),
}

/// The files as of the last look.
#[derive(Debug)]
pub struct Source {
    config: FilesConfig,
    catalog: Catalog,
    /// What each file was when it was last read; a file that could not be read is not in it.
    stamps: std::collections::HashMap<Arc<Path>, Stamp>,
    watches: Watches,
    /// Directories that could not be watched or read, said once.
    complaints: BTreeSet<String>,
    /// Kinds that were warned of.
    unknown: BTreeSet<String>,
    /// The last whole look left out files that are being written.
    young: bool,
    /// What was last given out.
    rows: Vec<FileRow>,
    partial: bool,
}

/// Changes with the file's contents, whoever writes them and however.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How closely to look at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Read it: its writer has closed it.
    Anyhow,
    /// Read it if it is another than before and nobody seems to be writing.
    IfSettled,
}

/// What a walk through the directory found.
#[derive(Default)]
struct Walk {
    files: BTreeSet<PathBuf>,
    /// Below these nothing could be seen: what was known there stays.
    unread: Vec<(PathBuf, io::Error)>,
}

impl Source {
    /// Makes the first look.
    pub fn open(config: FilesConfig) -> Result<(Self, Batch), FilesError> {
        let failed = |source| FilesError::Directory { path: config.directory.clone(), source };
        fs::read_dir(&config.directory).map_err(failed)?;
        let watches = Watches::new().map_err(FilesError::Inotify)?;
        let mut source = Self {
            config,
            catalog: Catalog::default(),
            stamps: Default::default(),
            watches,
            complaints: BTreeSet::new(),
            unknown: BTreeSet::new(),
            young: false,
            rows: Vec::new(),
            partial: false,
        };
        let mut changes = Vec::new();
        source.look_at_all(Look::Anyhow, &mut changes);
        let (rows, partial) = (source.catalog.rows(), source.catalog.is_partial());
        source.say_what_is_new(&rows);
        (source.rows, source.partial) = (rows, partial);
        let batch = source.batch(changes);
        Ok((source, batch))
    }

    /// Follows changes on a thread of its own until the handle or the receiver is dropped.
    pub fn follow(mut self) -> Result<(mpsc::Receiver<Told>, Asker, Stop), FilesError> {
        let (asker, asked, stop) = settled::pair().map_err(|error| FilesError::Thread(error.into()))?;
        let (sender, receiver) = mpsc::channel(4);
        let watch = move || {
            let mut whole_look = Instant::now() + RESCAN;
            let mut asking = Vec::new();
            loop {
                let left = whole_look.saturating_duration_since(Instant::now());
                let mut hints = self.watches.wait(left, &asked.pipe);
                if sender.is_closed() || asked.is_over() {
                    return;
                }
                let new = asked.take();
                if !new.is_empty() {
                    self.watches.gather(&mut hints);
                    // Where inotify says nothing, only a look does.
                    hints.everything |= !self.complaints.is_empty();
                }
                asking.extend(new);
                hints.everything |= Instant::now() >= whole_look;
                if hints.everything {
                    whole_look = Instant::now() + RESCAN;
                }
                let batch = self.look(&hints);
                if self.young {
                    whole_look = whole_look.min(Instant::now() + YOUNG);
                }
                // What is being written is waited for: not long, and nor does whoever asks.
                let is_settled = !self.young && !asking.is_empty();
                let settled = is_settled.then(|| Told::Settled(std::mem::take(&mut asking)));
                let mut told = batch.map(Told::Changed).into_iter().chain(settled);
                if told.any(|told| sender.blocking_send(told).is_err()) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("watch-files".into()).spawn(watch).map_err(FilesError::Thread)?;
        Ok((receiver, asker, stop))
    }

    /// Looks where the hints say; nothing if all is as it was.
    pub(super) fn look(&mut self, hints: &Hints) -> Option<Batch> {
        let mut changes = Vec::new();
        for path in &hints.paths {
            self.look_at(path, Look::Anyhow, &mut changes);
        }
        if hints.everything {
            self.look_at_all(Look::IfSettled, &mut changes);
        }
        let changes = last_of_each(changes);
        let (rows, partial) = (self.catalog.rows(), self.catalog.is_partial());
        if changes.is_empty() && rows == self.rows && partial == self.partial {
            return None;
        }
        self.say_what_is_new(&rows);
        (self.rows, self.partial) = (rows, partial);
        Some(self.batch(changes))
    }

    fn batch(&self, changes: Vec<super::FactChange>) -> Batch {
        Batch { changes, rows: self.rows.clone(), partial: self.partial }
    }

    fn look_at_all(&mut self, how: Look, changes: &mut Vec<super::FactChange>) {
        self.young = false;
        let mut walk = Walk::default();
        let root = self.config.directory.clone();
        self.walk(&root, 0, &mut walk);
        for path in &walk.files {
            self.look_at(path, how, changes);
        }
        // What is gone may have been moved to where somebody still seems to write: both in one step, at the next look.
        if !self.young {
            self.forget_gone(&walk, changes);
        }
        for (path, error) in walk.unread {
            let path: Arc<Path> = path.into();
            self.catalog.fail(&path, format!("cannot read the directory: {error}"));
        }
    }

    fn forget_gone(&mut self, walk: &Walk, changes: &mut Vec<super::FactChange>) {
        let gone: Vec<_> = self
            .catalog
            .paths()
            .filter(|path| !walk.files.contains(path.as_ref()))
            .filter(|path| !walk.unread.iter().any(|(unread, _)| path.starts_with(unread)))
            .cloned()
            .collect();
        for path in gone {
            self.stamps.remove(&path);
            self.catalog.remove(&path, changes);
        }
    }

    fn walk(&mut self, directory: &Path, depth: usize, walk: &mut Walk) {
        // Watched before it is read: what comes in between is seen twice rather than never.
        if let Err(error) = self.watches.add(directory) {
            let complaint = format!("cannot watch {}: {error}", directory.display());
            if self.complaints.insert(complaint.clone()) {
                let every = RESCAN.as_secs();
                tracing::warn!("{complaint}; changes there are found by a look every {every} s");
            }
        }
        let entries = match fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => return walk.unread.push((directory.into(), error)),
        };
        for entry in entries {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Links to files are followed (ConfigMap volumes are made of them), links to directories are not: they
            // can go round in circles.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => self.walk(&path, depth + 1, walk),
                Ok(kind) if kind.is_dir() => {
                    walk.unread.push((path, io::Error::other("nested too deeply")));
                }
                Ok(_) if format_of(&path).is_some() => drop(walk.files.insert(path)),
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn look_at(&mut self, path: &Path, how: Look, changes: &mut Vec<super::FactChange>) {
        let path: Arc<Path> = path.into();
        let Some(format) = format_of(&path) else { return };
        let (stamp, modified) = match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => return,
            Ok(meta) => (Stamp::of(&meta), meta.modified()),
            // Also a link to nothing: it says nothing any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.stamps.remove(&path);
                return self.catalog.remove(&path, changes);
            }
            Err(error) => {
                self.stamps.remove(&path);
                return self.catalog.fail(&path, format!("cannot read: {error}"));
            }
        };
        if how == Look::IfSettled {
            if self.stamps.get(&path) == Some(&stamp) {
                return;
            }
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age < YOUNG) {
                self.young = true;
                return;
            }
        }
        match self.read(&path, format) {
            Ok(facts) => {
                self.stamps.insert(path.clone(), stamp);
                self.catalog.set(&path, facts, changes);
            }
            Err(Unread::Gone) => {
                self.stamps.remove(&path);
                self.catalog.remove(&path, changes);
            }
            // Whatever stood in the way may go without the file changing.
            Err(Unread::Io(error)) => {
                self.stamps.remove(&path);
                self.catalog.fail(&path, format!("cannot read: {error}"));
            }
            Err(Unread::Broken(error)) => {
                self.stamps.insert(path.clone(), stamp);
                self.catalog.fail(&path, error);
            }
        }
    }

    fn read(&mut self, path: &Path, format: Format) -> Result<Vec<crate::index::facts::Fact>, Unread> {
        let meta = fs::metadata(path)?;
        if !meta.is_file() {
            return Err(Unread::Broken("not a file".into()));
        }
        if meta.len() > MAX_FILE {
            return Err(Unread::Broken(format!("larger than {} MiB: split it", MAX_FILE >> 20)));
        }
        let bytes = fs::read(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            Unread::Broken(format!("line {line}: not UTF-8 text"))
        })?;
        let parsed =
            parse(text, format, &self.config.reading).map_err(|error| Unread::Broken(error.to_string()))?;
        for kind in parsed.unknown {
            if self.unknown.insert(kind.clone()) {
                tracing::warn!(file = %path.display(), kind, "objects of this kind are ignored");
            }
        }
        Ok(parsed.facts)
    }

    /// Every complaint once, and once when it is over.
    fn say_what_is_new(&self, rows: &[FileRow]) {
        let old: std::collections::HashMap<_, _> =
            self.rows.iter().map(|row| (&row.path, row.error.as_ref())).collect();
        for row in rows {
            match (&row.error, old.get(&row.path).copied().flatten()) {
                (Some(error), before) if before != Some(error) => {
                    tracing::error!(file = row.path, "{error}; what was good before stays in force");
                }
                (None, Some(_)) => tracing::info!(file = row.path, "the file is good again"),
                _ => {}
            }
        }
    }

    #[cfg(test)]
    pub(super) fn error_of(&self, path: &Path) -> Option<&str> {
        self.catalog.error(path)
    }
}

/// Why a file gives no facts.
enum Unread {
    Gone,
    Io(io::Error),
    Broken(String),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Of several steps of one object the last counts.
fn last_of_each(changes: Vec<super::FactChange>) -> Vec<super::FactChange> {
    let mut known = std::collections::HashSet::new();
    let mut last: Vec<_> = changes.into_iter().rev().filter(|change| known.insert(change.key())).collect();
    last.reverse();
    last
}

/// By the name; nothing for files that are not ours, hidden ones (editors' swap files) among them.
fn format_of(path: &Path) -> Option<Format> {
    if path.file_name()?.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}
