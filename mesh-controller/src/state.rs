//! What the controller keeps on disk beside the authority: the root for agents, and what agents reported.
//!
//! Files are replaced in one step and synced, so a crash leaves the old state or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_telemetry::shutdown::Shutdown;

use crate::index::Captures;
use crate::publish::Hub;

#[cfg(test)]
mod tests;

/// Reports come in bursts: write at most this often.
const GATHER: Duration = Duration::from_millis(50);

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: make it writable, or choose another --state-dir", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What is kept cannot be read back.
    #[error(
        "{} is damaged: remove it (agents report again; until then new peers use plaintext)",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io { action, path: path.into(), source }
}

impl StateDir {
    /// Makes the directory, mode 0700, if it is not there.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make the state directory", path))?;
        Ok(Self { path: path.into() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What agents reported before a restart.
    pub fn captures(&self) -> Result<Captures, StateError> {
        let path = self.path.join("captures.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| StateError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Captures::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Keeps what agents reported.
    pub fn keep_captures(&self, captures: &Captures) -> Result<(), StateError> {
        let path = self.path.join("captures.json");
        let bytes = serde_json::to_vec(captures).map_err(|error| failed("write", &path)(error.into()))?;
        self.replace("captures.json", &bytes, 0o600)
    }

    /// Whether the directory has an authority whose root is not this one: writing this one would lose the other.
    pub fn holds_another_authority(&self, pem: &str) -> bool {
        self.path.join("ca.key").exists()
            && fs::read(self.path.join("root.pem")).is_ok_and(|root| root != pem.as_bytes())
    }

    /// Writes the root for agents, if it is not what stands there.
    pub fn keep_root(&self, pem: &str) -> Result<(), StateError> {
        let path = self.path.join("root.pem");
        if fs::read(&path).is_ok_and(|old| old == pem.as_bytes()) {
            return Ok(());
        }
        self.replace("root.pem", pem.as_bytes(), 0o644)
    }

    fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StateError> {
        let path = self.path.join(name);
        let new = self.path.join(format!(".{name}.new"));
        let write = || {
            // A leftover of a crash may have another mode.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed("write", &path))
    }
}

/// Writes captures down as they change, until shutdown, and once more then.
pub async fn keep_captures(dir: StateDir, hub: Arc<Hub>, shutdown: Shutdown) {
    let _hold = shutdown.hold();
    let mut kept = hub.captures();
    loop {
        let stopping = tokio::select! {
            () = hub.captures_changed() => false,
            () = shutdown.wait() => true,
        };
        let captures = hub.captures();
        if captures != kept {
            let (dir, new) = (dir.clone(), captures.clone());
            match tokio::task::spawn_blocking(move || dir.keep_captures(&new)).await {
                Ok(Ok(())) => kept = captures,
                Ok(Err(error)) => {
                    tracing::error!(error = crate::chain(&error), "cannot keep what agents reported")
                }
                Err(error) => tracing::error!(%error, "cannot keep what agents reported"),
            }
        }
        if stopping {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}
