//! The bundle's file: written beside its place, and put there once it is whole.
//!
//! ```text
//! FILE.part (new, 0600) ─ written ─▶ FILE: linked, which fails where there is one; or moved over it (--force)
//!        └─ an error, a signal ─▶ removed
//! ```
//!
//! Invariants: nobody else may read it at any moment; what is at FILE stays as it is until the bundle is whole, and is replaced as
//! a name: a link is not followed, and the mode of what was there does not count.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use super::super::Failure;

/// A file that is not whole yet; removed with this value.
#[derive(Debug)]
pub(super) struct Unfinished {
    part: PathBuf,
    at: PathBuf,
    force: bool,
}

impl Unfinished {
    /// Begins a file for `at`. Fails where there is one already, unless it may be written over.
    pub(super) fn create(at: &Path, force: bool) -> Result<(Self, File), Failure> {
        if !force && fs::symlink_metadata(at).is_ok() {
            return Err(is_there(at));
        }
        let mut part: OsString = at.into();
        part.push(".part");
        let part = PathBuf::from(part);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part) {
            Ok(file) => Ok((Self { part, at: at.into(), force }, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::No(format!(
                "{} is there already: another meshctl is writing it, or was killed: remove it, or name another file with --file",
                part.display()
            ))),
            Err(source) => Err(Failure::File { path: at.into(), action: "write", source }),
        }
    }

    /// A signal that ends this process removes it, too.
    pub(super) fn remove_at_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let mut signals = {
            let _inside = runtime.enter();
            kinds.map(signal).into_iter().collect::<io::Result<Vec<_>>>()?
        };
        let part = self.part.clone();
        thread::spawn(move || {
            let came = runtime.block_on(async {
                let [first, second, third] = signals.as_mut_slice() else { return None };
                Some(tokio::select! {
                    _ = first.recv() => kinds[0],
                    _ = second.recv() => kinds[1],
                    _ = third.recv() => kinds[2],
                })
            });
            if let Some(kind) = came {
                let _ = fs::remove_file(part);
                std::process::exit(128 + kind.as_raw_value());
            }
        });
        Ok(())
    }

    /// Puts it in its place.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let put = match self.force {
            true => fs::rename(&self.part, &self.at),
            // Unlike a rename it fails where somebody else was faster. The other name goes with `self`.
            false => fs::hard_link(&self.part, &self.at),
        };
        put.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => is_there(&self.at),
            _ => Failure::File { path: self.at.clone(), action: "write", source },
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

fn is_there(file: &Path) -> Failure {
    Failure::No(format!(
        "{} is there already: name another file with --file, or write over it with --force",
        file.display()
    ))
}
