//! The agent's certificates: one per identity that a pod of this node has, fetched when first wanted, renewed at half
//! life, dropped some time after nobody wants it any more.
//!
//! ```text
//!              want()                signed                  half life
//!   (nothing) ───────▶ pending ─────────────────▶ valid ─────────────────▶ expiring
//!                         │ refused     ▲           ▲     renewed               │ not renewed
//!                         ▼             │           └───────────────────────────┤
//!                       failed ─────────┘ signed                                ▼
//!                         (asked again, ever more slowly)                    expired
//! ```
//!
//! One task per identity (`rotation`) is the only writer of its slot. Invariants: a failed renewal never takes a valid
//! certificate away; a certificate that has expired is never handed out; a private key is on disk only while its
//! identity is wanted, and only where a directory was given.
//!
//! Not here: the wire to the authority ([`Signer`]), and which identities are wanted.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use mesh_model::Identity;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::certificate::CertError;
use crate::disk::DiskError;
use crate::roots::Roots;
use crate::tls::TlsError;

mod entry;
mod rotation;
mod status;
mod store;

pub use entry::Entry;
pub use status::{CertState, CertStatus};
use store::Store;

#[cfg(test)]
mod tests;

/// Has a request signed: the control connection, or an authority in the same process.
pub trait Signer: Send + Sync {
    /// Sends `csr_pem`, returns the chain for `identity` as PEM, leaf first. Dropped when it takes too long
    /// ([`RotationConfig::sign_timeout`]).
    fn sign(&self, identity: Identity, csr_pem: String) -> BoxFuture<'static, Result<String, SignError>>;
}

/// Why a request was not signed, in the words of whoever refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignError(pub String);

/// How certificates are renewed and kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RotationConfig {
    /// Renew when this part of the lifetime is over (0 to 1). Later leaves less time for a controller to come back.
    pub renew_at: f64,
    /// Spread renewals over this part of the lifetime, half before and half after `renew_at`, so that the pods of a
    /// node that started together do not all ask at once.
    pub jitter: f64,
    /// How long to wait after the first failure; doubled with each further one.
    pub retry_min: Duration,
    /// The longest wait between two attempts.
    pub retry_max: Duration,
    /// How long one attempt may take.
    pub sign_timeout: Duration,
    /// How long a certificate that nobody wants any more is kept, for the pod that comes back.
    pub linger: Duration,
    /// How many client configurations (one per peer identity) are kept for one certificate. About 10 KiB each.
    pub client_configs: usize,
    /// Where certificates and keys outlive the process (mode 0700; memory-backed, such as `/run/weft/certs`). `None`:
    /// nowhere.
    pub state_dir: Option<PathBuf>,
    /// Where they outlive the node's memory as well, if that is wanted ([`Keyring::keep_on_disk`]). What an earlier
    /// process kept there is read in any case.
    pub disk_dir: Option<PathBuf>,
    /// After the first of the trust anchors became another one, certificates are renewed spread over this time.
    pub spread: Duration,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self {
            renew_at: 0.5,
            jitter: 0.1,
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(30),
            sign_timeout: Duration::from_secs(15),
            linger: Duration::from_secs(60),
            client_configs: 512,
            state_dir: None,
            disk_dir: None,
            spread: Duration::from_secs(10),
        }
    }
}

