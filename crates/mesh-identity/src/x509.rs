//! What the mesh reads out of an X.509 certificate, and the one place that turns its SAN into an identity.
//!
//! Nothing here verifies a signature: that is `roots` (chains) and `authority` (requests).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_model::{Identity, IdentityError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

#[cfg(test)]
mod tests;

/// Bytes that are no X.509 certificate, or one with an extension that cannot be read. Holds what the parser said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a readable X.509 certificate: {0}")]
pub struct Malformed(pub(crate) String);

/// Why a certificate's subject alternative names give no mesh identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SanError {
    /// No URI SAN at all: a certificate of something else.
    #[error("the certificate has no URI SAN, so it names no workload")]
    Missing,
    /// A SPIFFE certificate has exactly one (X509-SVID, section 2).
    #[error("the certificate has {0} URI SANs where exactly one is allowed")]
    Several(usize),
    /// The URI is not of the form that the mesh issues.
    #[error("the certificate's URI SAN is no identity of the mesh")]
    Bad(#[source] IdentityError),
}

/// The fields of a certificate that the mesh uses, owned.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Lower-case hex, without the sign byte of DER.
    pub(crate) serial: String,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Every URI SAN, in order.
    pub(crate) uris: Vec<String>,
    /// CA:TRUE in the basic constraints.
    pub(crate) is_ca: bool,
    /// May sign certificates: the key usage says so, or there is none.
    pub(crate) may_sign: bool,
    /// DER of the SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
}

impl Facts {
    pub(crate) fn read(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, cert) = X509Certificate::from_der(der).map_err(|e| Malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(Malformed(format!("{} bytes after its end", rest.len())));
        }
        let san = cert.subject_alternative_name().map_err(|e| Malformed(e.to_string()))?;
        let uris = san.map_or_else(Vec::new, |san| uri_names(&san.value.general_names));
        let constraints = cert.basic_constraints().map_err(|e| Malformed(e.to_string()))?;
        let usage = cert.key_usage().map_err(|e| Malformed(e.to_string()))?;
        Ok(Self {
            serial: hex(cert.raw_serial()),
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            not_before: system_time(cert.validity().not_before),
            not_after: system_time(cert.validity().not_after),
            uris,
            is_ca: constraints.is_some_and(|c| c.value.ca),
            may_sign: usage.is_none_or(|u| u.value.key_cert_sign()),
            public_key: cert.public_key().raw.to_vec(),
        })
    }

    /// The identity in the one URI SAN. Other kinds of SAN do not matter (X509-SVID, section 2).
    pub(crate) fn identity(&self) -> Result<Identity, SanError> {
        match self.uris.as_slice() {
            [] => Err(SanError::Missing),
            [uri] => uri.parse().map_err(SanError::Bad),
            several => Err(SanError::Several(several.len())),
        }
    }

    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The URIs among some general names.
pub(crate) fn uri_names(names: &[GeneralName<'_>]) -> Vec<String> {
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
        .collect()
}

/// RFC 3339 in UTC with whole seconds, as in logs, errors and JSON.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.unix_timestamp().to_string())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    // DER puts a zero byte before a number whose top bit is set: it is no part of the number.
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of a certificate's DER, lower-case hex.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    // The first byte is kept though it be zero: this is no number.
    let digest = Sha256::digest(der);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn system_time(at: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(at.timestamp().unsigned_abs());
    if at.timestamp() < 0 { UNIX_EPOCH - seconds } else { UNIX_EPOCH + seconds }
}
