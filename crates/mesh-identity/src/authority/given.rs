//! What an authority is given as: PEM of its certificates, its key and the other roots, sorted into who signs, what stands
//! between that and a root, and who is trusted.
//!
//! ```text
//!   cert: issuing, above …, [roots …]      issuing ── above ──▶ one of trusted
//!   roots: [roots …]                       trusted = the roots of both
//! ```
//!
//! A certificate that has issued itself is a root. Where there is none at all, the last of the chain is the anchor: an
//! operator may stop below the root. Not here: whether the parts fit each other (`builtin`).

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::AuthorityError;
use crate::roots::{Roots, RootsError};
use crate::x509::Facts;

/// Some PEM, and what it is called in errors: a file, or a key of a Secret.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its name.
    pub name: &'a Path,
    /// The text.
    pub pem: &'a [u8],
}

/// What an authority is made of.
#[derive(Clone, Copy)]
pub struct AuthorityPem<'a> {
    /// Its certificate, then each issuer up to the root; further roots may follow.
    pub cert: Named<'a>,
    /// Its private key.
    pub key: Named<'a>,
    /// Roots that are trusted, where they are apart.
    pub roots: Option<Named<'a>>,
}

/// The same, sorted.
pub(super) struct Given {
    pub(super) issuing: CertificateDer<'static>,
    /// Of the issuing certificate.
    pub(super) facts: Facts,
    /// The issuing certificate and what stands between it and a root.
    pub(super) above: Vec<CertificateDer<'static>>,
    pub(super) trusted: Roots,
}

impl AuthorityPem<'_> {
    pub(super) fn read(&self) -> Result<Given, AuthorityError> {
        let bad = |source| AuthorityError::Certificate { path: self.cert.name.to_owned(), source };
        let mut chain = CertificateDer::pem_slice_iter(self.cert.pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| bad(RootsError::Pem(e)))?;
        // Reads every certificate, and refuses one that is of no authority.
        Roots::from_ders(chain.clone()).map_err(bad)?;
        let facts = |der: &CertificateDer<'_>| {
            Facts::read(der).map_err(|source| bad(RootsError::Malformed { number: 1, source }))
        };
        let issuing = chain.first().cloned().ok_or_else(|| bad(RootsError::Empty))?;
        let own = facts(&issuing)?;
        let mut roots = Vec::new();
        let mut above = Vec::new();
        for der in &chain {
            let facts = facts(der)?;
            let list = if facts.subject == facts.issuer { &mut roots } else { &mut above };
            list.push(der.clone());
        }
        let apart = self.roots.map(|roots| {
            Roots::from_pem(roots.pem)
                .map_err(|source| AuthorityError::Anchors { path: roots.name.to_owned(), source })
        });
        let apart = apart.transpose()?;
        if roots.is_empty() && apart.is_none() {
            roots.extend(chain.pop());
            if above.len() > 1 {
                above.pop();
            }
        }
        let own_roots = if roots.is_empty() { None } else { Some(Roots::from_ders(roots).map_err(bad)?) };
        let trusted = match (apart, own_roots) {
            (Some(apart), Some(own)) => apart.merge(&own),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(bad(RootsError::Empty)),
        };
        Ok(Given { issuing, facts: own, above, trusted })
    }
}
