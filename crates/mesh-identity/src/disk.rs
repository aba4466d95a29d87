//! Keys and certificates on disk: written whole or not at all, and private ones refused when others can read them.
//!
//! A file appears under its name by `rename`, after its bytes were synced; a crash leaves the old file, the new one, or
//! none, plus at most a `.NAME.new` that the next write replaces.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Nothing of ours is larger; a wrong path (a device, a log) should be an error and not fill the memory.
const MAX_FILE: u64 = 1 << 20;

/// A file or directory that cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A private file or directory that its group or others may read or write.
    #[error(
        "{} is open to other users (mode {mode:04o}): run `chmod {wanted:04o} {}`, \
         and make a new key if anybody else could have read it",
        path.display(), path.display()
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they must be.
        wanted: u32,
    },
    /// Too large to be a certificate or key.
    #[error("{} is larger than {MAX_FILE} bytes: it is no certificate or key", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
}

/// Turns an `io::Error` into one that says what was tried on which path.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { action, path, source }
}

/// Reads a file that anybody may read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DiskError> {
    read_open(File::open(path).map_err(failed("read", path))?, path)
}

/// Reads a private file; one that its group or others can read or write is an error.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = File::open(path).map_err(failed("read", path))?;
    // Of the open file and not of the path, which could be exchanged in between.
    let mode = file.metadata().map_err(failed("read", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DiskError::Exposed { path: path.to_owned(), mode, wanted: 0o600 });
    }
    read_open(file, path)
}

fn read_open(file: File, path: &Path) -> Result<Vec<u8>, DiskError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(DiskError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Puts `bytes` under `path` with permissions `mode`, replacing what was there in one step.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    let temporary = dir.join(format!(".{}.new", name.to_string_lossy()));
    remove(&temporary)?;
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        failed("write", path)(source)
    })
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes a directory of mode 0700 with its parents. One that exists must already be closed to others: it is not changed,
/// as it may be somebody else's (`/tmp`).
pub(crate) fn private_dir(path: &Path) -> Result<(), DiskError> {
    match fs::metadata(path) {
        Ok(found) => {
            let mode = found.permissions().mode() & 0o7777;
            if mode & 0o077 != 0 {
                return Err(DiskError::Exposed { path: path.to_owned(), mode, wanted: 0o700 });
            }
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make the directory", path)),
        Err(e) => Err(failed("look at", path)(e)),
    }
}
