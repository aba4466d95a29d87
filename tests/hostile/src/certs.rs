//! Certificates as a hostile peer would like them: by the mesh's own authority, whose key the lab has, or by another.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use lab::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);

/// An authority that signs anything.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Leaf {
    names: Vec<SanType>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
    from: SystemTime,
    to: SystemTime,
}

/// A certificate with its key, to be shown.
#[derive(Debug)]
pub struct Shown {
    /// The leaf alone: both kinds of authority are roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key, or another one.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Ca {
    /// The mesh's own, by the key in the controller's state directory.
    pub fn of_mesh(lab: &Lab) -> Result<Self> {
        let root = lab.controller().root_cert();
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let key = KeyPair::from_pem(&read(&root.with_file_name("ca.key"))?)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&read(&root)?, key)? })
    }

    /// One that nobody in the mesh has heard of.
    pub fn another() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Somebody else's root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self { issuer: Issuer::new(params, KeyPair::generate()?) })
    }

    /// Signs.
    pub fn sign(&self, leaf: &Leaf) -> Result<Shown> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.clone_from(&leaf.names);
        (params.not_before, params.not_after) = (leaf.from.into(), leaf.to.into());
        params.extended_key_usages.clone_from(&leaf.purposes);
        let chain = vec![params.signed_by(&key, &self.issuer)?.der().clone()];
        Ok(Shown { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }
}

impl Leaf {
    /// Valid now, for both sides, with these URIs.
    pub fn of(uris: &[&str]) -> Result<Self> {
        let uri = |uri: &&str| Ok(SanType::URI((*uri).try_into()?));
        Ok(Self {
            names: uris.iter().map(uri).collect::<Result<_>>()?,
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            from: SystemTime::now() - HOUR,
            to: SystemTime::now() + HOUR,
        })
    }

    /// With a DNS name beside the URIs.
    pub fn dns(mut self, name: &str) -> Result<Self> {
        self.names.push(SanType::DnsName(name.try_into()?));
        Ok(self)
    }

    /// For servers alone.
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Over since an hour.
    #[must_use]
    pub fn expired(mut self) -> Self {
        (self.from, self.to) = (SystemTime::now() - 3 * HOUR, SystemTime::now() - HOUR);
        self
    }

    /// Not begun.
    #[must_use]
    pub fn of_tomorrow(mut self) -> Self {
        (self.from, self.to) = (SystemTime::now() + 24 * HOUR, SystemTime::now() + 25 * HOUR);
        self
    }
}

/// The first moment of a certificate: the first UTCTime in it (RFC 5280, section 4.1.2.5.1).
pub fn not_before(der: &[u8]) -> Option<SystemTime> {
    let at = der.windows(2).position(|two| two == [0x17, 13])?;
    let text = std::str::from_utf8(der.get(at + 2..at + 14)?).ok()?;
    let mut pairs = (0..6).map(|n| text.get(2 * n..2 * n + 2).and_then(|two| two.parse::<u64>().ok()));
    let mut next = || pairs.next().flatten();
    let (year, month, day) = (2000 + next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    // Days since the epoch, counted from March so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_certificates_first_moment_is_read() {
        let shown = Ca::another().unwrap().sign(&Leaf::of(&["spiffe://a.test/b"]).unwrap()).unwrap();
        let age = SystemTime::now().duration_since(not_before(&shown.chain[0]).unwrap()).unwrap();
        assert!((3600..3660).contains(&age.as_secs()), "{age:?}");
    }
}
