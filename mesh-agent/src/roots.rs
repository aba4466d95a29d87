//! The file of trust anchors, followed: what it says is in force for every handshake from then on; connections that are
//! there stay.
//!
//! ```text
//!   --root-cert ─ read anew every 2 s ─ changed ─┬ good ─▶ Keyring::replace_roots ─▶ kept in the state directory
//!                                                └ no good, gone ─▶ said once; the last good ones stay in force
//! ```
//!
//! It is read and not watched: in Kubernetes a ConfigMap's file is a symlink into a directory that is exchanged, elsewhere
//! anything may replace it, and a reader needs to know of neither. At start the kept copy serves while the file is not
//! there. Not here: who makes the file, and the connection to the controller, which reads it by itself at each connect.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_identity::{Keyring, Roots, RootsError};
use mesh_telemetry::api::{RootRow, TrustBundle};

use crate::outbound::Chain;

#[cfg(test)]
mod tests;

/// How often the file is read.
const LOOK: Duration = Duration::from_secs(2);
/// How often while there are no roots at all.
const WAIT: Duration = Duration::from_millis(200);

/// The file, and what was last made of it.
pub struct RootFile {
    file: PathBuf,
    kept: PathBuf,
    /// Held for a look or a store.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Good or not.
    content: Option<Vec<u8>>,
    /// Why the file's newest state is not in force.
    error: Option<String>,
    /// Some were found, ever.
    found: bool,
}

impl RootFile {
    /// Reads the file, or what an earlier process kept of it; none at all is said and waited for.
    pub fn open(file: &Path, state_dir: &Path) -> (Arc<Self>, Roots) {
        let this = Self { file: file.into(), kept: state_dir.join("root.pem"), seen: Mutex::default() };
        let roots = match this.look() {
            Some(Ok(roots)) => Some(roots),
            Some(Err(error)) => {
                let kept = Roots::from_pem_file(&this.kept).ok();
                match &kept {
                    Some(_) => tracing::warn!(
                        error = %Chain(&error),
                        "no usable root certificate (--root-cert); going on with those from before the restart"
                    ),
                    None => tracing::warn!(
                        error = %Chain(&error),
                        "no usable root certificate yet (--root-cert); waiting for it: captured pods are refused until then"
                    ),
                }
                kept
            }
            None => None,
        };
        this.seen().found = roots.is_some();
        (Arc::new(this), roots.unwrap_or_else(Roots::none))
    }

    /// Follows the file for as long as the agent runs.
    pub async fn follow(self: Arc<Self>, keyring: Keyring) {
        if self.seen().error.is_none() {
            self.keep();
        }
        loop {
            let found = self.seen().found;
            tokio::time::sleep(if found { LOOK } else { WAIT }).await;
            match self.look() {
                None => {}
                Some(Ok(roots)) => {
                    tracing::info!(file = %self.file.display(), ?roots, "root certificates found");
                    self.seen().found = true;
                    keyring.replace_roots(roots);
                    self.keep();
                }
                Some(Err(error)) => tracing::error!(
                    error = %Chain(&error),
                    "the root certificates cannot be followed; the last good ones stay in force"
                ),
            }
        }
    }

    /// What `meshctl certs` shows of the roots in force.
    pub fn bundle(&self, roots: &Roots) -> TrustBundle {
        let row = |root: &mesh_identity::RootInfo| RootRow {
            subject: root.subject.clone(),
            fingerprint: root.fingerprint.clone(),
            not_before: root.not_before.into(),
            not_after: root.not_after.into(),
        };
        TrustBundle {
            file: self.file.display().to_string(),
            error: self.seen().error.clone(),
            roots: roots.infos().iter().map(row).collect(),
        }
    }

    /// What the file holds, where that is not what it held at the last look.
    fn look(&self) -> Option<Result<Roots, RootsError>> {
        let content = fs::read(&self.file).ok();
        let mut seen = self.seen();
        // Absent at the first look, too, is news.
        let news = seen.content != content || (content.is_none() && seen.error.is_none());
        if !news {
            return None;
        }
        let roots = Roots::from_pem_file(&self.file);
        seen.error = roots.as_ref().err().map(|error| Chain(error).to_string());
        seen.content = content;
        Some(roots)
    }

    /// For a start at which the file is not there. Public, and short: a loss costs nothing.
    fn keep(&self) {
        let Some(content) = self.seen().content.clone() else { return };
        if fs::read(&self.kept).is_ok_and(|kept| kept == content) {
            return;
        }
        let new = self.kept.with_extension("new");
        let written = (|| {
            let _ = fs::remove_file(&new);
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?
                .write_all(&content)?;
            fs::rename(&new, &self.kept)
        })();
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.kept.display(), "the root certificates are not kept for a restart");
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
