//! The task that keeps one identity's certificate: fetch, wait for half life, fetch again; after a failure wait longer
//! each time and keep what there is.
//!
//! Waiting goes by two clocks, whichever says so first: the monotonic one, which no administrator can set back, and the
//! wall clock, which goes on while the machine is suspended and is what certificates are judged by.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;
use tokio::time::{Instant, sleep_until, timeout};
use webpki::KeyUsage;

use super::{Core, KeyringError, Shared, Slot};
use crate::certificate::{CertError, Certificate};
use crate::request::KeyRequest;
use crate::roots::Roots;
use crate::tls;

/// After a certificate that does not lead to the first anchor was signed though there is one; four times as long each time.
const STRAY: Duration = Duration::from_secs(15);
/// How often the wall clock is looked at while waiting.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Due {
    wall: SystemTime,
    monotonic: Instant,
}

impl Due {
    fn after(delay: Duration) -> Self {
        Self { wall: SystemTime::now() + delay, monotonic: Instant::now() + delay }
    }

    /// Whichever comes first.
    fn or(self, other: Self) -> Self {
        if other.monotonic < self.monotonic { other } else { self }
    }

    async fn wait(self) {
        while Instant::now() < self.monotonic && SystemTime::now() < self.wall {
            sleep_until(self.monotonic.min(Instant::now() + CLOCK_CHECK)).await;
        }
    }
}

