//! The authority that is built in: a key and a root, made at the controller's first start (on its disk; in Kubernetes in a
//! Secret, which is the controller's to read and write) or given by the operator.
//!
//! ```text
//!   neither file ──▶ write ca.key ──▶ write root.pem ──▶ open
//!                        │ crash                          ▲
//!                        └── ca.key alone ── make the root of it
//! ```
//!
//! The key is written first: with the key alone nothing was ever published, so the root is made of it then. A root
//! without its key is an error, as agents already trust it. Both steps run under a lock on the directory.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mesh_model::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;
use webpki::KeyUsage;

use super::given::{AuthorityPem, Given, Named};
use super::{Authority, AuthorityError, SignedChain, csr};
use crate::certificate::ServerCertificate;
use crate::disk;
use crate::roots::{Roots, pem_blocks};
use crate::tls;
use crate::x509::{Facts, hex};

const KEY_FILE: &str = "ca.key";
const ROOT_FILE: &str = "root.pem";
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// For clocks that are behind the controller's.
const BACK_DATE: Duration = Duration::from_secs(600);

/// A certificate authority whose key this process has.
pub struct BuiltinAuthority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    /// What follows a leaf in its chain: empty where the issuer is itself the root.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Roots,
    /// The issuer's own end: nothing signed outlives it.
    not_after: SystemTime,
}

impl BuiltinAuthority {
    /// Opens the authority in `state_dir` (`ca.key`, `root.pem`), or makes it: ECDSA P-256, ten years.
    pub fn open_or_create(state_dir: &Path, trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let (key_path, root_path) = (state_dir.join(KEY_FILE), state_dir.join(ROOT_FILE));
        if !state_dir.exists() {
            disk::private_dir(state_dir)?;
        }
        // Two controllers that start on one directory must not make two authorities. Freed when the file is dropped.
        let lock = File::open(state_dir).map_err(disk::failed("open", state_dir))?;
        lock.lock().map_err(disk::failed("lock", state_dir))?;
        if !key_path.exists() {
            if root_path.exists() {
                return Err(AuthorityError::KeyMissing { root: root_path, key: key_path });
            }
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
            disk::write_whole(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        }
        if !root_path.exists() {
            let key = disk::read_private(&key_path)?;
            let root = make_root(&read_key(&Named { name: &key_path, pem: &key })?, trust_domain)?;
            disk::write_whole(&root_path, pem_blocks("CERTIFICATE", [root.as_ref()]).as_bytes(), 0o644)?;
        }
        Self::from_files(&root_path, &key_path, trust_domain)
    }

    /// An authority that the operator gives: `cert` holds its certificate and, where that is not itself the root, each
    /// issuer up to the root, which agents are given as their anchor; every further root in it is trusted beside that.
    /// `key` must not be readable by others.
    pub fn from_files(cert: &Path, key: &Path, trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let (cert_pem, key_pem) = (disk::read(cert)?, disk::read_private(key)?);
        let pem = AuthorityPem {
            cert: Named { name: cert, pem: &cert_pem },
            key: Named { name: key, pem: &key_pem },
            roots: None,
        };
        Self::from_pem(&pem, trust_domain)
    }

    /// The same from memory. Everything is checked before anything is signed.
    pub fn from_pem(pem: &AuthorityPem<'_>, trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let Given { issuing, facts, above, trusted } = pem.read()?;
        let path = || pem.cert.name.to_owned();
        let now = SystemTime::now();
        if !facts.is_valid_at(now) {
            let Facts { not_before, not_after, .. } = facts;
            return Err(AuthorityError::Validity { path: path(), not_before, not_after, now });
        }
        if !facts.may_sign {
            return Err(AuthorityError::MayNotSign { path: path() });
        }
        let wanted = format!("spiffe://{trust_domain}");
        if let Some(found) = facts.uris.iter().find(|u| u.starts_with("spiffe://") && **u != wanted) {
            let (found, wanted) = (found.clone(), trust_domain.clone());
            return Err(AuthorityError::TrustDomain { path: path(), found, wanted });
        }
        let pair = read_key(&pem.key)?;
        if pair.subject_public_key_info() != facts.public_key {
            return Err(AuthorityError::Mismatch { cert: path(), key: pem.key.name.to_owned() });
        }
        let issuer = Issuer::from_ca_cert_der(&issuing, pair).map_err(AuthorityError::Sign)?;
        // An issuer that is a root itself is not sent: peers have it.
        let intermediates = if trusted.contains(&issuing) { Vec::new() } else { above };
        let mut authority = Self {
            trust_domain: trust_domain.clone(),
            issuer,
            intermediates,
            roots: trusted.clone(),
            not_after: facts.not_after,
        };
        let own = authority.prove(&trusted).map_err(|source| match source {
            Proof::Verify(source) => AuthorityError::Unusable { path: path(), source },
            Proof::Sign(e) => e,
        })?;
        authority.roots = own.merge(&trusted);
        Ok(authority)
    }

    /// A new authority, as PEM: its root and the key. ECDSA P-256, ten years.
    pub fn generate(trust_domain: &TrustDomain) -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let root = make_root(&key, trust_domain)?;
        Ok((pem_blocks("CERTIFICATE", [root.as_ref()]), key.serialize_pem()))
    }

