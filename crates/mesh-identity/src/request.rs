//! A key made here and the request to have it certified. The key leaves this value only into a [`Certificate`].

use std::fmt;
use std::time::SystemTime;

use mesh_model::Identity;
use rcgen::{CertificateParams, CertificateSigningRequest, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::{CertError, Certificate, chain_from_pem};
use crate::roots::pem_blocks;

#[cfg(test)]
mod tests;

/// A P-256 key and a PKCS#10 request (RFC 2986) for one identity.
pub struct KeyRequest {
    identity: Identity,
    key: KeyPair,
    csr: CertificateSigningRequest,
}

impl KeyRequest {
    /// Makes a key and signs a request for `identity` with it. Fails only where the system has no randomness.
    pub fn new(identity: &Identity) -> Result<Self, CertError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CertError::Generate)?;
        let uri = identity.to_string().try_into().map_err(CertError::Generate)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(CertError::Generate)?;
        Ok(Self { identity: identity.clone(), key, csr })
    }

    /// The identity asked for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The request as PEM (`CERTIFICATE REQUEST`).
    pub fn csr_pem(&self) -> String {
        pem_blocks("CERTIFICATE REQUEST", [self.csr_der()])
    }

    /// The request as DER.
    pub fn csr_der(&self) -> &[u8] {
        self.csr.der()
    }

    /// Takes the chain that came back (PEM, leaf first): it must be for this key and identity, and valid now. Whether
    /// it leads to a trusted root is for whoever holds the [`Roots`](crate::Roots).
    pub fn finish(self, chain_pem: &str) -> Result<Certificate, CertError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let certificate = Certificate::from_parts(chain_from_pem(chain_pem.as_bytes())?, key)?;
        if certificate.identity() != &self.identity {
            return Err(CertError::Identity { asked: self.identity, got: certificate.identity().clone() });
        }
        certificate.check_valid_at(SystemTime::now())?;
        Ok(certificate)
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").field("identity", &self.identity).finish_non_exhaustive()
    }
}
