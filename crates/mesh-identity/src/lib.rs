//! Certificates for SPIFFE identities: keys, requests, the authority that signs them, the agent's store of them, and the
//! TLS configurations that are made of them.
//!
//! ```text
//!   agent                                              controller
//!   Keyring ── KeyRequest (key stays here) ── CSR ──▶  Authority::sign
//!      │                                                   │
//!      ◀──────────────── chain ────────────────────────────┘
//!      │
//!      ├─ Entry::server_config ─▶ tls::server_config   what comes in on 15008
//!      └─ Keyring::client_config ─▶ tls::client_config  what the agent dials
//! ```
//!
//! Invariants: a private key leaves the process only for a file of mode 0600; the identity that is signed is the one the
//! caller authorised, never the one a request claims; a peer is believed only after its chain was verified, and then by
//! its one URI SAN; TLS is 1.3 with ALPN `h2` everywhere.
//!
//! Not here: who may have which identity (`mesh-controller`), who may talk to whom (`mesh-model`), the wire on which a
//! request travels (`mesh-xds`), and revocation: certificates are short-lived instead.

mod authority;
mod certificate;
mod disk;
mod keyring;
mod request;
mod roots;
pub mod tls;
mod x509;

#[cfg(test)]
mod fixtures;

pub use authority::{
    Authority, AuthorityError, AuthorityPem, BuiltinAuthority, CsrError, LiveAuthority, Named, SignedChain,
};
pub use certificate::{CertError, Certificate, ServerCertificate};
pub use disk::DiskError;
pub use keyring::{
    Attempts, CertState, CertStatus, Entry, Keyring, KeyringError, RotationConfig, SignError, Signer, Wanted,
};
pub use request::KeyRequest;
pub use roots::{RootInfo, Roots, RootsError};
pub use tls::{PeerError, TlsError};
pub use x509::{Malformed, SanError};
