//! Reading a signing request: the key, once its holder has proved to have it.

use mesh_model::Identity;
use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// A request with one P-384 key and one name has about a kilobyte.
const MAX_CSR: usize = 16 << 10;

/// Why a signing request is refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Not a PKCS#10 request in PEM.
    #[error("it is not a PKCS#10 request in PEM: {0}")]
    Encoding(String),
    /// Not signed by the key that it carries: changed on the way, or the sender does not have the key.
    #[error("it is not signed by the key in it")]
    Signature,
    /// A kind of key that the mesh does not certify.
    #[error("its key is not ECDSA P-256 or P-384")]
    Key,
    /// It names something else than what its sender may have.
    #[error("it asks for {asked}, which is not {allowed}")]
    Names {
        /// The names in it.
        asked: String,
        /// The one that it may carry.
        allowed: Identity,
    },
}

/// The request's public key, after its signature was verified and its names, if any, were found to be `identity` alone.
pub(super) fn verified_key(csr_pem: &str, identity: &Identity) -> Result<SubjectPublicKeyInfo, CsrError> {
    if csr_pem.len() > MAX_CSR {
        return Err(CsrError::Encoding(format!("{} bytes are too many", csr_pem.len())));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|e| CsrError::Encoding(e.to_string()))?;
    let (rest, csr) =
        X509CertificationRequest::from_der(&der).map_err(|e| CsrError::Encoding(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Encoding("bytes after its end".into()));
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    let names = names(&csr)?;
    if names.iter().any(|name| *name != identity.to_string()) || names.len() > 1 {
        return Err(CsrError::Names { asked: names.join(", "), allowed: identity.clone() });
    }
    let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|_| CsrError::Key)?;
    let algorithm = rcgen::PublicKeyData::algorithm(&key);
    if algorithm != &rcgen::PKCS_ECDSA_P256_SHA256 && algorithm != &rcgen::PKCS_ECDSA_P384_SHA384 {
        return Err(CsrError::Key);
    }
    Ok(key)
}

/// Every subject alternative name in every extension request, as text: a URI bare, anything else in a form that equals
/// no identity.
fn names(csr: &X509CertificationRequest<'_>) -> Result<Vec<String>, CsrError> {
    let mut names = Vec::new();
    for attribute in csr.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else { continue };
        for extension in &request.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    names.extend(san.general_names.iter().map(|name| match name {
                        GeneralName::URI(uri) => (*uri).to_owned(),
                        other => other.to_string(),
                    }));
                }
                ParsedExtension::ParseError { .. } => {
                    return Err(CsrError::Encoding("an extension in it cannot be read".into()));
                }
                // Everything else in a request is a wish that the authority does not read.
                _ => {}
            }
        }
    }
    Ok(names)
}