/// What goes wrong with the keyring itself, or with one attempt to get a certificate.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The directory for certificates cannot be used.
    #[error("cannot keep certificates there: give the agent a directory of its own, of mode 0700")]
    StateDir(#[source] DiskError),
    /// The directory for keys on disk cannot be used.
    #[error("cannot keep keys on disk there: give the agent a directory of its own, of mode 0700")]
    Disk(#[source] DiskError),
    /// Keys are to be kept on disk, and there is no place.
    #[error("keys are to be kept on disk, and the agent was given no directory for that")]
    NoDisk,
    /// Nobody called [`Keyring::want`] for it, or its last [`Wanted`] was dropped.
    #[error("no pod of this node has the identity {0}")]
    NotWanted(Identity),
    /// The authority refused, or could not be asked.
    #[error("the authority did not sign")]
    Sign(#[source] SignError),
    /// No answer.
    #[error("the authority did not answer within {0:?}")]
    Timeout(Duration),
    /// What came back cannot be used, or no key could be made.
    #[error("the certificate cannot be used")]
    Certificate(#[source] CertError),
    /// No TLS configuration can be made of it.
    #[error("no TLS configuration can be made of the certificate")]
    Tls(#[source] TlsError),
}

/// The store of certificates; clones share it. When the last clone and the last [`Wanted`] are gone, its tasks end.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<Shared>,
}

struct Shared {
    /// A plain lock: held for map operations only, never across an await. Also guards every change of a slot's `uses`.
    slots: Mutex<HashMap<Identity, Held>>,
    core: Arc<Core>,
}

/// What the tasks need as well, without keeping the map alive.
struct Core {
    signer: Arc<dyn Signer>,
    /// Held for reading while an entry is made and put into its slot, so that no entry with older roots appears after
    /// new ones were set.
    roots: RwLock<Roots>,
    config: RotationConfig,
    store: Option<Store>,
    /// The second store, while there is one. Held for a look, or while keys are put there or taken away.
    disk: Mutex<Option<Store>>,
    /// Requests that were signed, and that were not.
    signed: AtomicU64,
    failed: AtomicU64,
    /// Counted up to have every task look again at once.
    nudge: watch::Sender<u64>,
    /// Numbers entries: no two are alike, whatever the identity.
    generation: AtomicU64,
}

struct Held {
    slot: Arc<Slot>,
    task: AbortHandle,
}

/// The state of one identity, written by its task.
struct Slot {
    identity: Identity,
    uses: watch::Sender<Uses>,
    entry: watch::Sender<Option<Arc<Entry>>>,
    note: Mutex<Note>,
}

#[derive(Clone, Copy, Debug)]
struct Uses {
    count: usize,
    /// When the last use ended.
    idle_since: Instant,
}

#[derive(Clone, Debug, Default)]
struct Note {
    last_error: Option<String>,
    renew_at: Option<SystemTime>,
    /// When it is asked for next: at its renewal, or sooner after a failure.
    next: Option<SystemTime>,
}

/// How many requests there were since the keyring was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// They brought a certificate.
    pub signed: u64,
    /// They did not.
    pub failed: u64,
}

/// Keeps an identity's certificate fetched and fresh while it lives.
#[must_use = "the certificate is given up when this is dropped"]
pub struct Wanted {
    keyring: Keyring,
    slot: Arc<Slot>,
}

impl Keyring {
    /// Makes an empty keyring, and the directory where there is to be one.
    pub fn new(signer: Arc<dyn Signer>, roots: Roots, config: RotationConfig) -> Result<Self, KeyringError> {
        let store = config.state_dir.clone().map(Store::open).transpose().map_err(KeyringError::StateDir)?;
        // There is such a directory only where an earlier process was told to keep keys on disk.
        let kept = config.disk_dir.clone().filter(|dir| dir.is_dir()).map(Store::open).transpose();
        let disk = kept.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "ignored the keys that were kept on disk");
            None
        });
        let core = Core {
            signer,
            roots: RwLock::new(roots),
            config,
            store,
            disk: Mutex::new(disk),
            signed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            nudge: watch::Sender::new(0),
            generation: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(Shared { slots: Mutex::default(), core: Arc::new(core) }) })
    }

    /// Says that a pod of this node has `identity`. Counted: the certificate is kept until every [`Wanted`] is dropped
    /// (and [`RotationConfig::linger`] has passed). Returns at once; see [`Self::ready`].
    ///
    /// # Panics
    /// Outside a Tokio runtime: the certificate is fetched by a task.
    pub fn want(&self, identity: &Identity) -> Wanted {
        let mut slots = self.shared.slots();
        let held = slots.entry(identity.clone()).or_insert_with(|| {
            let slot = Arc::new(Slot::new(identity.clone()));
            let weak = Arc::downgrade(&self.shared);
            let task = tokio::spawn(rotation::keep(Arc::clone(&slot), Arc::clone(&self.shared.core), weak));
            Held { slot, task: task.abort_handle() }
        });
        held.slot.uses.send_modify(|uses| uses.count += 1);
        Wanted { keyring: self.clone(), slot: Arc::clone(&held.slot) }
    }

    /// The certificate of a wanted identity, where there is one that is valid now.
    pub fn certificate(&self, identity: &Identity) -> Option<Arc<Entry>> {
        self.slot(identity)?.valid_entry()
    }

    /// Waits until there is a valid certificate. Put a timeout around it.
    pub async fn ready(&self, identity: &Identity) -> Result<Arc<Entry>, KeyringError> {
        let gone = || KeyringError::NotWanted(identity.clone());
        let mut entries = self.watch(identity).ok_or_else(gone)?;
        loop {
            let entry = entries.borrow_and_update().clone();
            if let Some(entry) = entry.filter(|e| e.certificate().is_valid_at(SystemTime::now())) {
                return Ok(entry);
            }
            entries.changed().await.map_err(|_| gone())?;
        }
    }

    /// Follows an identity's certificate: a new [`Entry`] at each renewal and at each change of the roots. What is in
    /// it may have expired.
    pub fn watch(&self, identity: &Identity) -> Option<watch::Receiver<Option<Arc<Entry>>>> {
        Some(self.slot(identity)?.entry.subscribe())
    }

    /// What to dial with as `identity` to reach `expected`. Kept per certificate and peer, so that sessions are
    /// resumed; `None` while there is no valid certificate.
    pub fn client_config(&self, identity: &Identity, expected: &Identity) -> Option<Arc<ClientConfig>> {
        let entry = self.certificate(identity)?;
        entry
            .client_config(expected)
            .inspect_err(|error| tracing::error!(%identity, %expected, %error, "no client configuration"))
            .ok()
    }

    /// The trust anchors in force.
    pub fn roots(&self) -> Roots {
        self.shared.core.roots().clone()
    }

    /// Believes other anchors from now on: every entry is made anew (same certificate, new generation), a certificate that
    /// does not lead to them is renewed at once, and one that does not lead to the first of them before long.
    pub fn replace_roots(&self, roots: Roots) {
        let core = &self.shared.core;
        let mut current = core.roots.write().unwrap_or_else(PoisonError::into_inner);
        if *current == roots {
            return;
        }
        *current = roots;
        for held in self.shared.slots().values() {
            let Some(old) = held.slot.entry.borrow().clone() else { continue };
            match core.make_entry(old.certificate().clone(), &current) {
                Ok(entry) => drop(held.slot.entry.send_replace(Some(entry))),
                Err(error) => {
                    tracing::error!(identity = %held.slot.identity, %error, "kept the old trust anchors");
                }
            }
        }
        drop(current);
        self.nudge();
    }

    /// Asks again at once for every certificate that is missing or overdue: the controller is back.
    pub fn nudge(&self) {
        self.shared.core.nudge.send_modify(|count| *count += 1);
    }

    /// Has certificates and keys outlive the node's memory, too, in [`RotationConfig::disk_dir`]; or no longer: what is
    /// there is removed. Blocks for as long as the disk takes.
    pub fn keep_on_disk(&self, keep: bool) -> Result<(), KeyringError> {
        let core = &self.shared.core;
        let mut disk = core.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if disk.is_some() == keep {
            return Ok(());
        }
        if let Some(store) = disk.take() {
            return store.destroy().map_err(KeyringError::Disk);
        }
        let dir = core.config.disk_dir.clone().ok_or(KeyringError::NoDisk)?;
        let store = Store::open(dir).map_err(KeyringError::Disk)?;
        let slots: Vec<_> = self.shared.slots().values().map(|held| Arc::clone(&held.slot)).collect();
        for entry in slots.iter().filter_map(|slot| slot.valid_entry()) {
            if let Err(error) = store.save(entry.certificate()) {
                tracing::warn!(identity = %entry.certificate().identity(), %error, "certificate not kept on disk");
            }
        }
        *disk = Some(store);
        Ok(())
    }

    /// How many requests there were.
    pub fn attempts(&self) -> Attempts {
        let core = &self.shared.core;
        Attempts { signed: core.signed.load(Ordering::Relaxed), failed: core.failed.load(Ordering::Relaxed) }
    }

    /// Every wanted identity and how its certificate is, sorted by identity.
    pub fn status(&self) -> Vec<CertStatus> {
        let now = SystemTime::now();
        let slots: Vec<_> = self.shared.slots().values().map(|held| Arc::clone(&held.slot)).collect();
        let mut status: Vec<_> = slots.iter().map(|slot| slot.status(now)).collect();
        status.sort_by(|a, b| a.identity.cmp(&b.identity));
        status
    }

    /// When the certificate of each wanted identity ends or has ended, where there is or was one.
    pub fn expiries(&self) -> Vec<(Identity, SystemTime)> {
        let slots: Vec<_> = self.shared.slots().values().map(|held| Arc::clone(&held.slot)).collect();
        let ends = |slot: &Slot| slot.entry.borrow().as_ref().map(|entry| entry.certificate().not_after());
        slots.iter().filter_map(|slot| Some((slot.identity.clone(), ends(slot)?))).collect()
    }

    /// Removes kept certificates of identities that nobody wants: pods that left while the agent was down. To be called
    /// once every pod of the node is known. Returns how many there were.
    pub fn sweep(&self) -> Result<usize, DiskError> {
        let stores = self.shared.core.stores();
        // With the lock held: a `want` that comes now finds its file either kept or never read.
        let slots = self.shared.slots();
        let wanted: HashSet<&Identity> = slots.keys().collect();
        let mut removed = 0;
        for store in stores {
            removed += store.sweep(&wanted)?;
        }
        Ok(removed)
    }

    fn slot(&self, identity: &Identity) -> Option<Arc<Slot>> {
        self.shared.slots().get(identity).map(|held| Arc::clone(&held.slot))
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<Identity, Held>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the slot out of the map, unless somebody wants it again.
    fn forget_if_unused(&self, slot: &Slot) -> bool {
        let mut slots = self.slots();
        if slot.uses.borrow().count > 0 {
            return false;
        }
        slots.remove(&slot.identity);
        for store in self.core.stores() {
            if let Err(error) = store.remove(&slot.identity) {
                tracing::warn!(identity = %slot.identity, %error, "a certificate that nobody wants stays on disk");
            }
        }
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for held in self.slots().values() {
            held.task.abort();
        }
    }
}