    /// The last moment of the authority's own certificate.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The trust domain whose identities it signs.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    fn issue(
        &self,
        subject_alt_names: Vec<SanType>,
        extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        if lifetime.is_zero() {
            return Err(AuthorityError::Request("its lifetime is zero".into()));
        }
        let now = SystemTime::now();
        let not_after = now.checked_add(lifetime).map_or(self.not_after, |end| end.min(self.not_after));
        if not_after <= now {
            return Err(AuthorityError::Ended { not_after: self.not_after });
        }
        let mut params = CertificateParams::default();
        params.not_before = (now - BACK_DATE).into();
        // DER has whole seconds: rounded down, a lifetime of one second could be over at once.
        params.not_after = OffsetDateTime::from(not_after) + Duration::from_millis(999);
        params.serial_number = Some(serial()?);
        params.subject_alt_names = subject_alt_names;
        // No subject: the SAN is then critical (RFC 5280, section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = extended_key_usages;
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer).map_err(AuthorityError::Sign)?;
        Ok([leaf.der().clone()].into_iter().chain(self.intermediates.iter().cloned()).collect())
    }

    /// Signs for nobody and verifies it: an issuer that is missing, a path length exceeded, or a name that does not survive
    /// re-encoding shows here, at start, and not in every handshake. The anchor to which it leads.
    fn prove(&self, trusted: &Roots) -> Result<Roots, Proof> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|e| Proof::Sign(AuthorityError::Sign(e)))?;
        let name = server_name("probe.invalid").map_err(Proof::Sign)?;
        let purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let chain = self.issue(vec![name], purposes, &key, Duration::from_secs(60)).map_err(Proof::Sign)?;
        let (leaf, above) = chain.split_first().ok_or(Proof::Verify(webpki::Error::BadDer))?;
        let mut refused = webpki::Error::UnknownIssuer;
        for anchor in trusted.each() {
            match anchor.verify(leaf, above, UnixTime::now(), KeyUsage::server_auth()) {
                Ok(()) => return Ok(anchor),
                // What another anchor has nothing to do with says less.
                Err(webpki::Error::UnknownIssuer) => {}
                Err(error) => refused = error,
            }
        }
        Err(Proof::Verify(refused))
    }
}

enum Proof {
    Sign(AuthorityError),
    Verify(webpki::Error),
}

impl Authority for BuiltinAuthority {
    fn sign(
        &self,
        csr_pem: &str,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<SignedChain, AuthorityError> {
        if identity.trust_domain() != &self.trust_domain {
            let (identity, trust_domain) = (identity.clone(), self.trust_domain.clone());
            return Err(AuthorityError::ForeignIdentity { identity, trust_domain });
        }
        let key = csr::verified_key(csr_pem, identity)?;
        let name = SanType::URI(identity.to_string().try_into().map_err(AuthorityError::Sign)?);
        let purposes = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let chain = self.issue(vec![name], purposes, &key, lifetime)?;
        Ok(SignedChain(pem_blocks("CERTIFICATE", chain.iter().map(AsRef::as_ref))))
    }

    fn issue_server(&self, names: &[&str], lifetime: Duration) -> Result<ServerCertificate, AuthorityError> {
        let sans = names.iter().map(|name| server_name(name)).collect::<Result<Vec<_>, _>>()?;
        if sans.is_empty() {
            return Err(AuthorityError::Request("a server certificate needs a name".into()));
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let chain = self.issue(sans, vec![ExtendedKeyUsagePurpose::ServerAuth], &key, lifetime)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerCertificate::from_parts(chain, key).map_err(AuthorityError::Result)
    }

    fn roots(&self) -> Roots {
        self.roots.clone()
    }
}

/// The root of `key`. Its name follows from the key, so that one made again of the same key is the same authority.
fn make_root(key: &KeyPair, trust_domain: &TrustDomain) -> Result<CertificateDer<'static>, AuthorityError> {
    let now = SystemTime::now();
    let uri = format!("spiffe://{trust_domain}").try_into().map_err(AuthorityError::Sign)?;
    let mut params = CertificateParams::default();
    params.not_before = (now - BACK_DATE).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.serial_number = Some(serial()?);
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let short = hex(params.key_identifier(key).get(..4).unwrap_or_default());
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("Weft root {short}"));
    params.distinguished_name = name;
    let root = params.self_signed(key).map_err(AuthorityError::Sign)?;
    Ok(root.der().clone())
}

fn read_key(key: &Named<'_>) -> Result<KeyPair, AuthorityError> {
    let bad = |source| AuthorityError::Key { path: key.name.to_owned(), source };
    let der =
        PrivateKeyDer::from_pem_slice(key.pem).map_err(|e| bad(rcgen::Error::PemError(e.to_string())))?;
    KeyPair::try_from(&der).map_err(bad)
}

fn server_name(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || AuthorityError::Request(format!("{name:?} is no DNS name or IP address"));
    rustls_pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

/// 128 random bits: a serial number that nobody can guess or meet again.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; 16];
    tls::provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| AuthorityError::Request("the system gives no random numbers".into()))?;
    Ok(SerialNumber::from_slice(&bytes))
}
