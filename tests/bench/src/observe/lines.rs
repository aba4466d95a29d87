//! Who reads an agent's access log: a pipe, as a container's standard output is, and a thread that counts lines.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// What is read at once: as much as a pipe holds.
const CHUNK: usize = 64 << 10;
/// How long nothing may come before it is looked again.
const PAUSE: Duration = Duration::from_millis(10);

/// A pipe with a name, and its reader. Ends with its handle.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    count: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    /// Makes the pipe and begins to read.
    pub(super) fn read(path: &Path) -> Result<Self> {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| format!("make {}", path.display()))?;
        let mut pipe = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        let (count, ending) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let reader = {
            let (count, ending) = (count.clone(), ending.clone());
            thread::spawn(move || {
                let mut chunk = vec![0; CHUNK];
                while !ending.load(Ordering::Relaxed) {
                    match next(&mut pipe, &mut chunk) {
                        0 => thread::sleep(PAUSE),
                        read => {
                            let lines = chunk[..read].iter().filter(|byte| **byte == b'\n').count();
                            count.fetch_add(lines as u64, Ordering::Relaxed);
                        }
                    }
                }
            })
        };
        Ok(Self { path: path.to_owned(), count, ending, reader: Some(reader) })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lines so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Nothing: nobody writes, or has written yet.
fn next(pipe: &mut File, chunk: &mut [u8]) -> usize {
    match pipe.read(chunk) {
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => {
            eprintln!("read access lines: {error}");
            0
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // It has nothing to say.
        let _ended = self.reader.take().map(JoinHandle::join);
        // The lab's directory goes anyway.
        let _gone = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