impl Core {
    fn roots(&self) -> std::sync::RwLockReadGuard<'_, Roots> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where certificates are kept: in memory first.
    fn stores(&self) -> Vec<Store> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.store.clone().into_iter().chain(disk).collect()
    }

    fn make_entry(&self, certificate: crate::Certificate, roots: &Roots) -> Result<Arc<Entry>, TlsError> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        Entry::new(generation, certificate, roots.clone(), self.config.client_configs).map(Arc::new)
    }
}

impl Slot {
    fn new(identity: Identity) -> Self {
        Self {
            identity,
            uses: watch::Sender::new(Uses { count: 0, idle_since: Instant::now() }),
            entry: watch::Sender::new(None),
            note: Mutex::default(),
        }
    }

    fn valid_entry(&self) -> Option<Arc<Entry>> {
        self.entry.borrow().clone().filter(|e| e.certificate().is_valid_at(SystemTime::now()))
    }

    fn note(&self) -> MutexGuard<'_, Note> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// The identity that is kept.
    pub fn identity(&self) -> &Identity {
        &self.slot.identity
    }

    /// Its certificate, where there is one that is valid now.
    pub fn certificate(&self) -> Option<Arc<Entry>> {
        self.slot.valid_entry()
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        // The lock orders this against `want` and `forget_if_unused`.
        let _slots = self.keyring.shared.slots();
        self.slot.uses.send_modify(|uses| {
            uses.count -= 1;
            uses.idle_since = Instant::now();
        });
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("identities", &self.shared.slots().len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wanted").field(&self.slot.identity).finish()
    }
}
