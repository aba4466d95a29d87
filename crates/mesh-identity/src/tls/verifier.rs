//! The verifier for both sides of mutual TLS: first the chain, then the name. Nothing is said about who a peer is before
//! its chain was verified.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_model::{Identity, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::peer::{PeerError, refuse};
use crate::roots::Roots;
use crate::x509::Facts;

/// Who is accepted among those whose chain is good.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A client knows whom it dials.
    AnyOf(Vec<Identity>),
    /// A server takes any workload of its own trust domain; policy decides about it later.
    Domain(TrustDomain),
}

#[derive(Debug)]
pub(super) struct PeerVerifier {
    roots: Roots,
    accepted: Accepted,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(roots: Roots, accepted: Accepted) -> Self {
        let algorithms = super::provider().signature_verification_algorithms;
        Self { roots, accepted, algorithms }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), PeerError> {
        self.roots
            .verify(leaf, intermediates, now, usage)
            .map_err(|e| chain_error(e, leaf, intermediates, now))?;
        let facts = Facts::read(leaf).map_err(PeerError::Malformed)?;
        let got = facts.identity()?;
        match &self.accepted {
            Accepted::AnyOf(expected) if !expected.contains(&got) => {
                Err(PeerError::Unexpected { expected: expected.clone(), got })
            }
            Accepted::Domain(expected) if got.trust_domain() != expected => {
                Err(PeerError::TrustDomain { expected: expected.clone(), got })
            }
            Accepted::AnyOf(_) | Accepted::Domain(_) => Ok(()),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }
}

/// Turns webpki's word about time into one with all three times in it; passes on any other.
fn chain_error(
    error: webpki::Error,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> PeerError {
    use webpki::Error::{CertExpired, CertNotValidYet};
    if !matches!(error, CertExpired { .. } | CertNotValidYet { .. }) {
        return PeerError::Chain(error);
    }
    let now = system_time(now);
    // webpki does not say which certificate of the chain it was.
    [leaf]
        .into_iter()
        .chain(intermediates)
        .filter_map(|der| Facts::read(der).ok())
        .find_map(|facts| PeerError::check_validity(&facts, now).err())
        .unwrap_or(PeerError::Chain(error))
}

fn system_time(at: UnixTime) -> SystemTime {
    UNIX_EPOCH + std::time::Duration::from_secs(at.as_secs())
}

/// rustls asks for a TLS 1.2 verifier even where only 1.3 is enabled.
fn only_tls13() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::server_auth()).map_err(refuse)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    /// None: a client of the mesh has one certificate, and a list of authorities would only cost bytes.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now, KeyUsage::client_auth()).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
