//! Certificates and keys that outlive the process: one file of mode 0600 per identity in a directory of mode 0700.
//!
//! A file that is broken, of another identity or open to others is an error for the caller to warn about and go on: the
//! next certificate replaces it. Whether what was read is still valid and trusted is the caller's to see.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use mesh_model::Identity;
use sha2::{Digest, Sha256};

use crate::certificate::{CertError, Certificate};
use crate::disk::{self, DiskError};
use crate::x509::hex;

#[derive(Clone, Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("its file cannot be used")]
    Disk(#[source] DiskError),
    #[error("{} is not a certificate with its key", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: Box<CertError>,
    },
}

impl Store {
    pub(super) fn open(dir: PathBuf) -> Result<Self, DiskError> {
        disk::private_dir(&dir)?;
        Ok(Self { dir })
    }

    pub(super) fn load(&self, identity: &Identity) -> Result<Option<Certificate>, StoreError> {
        let path = self.path(identity);
        let pem = match disk::read_private(&path) {
            Ok(pem) => pem,
            Err(DiskError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::Disk(error)),
        };
        let bad = |source| StoreError::Certificate { path, source: Box::new(source) };
        let certificate = match Certificate::from_pem(&pem) {
            Ok(certificate) => certificate,
            Err(error) => return Err(bad(error)),
        };
        if certificate.identity() != identity {
            let got = certificate.identity().clone();
            return Err(bad(CertError::Identity { asked: identity.clone(), got }));
        }
        Ok(Some(certificate))
    }

    pub(super) fn save(&self, certificate: &Certificate) -> Result<(), StoreError> {
        let path = self.path(certificate.identity());
        disk::write_whole(&path, certificate.to_pem().as_bytes(), 0o600).map_err(StoreError::Disk)
    }

    pub(super) fn remove(&self, identity: &Identity) -> Result<(), DiskError> {
        disk::remove(&self.path(identity))
    }

    /// Removes every certificate, and the directory unless somebody else put something there.
    pub(super) fn destroy(&self) -> Result<(), DiskError> {
        self.sweep(&HashSet::new())?;
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(disk::failed("remove the directory", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes every certificate, and every unfinished write, but those of `wanted`. Other files are left alone.
    pub(super) fn sweep(&self, wanted: &HashSet<&Identity>) -> Result<usize, DiskError> {
        let keep: HashSet<PathBuf> = wanted.iter().map(|identity| self.path(identity)).collect();
        let mut removed = 0;
        for file in fs::read_dir(&self.dir).map_err(disk::failed("list", &self.dir))? {
            let path = file.map_err(disk::failed("list", &self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let of = name.strip_prefix('.').and_then(|n| n.strip_suffix(".new")).unwrap_or(&name);
            if of.ends_with(".pem") && !keep.contains(&self.dir.join(of)) {
                disk::remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Readable for people, and told apart by a hash: two Kubernetes names together can be longer than a file name.
    fn path(&self, identity: &Identity) -> PathBuf {
        let hash = hex(&Sha256::digest(identity.to_string().as_bytes()));
        let (namespace, account) = (identity.namespace(), identity.service_account());
        self.dir.join(format!("{namespace:.63}_{account:.100}_{hash:.16}.pem"))
    }
}