pub(super) async fn keep(slot: Arc<Slot>, core: Arc<Core>, shared: Weak<Shared>) {
    let mut uses = slot.uses.subscribe();
    let mut nudge = core.nudge.subscribe();
    let mut failures = 0_u32;
    // Certificates in a row that do not lead to the first anchor.
    let mut strays = 0_u32;
    let mut due = match core.load(&slot).await {
        Some(certificate) => core.accept_kept(&slot, certificate),
        None => Due::after(Duration::ZERO),
    };
    loop {
        let now = *uses.borrow_and_update();
        if now.count == 0 {
            // Nobody wants it: no renewal, which the authority would refuse anyway.
            tokio::select! {
                _ = uses.changed() => {}
                () = sleep_until(now.idle_since + core.config.linger) => {
                    if shared.upgrade().is_none_or(|shared| shared.forget_if_unused(&slot)) {
                        return;
                    }
                }
            }
            continue;
        }
        tokio::select! {
            () = due.wait() => {}
            _ = uses.changed() => continue,
            _ = nudge.changed() => {
                if failures == 0 && core.is_trusted_and_valid(&slot) {
                    if !core.leads_to_first(&slot) {
                        due = due.or(Due::after(core.config.spread.mul_f64(random())));
                        slot.note().next = Some(due.wall);
                    }
                    continue;
                }
            }
        }
        match core.attempt(&slot).await {
            Ok(certificate) => {
                failures = 0;
                due = core.renewal(certificate.not_after());
                slot.note().renew_at = Some(due.wall);
                // A replica of the controller that has not heard of the new signer, perhaps.
                strays = if core.leads_to_first(&slot) { 0 } else { strays.saturating_add(1) };
                if strays > 0 {
                    due = due.or(Due::after(STRAY.saturating_mul(4_u32.saturating_pow(strays - 1))));
                }
                slot.note().last_error = None;
                slot.note().next = Some(due.wall);
                core.signed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(identity = %slot.identity, serial = certificate.serial(), "certificate signed");
                core.keep_on_disk(&slot, certificate).await;
            }
            Err(error) => {
                let error = chain(&error);
                due = Due::after(core.backoff(failures));
                failures = failures.saturating_add(1);
                tracing::warn!(
                    identity = %slot.identity, attempt = failures, %error,
                    has_valid = slot.valid_entry().is_some(), "no certificate"
                );
                slot.note().last_error = Some(error);
                slot.note().next = Some(due.wall);
                core.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Core {
    /// One request, from a new key to the entry in its slot.
    async fn attempt(&self, slot: &Slot) -> Result<Certificate, KeyringError> {
        let request = KeyRequest::new(&slot.identity).map_err(KeyringError::Certificate)?;
        let signing = self.signer.sign(slot.identity.clone(), request.csr_pem());
        let chain = timeout(self.config.sign_timeout, signing)
            .await
            .map_err(|_| KeyringError::Timeout(self.config.sign_timeout))?
            .map_err(KeyringError::Sign)?;
        let certificate = request.finish(&chain).map_err(KeyringError::Certificate)?;
        self.install(slot, certificate.clone())?;
        Ok(certificate)
    }

    /// Puts a certificate that leads to the roots into its slot.
    fn install(&self, slot: &Slot, certificate: Certificate) -> Result<(), KeyringError> {
        let roots = self.roots();
        leads_to(&roots, &certificate).map_err(KeyringError::Certificate)?;
        let entry = self.make_entry(certificate, &roots).map_err(KeyringError::Tls)?;
        slot.entry.send_replace(Some(entry));
        Ok(())
    }

    /// What an earlier process kept, where it is of any use: in memory, else on disk.
    async fn load(&self, slot: &Slot) -> Option<Certificate> {
        for store in self.stores() {
            let identity = slot.identity.clone();
            let loaded = tokio::task::spawn_blocking(move || store.load(&identity)).await.ok()?;
            let usable = match loaded {
                Ok(None) => continue,
                Ok(Some(certificate)) => certificate
                    .check_valid_at(SystemTime::now())
                    .map_err(KeyringError::Certificate)
                    .and_then(|()| self.install(slot, certificate.clone()))
                    .map(|()| certificate)
                    .map_err(|error| chain(&error)),
                Err(error) => Err(chain(&error)),
            };
            match usable {
                Ok(certificate) => return Some(certificate),
                Err(error) => {
                    tracing::warn!(identity = %slot.identity, error, "ignored a kept certificate");
                }
            }
        }
        None
    }

    /// When to renew a certificate that was kept: when it was received is not known, so half of its whole life counts.
    fn accept_kept(&self, slot: &Slot, certificate: Certificate) -> Due {
        let life = certificate.not_after().duration_since(certificate.not_before()).unwrap_or_default();
        let renew_at = certificate.not_before() + life.mul_f64(self.renewal_part());
        let delay = renew_at.duration_since(SystemTime::now()).unwrap_or_default();
        let mut due = Due::after(delay);
        slot.note().renew_at = Some(due.wall);
        if !self.leads_to_first(slot) {
            due = due.or(Due::after(self.config.spread.mul_f64(random())));
        }
        slot.note().next = Some(due.wall);
        due
    }

    /// When to renew a certificate that was just signed. From now on and not from its first moment, which is back-dated
    /// by more than a short lifetime.
    fn renewal(&self, not_after: SystemTime) -> Due {
        let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        Due::after(left.mul_f64(self.renewal_part()))
    }

    /// `renew_at` with jitter, kept within the lifetime whatever the configuration says.
    fn renewal_part(&self) -> f64 {
        let part = self.config.renew_at + self.config.jitter * (random() - 0.5);
        if part.is_finite() { part.clamp(0.05, 0.95) } else { 0.5 }
    }

    fn backoff(&self, failures: u32) -> Duration {
        let doubled = self.config.retry_min.saturating_mul(2_u32.saturating_pow(failures));
        doubled.min(self.config.retry_max).mul_f64(1.0 + 0.25 * random()).min(self.config.retry_max)
    }

    fn is_trusted_and_valid(&self, slot: &Slot) -> bool {
        slot.valid_entry().is_some_and(|entry| leads_to(entry.roots(), entry.certificate()).is_ok())
    }

    /// The anchor that it leads to is the one that signs now. Of what there is none of that is not asked.
    fn leads_to_first(&self, slot: &Slot) -> bool {
        slot.valid_entry().is_none_or(|entry| {
            let roots = entry.roots();
            roots.len() < 2 || leads_to(&roots.first(), entry.certificate()).is_ok()
        })
    }

    async fn keep_on_disk(&self, slot: &Slot, certificate: Certificate) {
        for store in self.stores() {
            let certificate = certificate.clone();
            let saved = tokio::task::spawn_blocking(move || store.save(&certificate)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(identity = %slot.identity, error = chain(&error), "certificate not kept on disk");
            }
        }
    }
}

/// Whether peers with these roots will take the certificate, as a client and as a server.
fn leads_to(roots: &Roots, certificate: &Certificate) -> Result<(), CertError> {
    let (leaf, intermediates) = certificate.chain().split_first().ok_or(CertError::Empty)?;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        roots.verify(leaf, intermediates, UnixTime::now(), usage).map_err(CertError::Untrusted)?;
    }
    Ok(())
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Between 0 and 1. Without randomness in the middle, which only costs the spread.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match tls::provider().secure_random.fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
